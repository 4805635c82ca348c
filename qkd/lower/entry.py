"""The entry of a library in LLVM IR: constants in flash and the C API `<name>_init`, `<name>_run`, `<name>_info`.

Written as text because TVM can assemble LLVM IR: no C compiler is needed to make a library. The header that
`qkd.bundle.header.c_header` writes describes the same functions and structs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qkd import __version__
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import ARENA_ALIGN, arena_bytes, total_macs
from qkd.target import Target
from qkd.tir.kernel import Constant, Kernel

OK, ERROR_INVALID, ERROR_TOO_SMALL = 0, -1, -2


@dataclass(frozen=True)
class Call:
    """One kernel call of an inference, in activations of the graph."""

    symbol: str
    kernel: Kernel
    inputs: tuple[str, ...]
    output: str


def entry_ir(graph: QuantGraph, calls: Sequence[Call], target: Target, preamble: str) -> str:
    """LLVM IR of the entry object.

    Parameters
    ----------
    graph : QuantGraph
        With a memory plan.
    calls : sequence of Call
        In execution order; the position is the layer number that the hook gets.
    target : Target
    preamble : str
        `qkd.lower.codegen.preamble(target)`.

    Returns
    -------
    str
        A module that needs the symbols of `calls` and nothing else.
    """
    name = graph.name
    parts = [
        f'source_filename = "{name}_entry"',
        preamble,
        "%context = type { ptr, ptr, ptr } ; arena, hook, user",
        "%information = type { ptr, ptr, ptr, i32, i32, i32, i32, i32, i32, i32 }",
        *_constants(name, calls),
        *_information(graph, len(calls), target),
        _init(graph, target),
        *_declarations(calls),
        _notify(),
        _run(graph, calls),
    ]
    return "\n".join(parts) + "\n"


def information_section(name: str) -> str:
    """Section of the struct that `<name>_info` returns; it holds addresses."""
    return f".rodata.{name}_information"


def _constants(name: str, calls: Sequence[Call]) -> Iterable[str]:
    for layer, call in enumerate(calls):
        for number, array in enumerate(call.kernel.constants):
            symbol = _constant(layer, number)
            yield f'{symbol} = internal constant {_bytes(array)}, section ".rodata.{name}{symbol[1:]}", align 16'


def _constant(layer: int, number: int) -> str:
    return f"@_layer{layer}_constant{number}"


def _bytes(array: Constant) -> str:
    """A constant's bytes as they lie in memory; every target is little-endian."""
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    escaped = "".join(f"\\{byte:02X}" for byte in data)
    return f'[{len(data)} x i8] c"{escaped}"'


def _information(graph: QuantGraph, layers: int, target: Target) -> Iterable[str]:
    texts = {"name": graph.name, "version": __version__, "sha256": graph.sha256()}
    for key, text in texts.items():
        yield f'@{key} = internal constant [{len(text) + 1} x i8] c"{text}\\00"'
    entry, result = graph.values[graph.inputs[0]], graph.values[graph.outputs[0]]
    numbers = (
        arena_bytes(graph),
        total_macs(graph),
        layers,
        entry.buffer_bytes,
        result.buffer_bytes,
        entry.qparams.zero_point,
        result.qparams.zero_point,
    )
    fields = ", ".join([*(f"ptr @{key}" for key in texts), *(f"i32 {number}" for number in numbers)])
    # A dynamic linker must write the addresses; on bare metal the linker has done so, and the struct stays in flash.
    section = f', section "{information_section(graph.name)}"' if target.kind == "cortex_m" else ""
    yield f"@information = internal constant %information {{ {fields} }}{section}, align 8"
    yield f"define ptr @{graph.name}_info() nounwind {{\n  ret ptr @information\n}}"


