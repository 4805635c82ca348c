"""The integer graph: values, operators and their order. Below `freeze` nothing else is known about a network.

Activations are NHWC with N = 1, convolution weights OHWI, fully connected weights OI. `reference.py` says what each
operator computes. Codes are raw: a zero point is never subtracted on the device, `freeze` has folded it into the
offsets, and padding reads as the input's zero point.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qkd.errors import InvariantError
from qkd.graph.fixed_point import AddRescale, BiasAdd, Requantize


@dataclass(frozen=True)
class QParams:
    """What a code means: real = scale * (q - zero_point); scale has one entry, or one an output channel."""

    scale: tuple[float, ...]
    zero_point: int = 0


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of codes: an activation (`data` is None) or a constant.

    `dtype` is how a code lies in an activation buffer; [qmin, qmax] is the range of the codes, from which packing and
    the safety proofs of kernels follow. `data` holds plain values, never packed bytes. With a `codebook`, an int8 table
    of shape (L,) or (O, L), `data` holds indices into it or into its output channel's row.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["int8", "int32"]
    qparams: QParams
    qmin: int
    qmax: int
    data: NDArray[np.int8] | NDArray[np.int32] | None = None
    codebook: NDArray[np.int8] | None = None

    @property
    def elements(self) -> int:
        """How many codes the tensor has."""
        return int(np.prod(self.shape))

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the tensor as an activation buffer."""
        return self.elements * (4 if self.dtype == "int32" else 1)

    @property
    def bits(self) -> int:
        """Bits a code takes when packed: 2, 4, 8 or 32."""
        if self.dtype == "int32":
            return 32
        return next(b for b in (2, 4, 8) if -(2 ** (b - 1)) <= self.qmin and self.qmax < 2 ** (b - 1))

    @property
    def index_bits(self) -> int:
        """Bits an index into the codebook takes when packed: 2, 4 or 8."""
        if self.codebook is None:
            raise InvariantError(f"{self.name!r} has no codebook")
        levels = self.codebook.shape[-1]
        return next(b for b in (2, 4, 8) if levels <= 2**b)

    @property
    def packed_bits(self) -> int:
        """Bits a weight takes in flash: those of its index where it has a codebook."""
        return self.bits if self.codebook is None else self.index_bits

    @property
    def stored(self) -> NDArray[np.int64]:
        """What lies in flash, packed: the codes, or indices where there is a codebook."""
        return self.codes if self.codebook is None or self.data is None else self.data.astype(np.int64)

    @property
    def codes(self) -> NDArray[np.int64]:
        """The constant's codes as int64, looked up in the codebook where there is one."""
        if self.data is None:
            raise InvariantError(f"{self.name!r} is an activation; only constants have codes before the graph runs")
        if self.codebook is None:
            return self.data.astype(np.int64)
        rows = np.broadcast_to(self.codebook, (self.shape[0], self.codebook.shape[-1]))
        index = self.data.reshape(self.shape[0], -1).astype(np.int64)
        return np.take_along_axis(rows, index, axis=1).reshape(self.shape).astype(np.int64)

    def without_codebook(self) -> "Value":
        """The same constant with its codes in place of indices."""
        return replace(self, data=self.codes.astype(np.int8), codebook=None)


@dataclass(frozen=True)
class Conv2d:
    """Convolution over NHWC with OHWI weights; padding is (top, bottom, left, right) and may be asymmetric."""

    name: str
    input: str
    weight: str
    output: str
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    epilogue: Requantize


@dataclass(frozen=True)
class DepthwiseConv2d:
    """Convolution of each channel on its own; weight (C, KH, KW, 1)."""

    name: str
    input: str
    weight: str
    output: str
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    epilogue: Requantize


@dataclass(frozen=True)
class FullyConnected:
    """Matrix product with weight (O, I); a `BiasAdd` epilogue gives int32 logits."""

    name: str
    input: str
    weight: str
    output: str
    epilogue: Requantize | BiasAdd


@dataclass(frozen=True)
class Add:
    """Sum of two int8 tensors of one shape and two scales."""

    name: str
    input: str
    other: str
    output: str
    epilogue: AddRescale


@dataclass(frozen=True)
class AveragePool2d:
    """Sum over a window without padding, requantized; the epilogue holds the division."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    epilogue: Requantize


@dataclass(frozen=True)
class MaxPool2d:
    """Largest code in a window without padding; input and output share their QParams."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class Reshape:
    """The same codes under another shape; costs nothing on the device."""

    name: str
    input: str
    output: str


