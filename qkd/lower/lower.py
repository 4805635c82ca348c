"""QuantGraph × Target → library: a Relax module of kernels, the calls that Relax leaves, ELF objects by TVM's LLVM."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from qkd.errors import InvariantError, UnsupportedOpError
from qkd.graph.graph import QuantGraph, Reshape, Value, op_inputs
from qkd.graph.steps import check_exportable, steps
from qkd.lower.codegen import assemble, compile_kernel, preamble
from qkd.lower.entry import Call, entry_ir, information_section
from qkd.lower.objects import check_undefined, defined_symbols, make_read_only, section_bytes
from qkd.target import Target
from qkd.tir.kernel import Kernel
from qkd.tir.tir import PrimFunc

_RELAX_PASSES = (
    relax.transform.DeadCodeElimination(),
    relax.transform.ToNonDataflow(),
    relax.transform.RemovePurityChecking(),
    relax.transform.CallTIRRewrite(),
)


@dataclass(frozen=True, eq=False)
class Library:
    """A network for one device: ELF objects that need no further symbols, and what they were made from."""

    name: str
    target: Target
    graph: QuantGraph
    kernels: tuple[Kernel, ...]
    symbols: tuple[str, ...]
    """The C function of each layer; layers of one shape share one."""
    objects: tuple[tuple[str, bytes], ...]
    """File names and ELF objects; the last one holds the constants and the C API."""

    @property
    def text_bytes(self) -> int:
        """Bytes of code in flash."""
        return sum(section_bytes(image)[0] for _, image in self.objects)

    @property
    def rodata_bytes(self) -> int:
        """Bytes of constants in flash."""
        return sum(section_bytes(image)[1] for _, image in self.objects)

    @property
    def flash_bytes(self) -> int:
        """All bytes in flash."""
        return self.text_bytes + self.rodata_bytes


def lower(graph: QuantGraph, target: Target, kernels: Sequence[Kernel]) -> Library:
    """Lower a planned graph for a device.

    Parameters
    ----------
    graph : QuantGraph
        With a memory plan; one input and one output.
    target : Target
    kernels : sequence of Kernel
        One for each operator but reshapes, in order (`qkd.targets.kernels.choose_kernels`).

    Returns
    -------
    Library
        Equal bytes for equal arguments, on every run.

    Raises
    ------
    RecipeError
        When the graph's name cannot stand in C.
    UnsupportedOpError
        When the graph has other than one input and one output.
    InvariantError
        When kernels, Relax's calls or the objects are not what they must be.
    """
    _check_lowerable(graph, kernels)
    functions, symbols = _functions(graph.name, kernels)
    rewritten = tvm.ir.transform.Sequential(list(_RELAX_PASSES))(_relax_module(graph, kernels, functions, symbols))
    calls = _matched(graph, kernels, symbols, rewritten["main"])
    objects = [(f"{symbol}.o", compile_kernel(function, target)) for symbol, function in functions.items()]
    objects.append((f"{graph.name}_entry.o", _entry_object(graph, calls, target)))
    own = {symbol for _, image in objects for symbol in defined_symbols(image)}
    for name, image in objects:
        check_undefined(name, image, own)
    return Library(graph.name, target, graph, tuple(kernels), symbols, tuple(objects))


def _check_lowerable(graph: QuantGraph, kernels: Sequence[Kernel]) -> None:
    check_exportable(graph.name, graph)
    result = graph.outputs[0]
    if graph.storage(result) != result:
        raise UnsupportedOpError(f"{graph.name!r} ends in a reshape ({result}); let it return the reshape's input")
    wanted = [op.name for op in steps(graph)]
    if [kernel.op for kernel in kernels] != wanted:
        raise InvariantError(f"kernels are for {[kernel.op for kernel in kernels]}; the graph needs {wanted}")


def _functions(name: str, kernels: Sequence[Kernel]) -> tuple[dict[str, PrimFunc], tuple[str, ...]]:
    """Build every kernel; layers whose functions differ in nothing but the name share the first one's."""
    functions: dict[str, PrimFunc] = {}
    first: dict[Any, str] = {}
    symbols = []
    for layer, kernel in enumerate(kernels):
        symbol = f"{name}_{layer}_{re.sub(r'[^A-Za-z0-9]', '_', kernel.op)}"
        function = kernel.build(symbol)
        nameless = tvm_ffi.StructuralKey(function.with_attr("global_symbol", ""))  # type: ignore[call-arg]
        symbols.append(first.setdefault(nameless, symbol))
        if symbols[-1] == symbol:
            functions[symbol] = function
    return functions, tuple(symbols)


