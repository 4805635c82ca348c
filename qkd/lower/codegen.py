"""TIR and LLVM IR → ELF objects, by the LLVM inside TVM: no C compiler is needed, and the bytes are deterministic."""

import json
import math
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from qkd.errors import InvariantError
from qkd.lower.objects import without_stack_note
from qkd.target import InstructionSet, Target
from qkd.tir.tir import PrimFunc

ALLOCATION_LIMIT_BYTES = 256
"""Largest local buffer of a kernel. TVM puts every one on the stack, silently; larger ones belong into the scratch."""

SCALAR: frozenset[InstructionSet] = frozenset({"armv6-m", "armv7e-m"})
"""Instruction sets without vectors as LLVM means them."""

_LOWERING = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    tirx.transform.VectorizeLoop(True),
    tirx.transform.UnrollLoop(),
    s_tir.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    tirx.transform.CommonSubexprElim(),
    # Not LowerTVMBuiltin: it turns large buffers into calls of TVM's runtime, which a device does not have.
    tirx.transform.LowerIntrin(),
)


def compile_kernel(function: PrimFunc, target: Target) -> bytes:
    """Compile one kernel to an ELF object.

    Parameters
    ----------
    function : tvm.tirx.PrimFunc
        Made by `qkd.tir.tir.function`.
    target : Target

    Returns
    -------
    bytes
        The same for the same kernel, target and version of TVM.

    Raises
    ------
    InvariantError
        When the kernel takes more than `ALLOCATION_LIMIT_BYTES` of stack for one buffer, or LLVM refuses it.
    """
    return assemble(_without_extras(kernel_ir(function, target)), target)


def kernel_ir(function: PrimFunc, target: Target) -> str:
    """The optimised LLVM IR of a kernel, as TVM leaves it."""
    symbol = str(function.attrs["global_symbol"])
    device = tvm_target(target)
    module = tirx.transform.BindTarget(device.with_host(device))(tvm.IRModule({symbol: function}))
    try:
        module = tvm.ir.transform.Sequential(list(_LOWERING))(module)
        _check_allocations(symbol, module)
        return str(tvm.get_global_func("target.build.llvm")(module, device).inspect_source("ll"))
    except tvm.error.InternalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvariantError(f"TVM cannot compile kernel {symbol} for {target.name}: {reason}") from error


def assemble(llvm_ir: str, target: Target) -> bytes:
    """Turn LLVM IR that starts with `preamble(target)` into an ELF object; generates code, does not optimise."""
    with tempfile.TemporaryDirectory(prefix="qkd-") as folder:
        source, result = Path(folder, "module.ll"), Path(folder, "module.o")
        source.write_text(llvm_ir, encoding="ascii")
        tvm.runtime.load_module(str(source)).write_to_file(str(result), "o")
        image = result.read_bytes()
    return without_stack_note(image) if target.kind == "cortex_m" else image


@cache
def preamble(target: Target) -> str:
    """The lines that tell `assemble` the target: data layout, triple and TVM's own description."""
    layout = re.search(r'^target datalayout = ".*"$', kernel_ir(_empty_function(), target), re.MULTILINE)
    if layout is None:
        raise InvariantError(f"TVM states no data layout for {target.name}; was TVM updated without its smoke tests?")
    description = json.dumps(_description(target)).replace('"', r"\22")
    return "\n".join(
        (
            layout[0],
            f'target triple = "{target.mtriple}"',
            "!llvm.module.flags = !{!0}",
            f'!0 = !{{i32 2, !"tvm_target", !"{description}"}}',
        )
    )


def tvm_target(target: Target) -> Any:
    """TVM's target object of a device."""
    return tvm.target.Target(_description(target))


def _description(target: Target) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": "llvm", "mtriple": target.mtriple, "mcpu": target.mcpu}
    if target.mattr:
        described["mattr"] = list(target.mattr)
    if target.float_abi:
        described["mfloat-abi"] = target.float_abi
    if target.kind == "cortex_m":  # else TVM warns that it guesses one
        described["vector-width"] = 32 if target.instruction_set in SCALAR else 128
    return described


def _empty_function() -> PrimFunc:
    return tirx.PrimFunc([], tirx.Evaluate(0)).with_attr("global_symbol", "empty")


def _check_allocations(symbol: str, module: Any) -> None:
    found: list[Any] = []  # raised here and not in the walk, which would turn the error into another type
    tvm_ffi.structural_walk(module, (tirx.AllocBuffer, lambda node: found.append(node.buffer)))
    largest = max((_size_bytes(buffer) for buffer in found), default=0)
    if largest > ALLOCATION_LIMIT_BYTES:
        raise InvariantError(
            f"kernel {symbol} puts a buffer of {largest} bytes on the stack; {ALLOCATION_LIMIT_BYTES} are allowed. "
            "Ask for scratch_bytes in its Kernel instead."
        )


def _size_bytes(buffer: Any) -> int:
    return math.prod(int(extent) for extent in buffer.shape) * int(tvm.DataType(buffer.dtype).itemsize)


def _without_extras(llvm_ir: str) -> str:
    """Drop TVM's half-float helpers, which are in every object, and debug information without source lines."""
    text = re.sub(r"(?ms)^define weak [^\n]*@__(?:truncsfhf2|extendhfsf2)\(.*?^}\n", "", llvm_ir)
    text = re.sub(r"(?m)^ +#dbg_.*\n|^!llvm\.dbg\.cu = .*\n", "", text)
    return re.sub(r",? !dbg !\d+", "", text)
