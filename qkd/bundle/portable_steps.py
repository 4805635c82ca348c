"""One operator → one call of a portable kernel, with the constants it reads as C text."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from qkd.errors import InvariantError
from qkd.graph.fixed_point import AddRescale, BiasAdd, Requantize
from qkd.graph.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Conv2dAdd,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    QuantGraph,
    Reshape,
    Value,
)
from qkd.graph.packing import pack_rows
from qkd.graph.steps import Layer, layers

CODES_PER_LINE = {"uint8_t": 20, "int8_t": 16, "int32_t": 8}  # lines of at most 104 columns

Windowed: TypeAlias = Conv2d | Conv2dAdd | DepthwiseConv2d | AveragePool2d | MaxPool2d


@dataclass(frozen=True)
class Table:
    """A const array of the weights file; `rows` are its numbers as lines of C."""

    symbol: str
    type: str
    comment: str
    count: int
    rows: str
    size_bytes: int


@dataclass(frozen=True)
class Record:
    """A constant struct of the model file; `lines` are its designated initialisers."""

    type: str
    symbol: str
    lines: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Packing:
    """How a layer's weights lie in flash: so many bits each, as codes or as indices into a table of codes."""

    bits: int
    table: bool = False

    @property
    def tag(self) -> str:
        """Suffix of the kernels that read it."""
        return f"{'t' if self.table else 'w'}{self.bits}"

    @property
    def type(self) -> str:
        """C type of an element of the weights."""
        return "int8_t" if self.bits == 8 and not self.table else "uint8_t"


@dataclass(frozen=True)
class Step:
    """One call of a kernel; `packing` is that of its weights, None where it has none."""

    layer: Layer
    comment: str
    family: str
    packing: Packing | None
    arguments: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    records: tuple[Record, ...] = ()

    @property
    def kernel(self) -> str:
        """The kernel's name without the model's prefix, e.g. conv2d_w4."""
        return self.family if self.packing is None else f"{self.family}_{self.packing.tag}"


def portable_steps(name: str, graph: QuantGraph) -> tuple[Step, ...]:
    """Every layer as a call, in order; `name` prefixes the symbols that the linker sees."""
    return tuple(_Writer(name, graph, layer).step() for layer in layers(graph))


def pointer(graph: QuantGraph, value: str) -> str:
    """The C expression for an activation: a caller's buffer or the place of the layer that wrote it."""
    source = graph.storage(value)
    if source == graph.inputs[0]:
        return "input"
    if source == graph.storage(graph.outputs[0]):
        return "output"
    index = next(layer.index for layer in layers(graph) if layer.output.name == source)
    return f"layer{index}_output"