def _relax_module(
    graph: QuantGraph, kernels: Sequence[Kernel], functions: Mapping[str, PrimFunc], symbols: Sequence[str]
) -> Any:
    """A Relax module whose `main` calls each kernel through call_tir; a scratch is a second result."""
    builder = relax.BlockBuilder()
    entry = graph.values[graph.inputs[0]]
    variables = {entry.name: relax.Var("input", relax.TensorType(entry.shape, entry.dtype))}
    steps = iter(zip(kernels, symbols, strict=True))
    with builder.function("main", [variables[entry.name]]):
        with builder.dataflow():
            known = {symbol: builder.add_func(function, symbol) for symbol, function in functions.items()}
            for op in graph.ops:
                inputs = [variables[name] for name in op_inputs(op)]
                if isinstance(op, Reshape):
                    variables[op.output] = builder.emit(relax.op.reshape(inputs[0], graph.values[op.output].shape))
                else:
                    kernel, symbol = next(steps)
                    variables[op.output] = _emit_call(builder, known[symbol], kernel, inputs, graph.values[op.output])
            result = builder.emit_output(variables[graph.outputs[0]])
        builder.emit_func_output(result)
    return builder.get()


def _emit_call(builder: Any, function: Any, kernel: Kernel, inputs: Sequence[Any], output: Value) -> Any:
    arguments = [*inputs, *(relax.const(array, str(array.dtype)) for array in kernel.constants)]
    results = [relax.TensorType(output.shape, output.dtype)]
    if not kernel.scratch_bytes:
        return builder.emit(relax.op.call_tir(function, arguments, results))
    results.append(relax.TensorType((kernel.scratch_bytes,), "int8"))
    both = builder.emit(relax.op.call_tir(function, arguments, results))
    return builder.emit(relax.TupleGetItem(both, 0))


def _walk(main: Any) -> tuple[list[tuple[str, list[Any]]], Any]:
    """The kernel calls that Relax left, in order, and the result.

    A call is a symbol and its arguments, each an array or the variable that stands for the tensor's storage.
    """
    calls: list[tuple[str, list[Any]]] = []
    tensors: dict[Any, Any] = {parameter: parameter for parameter in main.params}
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        value = binding.value
        if not isinstance(value, relax.Call):
            tensors[binding.var] = _resolve(value, tensors)
        elif isinstance(value.op, tvm.ir.GlobalVar):
            calls.append((str(value.op.name_hint), [_resolve(argument, tensors) for argument in value.args]))
        elif value.op.name == "relax.builtin.alloc_tensor":
            tensors[binding.var] = binding.var
        elif value.op.name == "relax.reshape":
            tensors[binding.var] = _resolve(value.args[0], tensors)
        else:
            raise InvariantError(f"Relax left a call of {value.op.name} in main, which lowering does not know")
    return calls, _resolve(main.body.body, tensors)


def _resolve(value: Any, tensors: Mapping[Any, Any]) -> Any:
    """What a Relax expression stands for: the tensor behind a variable, or the array of a constant."""
    match value:
        case relax.Var():
            return tensors[value]
        case relax.Tuple():
            return [_resolve(field, tensors) for field in value.fields]
        case relax.TupleGetItem():
            return _resolve(value.tuple_value, tensors)[value.index]
        case tvm.ir.GenericConst():
            return value.value.numpy()
    raise InvariantError(f"Relax left {type(value).__name__} in main, which lowering does not know: {value}")


def _matched(graph: QuantGraph, kernels: Sequence[Kernel], symbols: Sequence[str], main: Any) -> list[Call]:
    """Compare what Relax calls with what the graph says, argument by argument; results must be fresh tensors."""
    found, result = _walk(main)
    wanted = steps(graph)
    if len(found) != len(wanted):
        raise InvariantError(f"Relax left {len(found)} kernel calls of {len(wanted)}; an operator's result is not used")
    tensors = {graph.inputs[0]: main.params[0]}
    calls = []
    for op, kernel, symbol, (called, arguments) in zip(wanted, kernels, symbols, found, strict=True):
        sources = tuple(graph.storage(name) for name in op_inputs(op))
        expected = [*(tensors[name] for name in sources), *kernel.constants]
        given, results = arguments[: len(expected)], arguments[len(expected) :]
        stale = any(_same(new, old) for new in results for old in tensors.values())
        wanted_results = 2 if kernel.scratch_bytes else 1
        if called != symbol or not all(map(_same, expected, given)) or stale or len(results) != wanted_results:
            raise InvariantError(f"Relax calls {called} for {op.name!r} with other arguments than the graph has")
        tensors[op.output] = results[0]
        calls.append(Call(symbol, kernel, sources, op.output))
    if not _same(result, tensors[graph.outputs[0]]):
        raise InvariantError(f"Relax returns another tensor than {graph.outputs[0]!r}")
    return calls


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are one tensor, or arrays of one type and content."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a.same_as(b))


def _entry_object(graph: QuantGraph, calls: Sequence[Call], target: Target) -> bytes:
    image = assemble(entry_ir(graph, calls, target, preamble(target)), target)
    return make_read_only(image, information_section(graph.name)) if target.kind == "cortex_m" else image