@dataclass(frozen=True)
class Conv2dAdd:
    """A convolution and the Add behind it in one kernel, which never stores the codes between them.

    It means `conv` and then `add`, to the letter. `FuseAdds` makes it for devices that have a kernel for it.
    """

    conv: Conv2d
    add: Add

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.conv.name}+{self.add.name}"

    @property
    def input(self) -> str:
        """What the convolution reads."""
        return self.conv.input

    @property
    def other(self) -> str:
        """The addend that the convolution does not make."""
        return self.add.other if self.add.input == self.conv.output else self.add.input

    @property
    def weight(self) -> str:
        """The convolution's."""
        return self.conv.weight

    @property
    def output(self) -> str:
        """The sum."""
        return self.add.output

    @property
    def stride(self) -> tuple[int, int]:
        """The convolution's."""
        return self.conv.stride

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """The convolution's."""
        return self.conv.padding

    @property
    def epilogue(self) -> Requantize:
        """The convolution's; `rescale` follows."""
        return self.conv.epilogue

    @property
    def rescale(self) -> AddRescale:
        """The Add's arithmetic with the convolution's code as `a`."""
        p = self.add.epilogue
        if self.add.input == self.conv.output:
            return p
        return replace(p, multiplier_a=p.multiplier_b, multiplier_b=p.multiplier_a)


Op: TypeAlias = Conv2d | DepthwiseConv2d | FullyConnected | Add | AveragePool2d | MaxPool2d | Reshape | Conv2dAdd


def op_inputs(op: Op) -> tuple[str, ...]:
    """The activations an operator reads."""
    return (op.input, op.other) if isinstance(op, Add | Conv2dAdd) else (op.input,)


def op_parts(op: Op) -> tuple[Op, ...]:
    """The operators that a fused one stands for; any other stands for itself."""
    return (op.conv, op.add) if isinstance(op, Conv2dAdd) else (op,)


@dataclass(frozen=True, eq=False)
class QuantGraph:
    """A network in integers: values by name, operators in execution order.

    `offsets` maps each activation in the arena to its byte offset once `plan_memory` has run; graph inputs and outputs
    are the caller's buffers and have none. `scratch_offsets` does the same for the workspaces of operators.
    """

    name: str
    values: Mapping[str, Value]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    offsets: Mapping[str, int] = field(default_factory=dict)
    scratch_offsets: Mapping[str, int] = field(default_factory=dict)
    arena_bytes: int | None = None

    def sha256(self) -> str:
        """Hash of what is computed: operators, values, their data with type and shape; fusing and plan do not count."""
        digest = hashlib.sha256()
        ops = [{"kind": type(op).__name__, **asdict(op)} for whole in self.ops for op in op_parts(whole)]
        digest.update(json.dumps([ops, self.inputs, self.outputs], sort_keys=True).encode())
        for name in sorted(self.values):
            v = self.values[name]
            digest.update(json.dumps([name, v.shape, v.dtype, asdict(v.qparams), v.qmin, v.qmax]).encode())
            for array in (v.data, v.codebook):
                digest.update(json.dumps(None if array is None else [str(array.dtype), array.shape]).encode())
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def with_plan(
        self, offsets: Mapping[str, int], scratch_offsets: Mapping[str, int], arena_bytes: int
    ) -> "QuantGraph":
        """The same network with a memory plan."""
        return replace(self, offsets=offsets, scratch_offsets=scratch_offsets, arena_bytes=arena_bytes)

    def arena_values(self) -> tuple[str, ...]:
        """Activations that live in the arena, in order of production; a reshape's output is its input's bytes."""
        caller = {*self.inputs, *self.outputs}
        return tuple(op.output for op in self.ops if not isinstance(op, Reshape) and op.output not in caller)

    def storage(self, name: str) -> str:
        """The activation whose bytes `name` is: itself, or what a chain of reshapes started from."""
        sources = {op.output: op.input for op in self.ops if isinstance(op, Reshape)}
        while name in sources:
            name = sources[name]
        return name

    def in_place_sources(self, op: Op) -> tuple[str, ...]:
        """Buffers that a kernel may write its output over: those it reads element by element and nowhere else."""
        if isinstance(op, Add):
            return tuple(map(self.storage, op_inputs(op)))
        if isinstance(op, Conv2dAdd) and self.storage(op.other) != self.storage(op.input):
            return (self.storage(op.other),)
        return ()

    def macs(self, op: Op) -> int:
        """Multiply-accumulates of one operator, zero-padded taps included (the convention of MLPerf Tiny)."""
        if not isinstance(op, Conv2d | DepthwiseConv2d | FullyConnected | Conv2dAdd):
            return 0
        taps = int(np.prod(self.values[op.weight].shape[1:]))
        return self.values[op.output].elements * taps


def accumulator_bound(weight: NDArray[np.int64], qmin: int, qmax: int) -> int:
    """Proof that no accumulator leaves ±bound, whatever the input: max|q| times the largest sum of |w| of a channel."""
    rows = np.abs(weight.reshape(weight.shape[0], -1)).sum(axis=1)
    return max(abs(qmin), abs(qmax)) * int(rows.max())