def _init(graph: QuantGraph, target: Target) -> str:
    word = "i32" if target.kind == "cortex_m" else "i64"
    return f"""
define i32 @{graph.name}_init(ptr %context, ptr %arena, i32 %arena_bytes) nounwind {{
  %no_context = icmp eq ptr %context, null
  %no_arena = icmp eq ptr %arena, null
  %address = ptrtoint ptr %arena to {word}
  %rest = and {word} %address, {ARENA_ALIGN - 1}
  %unaligned = icmp ne {word} %rest, 0
  %none = or i1 %no_context, %no_arena
  %invalid = or i1 %none, %unaligned
  br i1 %invalid, label %refuse, label %measure
refuse:
  ret i32 {ERROR_INVALID}
measure:
  %small = icmp ult i32 %arena_bytes, {arena_bytes(graph)}
  br i1 %small, label %too_small, label %bind
too_small:
  ret i32 {ERROR_TOO_SMALL}
bind:
  %hook = getelementptr %context, ptr %context, i32 0, i32 1
  %user = getelementptr %context, ptr %context, i32 0, i32 2
  store ptr %arena, ptr %context
  store ptr null, ptr %hook
  store ptr null, ptr %user
  ret i32 {OK}
}}"""


def _declarations(calls: Sequence[Call]) -> Iterable[str]:
    for symbol, call in {call.symbol: call for call in calls}.items():
        yield f"declare void @{symbol}({', '.join(['ptr'] * _pointers(call))})"


def _pointers(call: Call) -> int:
    return len(call.inputs) + len(call.kernel.constants) + 1 + (call.kernel.scratch_bytes > 0)


def _notify() -> str:
    return """
define internal void @notify(ptr %context, i32 %layer, i32 %begin) noinline nounwind {
  %hook_at = getelementptr %context, ptr %context, i32 0, i32 1
  %hook = load ptr, ptr %hook_at
  %silent = icmp eq ptr %hook, null
  br i1 %silent, label %done, label %tell
tell:
  %user_at = getelementptr %context, ptr %context, i32 0, i32 2
  %user = load ptr, ptr %user_at
  call void %hook(ptr %user, i32 %layer, i32 %begin)
  br label %done
done:
  ret void
}"""


def _run(graph: QuantGraph, calls: Sequence[Call]) -> str:
    body = "\n  ".join(line for layer, call in enumerate(calls) for line in _layer(graph, layer, call))
    return f"""
define i32 @{graph.name}_run(ptr %context, ptr %input, ptr %output) nounwind {{
  %no_context = icmp eq ptr %context, null
  %no_input = icmp eq ptr %input, null
  %no_output = icmp eq ptr %output, null
  %no_buffer = or i1 %no_input, %no_output
  %null = or i1 %no_context, %no_buffer
  br i1 %null, label %refuse, label %look
look:
  %arena = load ptr, ptr %context
  %unbound = icmp eq ptr %arena, null
  br i1 %unbound, label %refuse, label %compute
refuse:
  ret i32 {ERROR_INVALID}
compute:
  {body}
  ret i32 {OK}
}}"""


def _layer(graph: QuantGraph, layer: int, call: Call) -> Iterable[str]:
    """One kernel call between its two notifications."""
    arguments: list[str] = []
    for name in call.inputs:
        yield from _place(graph, name, f"%layer{layer}_input{len(arguments)}", arguments)
    arguments += [_constant(layer, number) for number in range(len(call.kernel.constants))]
    yield from _place(graph, call.output, f"%layer{layer}_output", arguments)
    if call.kernel.scratch_bytes:
        arguments.append(f"%layer{layer}_scratch")
        yield f"{arguments[-1]} = getelementptr i8, ptr %arena, i32 {graph.scratch_offsets[call.kernel.op]}"
    yield f"call void @notify(ptr %context, i32 {layer}, i32 1)"
    yield f"call void @{call.symbol}({', '.join(f'ptr {argument}' for argument in arguments)})"
    yield f"call void @notify(ptr %context, i32 {layer}, i32 0)"


def _place(graph: QuantGraph, name: str, register: str, arguments: list[str]) -> Iterable[str]:
    """Append where an activation lies: the caller's buffer, or an address in the arena that is computed first."""
    storage = graph.storage(name)
    if storage in graph.offsets:
        arguments.append(register)
        yield f"{register} = getelementptr i8, ptr %arena, i32 {graph.offsets[storage]}"
    else:
        arguments.append("%input" if storage == graph.inputs[0] else "%output")