@dataclass(frozen=True)
class _Writer:
    """Writes the call and the constants of one layer."""

    name: str
    graph: QuantGraph
    layer: Layer

    def step(self) -> Step:
        op = self.layer.op
        match op:
            case Conv2d():
                return self._convolution(op, "conv2d")
            case Conv2dAdd():
                return self._convolution_add(op)
            case DepthwiseConv2d():
                return self._convolution(op, "depthwise")
            case FullyConnected():
                return self._fully_connected(op)
            case Add():
                return self._add(op)
            case AveragePool2d():
                tables, requantize = self._requantize(op.epilogue, 1)
                return self._windowed(op, "average_pool", self._window(op, op.kernel), tables, requantize)
            case MaxPool2d():
                return self._windowed(op, "max_pool", self._window(op, op.kernel))
            case Reshape():
                raise InvariantError(f"reshape {op.name!r} of {self.graph.name!r} was counted as a layer")
            case _:
                assert_never(op)

    def _convolution(self, op: Conv2d | Conv2dAdd | DepthwiseConv2d, family: str) -> Step:
        value = self.graph.values[op.weight]
        weights = self._weights(value)
        tables, requantize = self._requantize(op.epilogue, value.shape[0])
        window = self._window(op, (value.shape[1], value.shape[2]), (op.padding[0], op.padding[2]))
        arguments = (*self._weight_arguments(value, weights), f"&{window.symbol}", f"&{requantize.symbol}")
        return self._call(family, arguments, packing_of(value), (*weights, *tables), (window, requantize))

    def _convolution_add(self, op: Conv2dAdd) -> Step:
        """The call of the convolution, with the addend and its rescaling before the output."""
        step, rescale = self._convolution(op, "conv2d_add"), self._rescale(op.rescale)
        *arguments, output = step.arguments
        arguments += [pointer(self.graph, op.other), f"&{rescale.symbol}", output]
        return replace(step, arguments=tuple(arguments), records=(*step.records, rescale))

    def _fully_connected(self, op: FullyConnected) -> Step:
        value = self.graph.values[op.weight]
        weights, packing = self._weights(value), packing_of(value)
        outputs, inputs = value.shape
        matrix = (*self._weight_arguments(value, weights), str(inputs), str(outputs))
        if isinstance(op.epilogue, BiasAdd):
            offset = self._table("offset", "int32_t", "added to each logit", np.array(op.epilogue.offset))
            logits = (*matrix, offset.symbol, str(op.epilogue.pre_shift))
            return self._call("logits", logits, packing, (*weights, offset))
        tables, requantize = self._requantize(op.epilogue, outputs)
        codes = (*matrix, f"&{requantize.symbol}")
        return self._call("fully_connected", codes, packing, (*weights, *tables), (requantize,))

    def _rescale(self, p: AddRescale) -> Record:
        lines = (
            _fields(multiplier_a=p.multiplier_a, multiplier_b=p.multiplier_b, offset=p.offset),
            _fields(shift=p.shift, qmin=p.qmin, qmax=p.qmax),
        )
        return self._record("rescale", lines)

    def _add(self, op: Add) -> Step:
        rescale = self._rescale(op.epilogue)
        arguments = (pointer(self.graph, op.other), str(self.layer.output.elements), f"&{rescale.symbol}")
        return self._call("add", arguments, records=(rescale,))

    def _windowed(
        self, op: AveragePool2d | MaxPool2d, family: str, window: Record,
        tables: tuple[Table, ...] = (), requantize: Record | None = None,
    ) -> Step:  # fmt: skip
        records = (window,) if requantize is None else (window, requantize)
        return self._call(family, tuple(f"&{r.symbol}" for r in records), tables=tables, records=records)

    def _call(
        self, family: str, arguments: tuple[str, ...], packing: Packing | None = None,
        tables: tuple[Table, ...] = (), records: tuple[Record, ...] = (),
    ) -> Step:  # fmt: skip
        """Every kernel takes its input first and its output last."""
        source, target = pointer(self.graph, self.layer.op.input), pointer(self.graph, self.layer.output.name)
        return Step(self.layer, self._comment(), family, packing, (source, *arguments, target), tables, records)

    def _window(self, op: Windowed, kernel: tuple[int, int], top_left: tuple[int, int] = (0, 0)) -> Record:
        entry = self.graph.values[op.input]
        _, in_h, in_w, in_c = entry.shape
        _, out_h, out_w, out_c = self.layer.output.shape
        lines = (
            _fields(in_h=in_h, in_w=in_w, in_c=in_c),
            _fields(out_h=out_h, out_w=out_w, out_c=out_c),
            _fields(kernel_h=kernel[0], kernel_w=kernel[1], stride_h=op.stride[0], stride_w=op.stride[1]),
            _fields(pad_top=top_left[0], pad_left=top_left[1], pad_code=entry.qparams.zero_point),
        )
        return self._record("window", lines)

    def _requantize(self, rq: Requantize, channels: int) -> tuple[tuple[Table, ...], Record]:
        """The tables of a requantize, `channels` entries whatever `rq` holds, and the struct that points to them."""
        multiplier = np.broadcast_to(np.array(rq.multiplier, np.int64), channels)
        offset = np.broadcast_to(np.array(rq.offset, np.int64), channels)
        tables = (
            self._table("multiplier", "int32_t", "requantize multiplier of each output channel", multiplier),
            self._table("offset", "int32_t", f"requantize offset, in 1/{2**rq.shift} output codes", offset),
        )
        lines = (
            _fields(multiplier=tables[0].symbol, offset=tables[1].symbol),
            _fields(pre_shift=rq.pre_shift, shift=rq.shift, qmin=rq.qmin, qmax=rq.qmax),
        )
        return tables, self._record("requantize", lines)

    def _weights(self, weight: Value) -> tuple[Table, ...]:
        """The packed weights, and the table that they are looked up in where they have one."""
        packing = packing_of(weight)
        rows = weight.stored.reshape(weight.shape[0], -1)
        packed = pack_rows(rows, packing.bits)
        row = f"{rows.shape[1]} {'indices' if packing.table else 'codes'} in {packed.shape[1]} bytes"
        comment = f"{packing.bits}-bit weights, {rows.shape[0]} rows of {row}"
        numbers = packed.reshape(-1).view(packing.type.removesuffix("_t"))
        table = self._table("weight", packing.type, comment, numbers)
        if weight.codebook is None:
            return (table,)
        levels = f"codes that the indices stand for, {weight.codebook.shape[-1]} a row"
        return table, self._table("levels", "int8_t", levels, weight.codebook.reshape(-1))

    @staticmethod
    def _weight_arguments(weight: Value, tables: tuple[Table, ...]) -> tuple[str, ...]:
        if weight.codebook is None:
            return (tables[0].symbol,)
        row_levels = weight.codebook.shape[1] if weight.codebook.ndim == 2 else 0
        return tables[0].symbol, tables[1].symbol, str(row_levels)

    def _table(self, tag: str, c_type: str, comment: str, numbers: NDArray[Any]) -> Table:
        texts = [str(number) for number in numbers.tolist()]
        width, step = max(map(len, texts)), CODES_PER_LINE[c_type]
        lines = (", ".join(text.rjust(width) for text in texts[i : i + step]) for i in range(0, len(texts), step))
        rows = "\n".join(f"    {line}," for line in lines)
        size_bytes = len(texts) * (4 if c_type == "int32_t" else 1)
        return Table(f"{self.name}_layer{self.layer.index}_{tag}", c_type, comment, len(texts), rows, size_bytes)

    def _record(self, tag: str, lines: tuple[str, ...]) -> Record:
        return Record(f"{self.name}_{tag}", f"layer{self.layer.index}_{tag}", lines)

    def _comment(self) -> str:
        op = self.layer.op
        details = [self.layer.kind]
        match op:
            case Conv2d() | Conv2dAdd() | DepthwiseConv2d():
                kernel = self.graph.values[op.weight].shape[1:3]
                padding = "padding {} {} {} {} (tblr)".format(*op.padding)
                details += ["{}x{}".format(*kernel), "stride {}x{}".format(*op.stride), padding]
            case AveragePool2d() | MaxPool2d():
                details += ["{}x{}".format(*op.kernel), "stride {}x{}".format(*op.stride)]
            case _:
                pass
        shapes = f"{_shape(self.graph.values[op.input])} -> {_shape(self.layer.output)}"
        return f"Layer {self.layer.index}, {op.name}: {', '.join(details)}; {shapes}"


def packing_of(weight: Value) -> Packing:
    """How a weight lies in flash."""
    return Packing(weight.packed_bits, weight.codebook is not None)


def _fields(**fields: int | str) -> str:
    """One line of a C99 designated initialiser."""
    return ", ".join(f".{field} = {value}" for field, value in fields.items())


def _shape(value: Value) -> str:
    return " x ".join(map(str, value.shape[1:]))
