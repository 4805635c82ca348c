"""Objects by TVM's LLVM: nothing in them but the kernel, the same bytes each time, and refusals that say why."""

import re

import pytest

from qkd.errors import InvariantError
from qkd.lower.codegen import ALLOCATION_LIMIT_BYTES, assemble, compile_kernel, preamble
from qkd.lower.objects import defined_symbols, section_bytes, undefined_symbols
from qkd.targets import load_target, target_names
from qkd.tir import tir
from qkd.tir.tir import Param, Pointer, PrimFunc


def copy_kernel(symbol: str = "copy") -> PrimFunc:
    def body(x: Pointer, y: Pointer) -> None:
        with tir.loop(100) as i:
            y[i] = x[i]

    return tir.function(symbol, [Param("x", "int8", 100), Param("y", "int8", 100)], body)


@pytest.mark.parametrize("name", target_names())
def test_an_object_holds_the_kernel_and_nothing_else(name: str) -> None:
    image = compile_kernel(copy_kernel(), load_target(name))
    assert defined_symbols(image) == ("copy",)
    assert set(undefined_symbols(image)) <= {"memcpy", "__aeabi_memcpy"}
    assert section_bytes(image)[0] > 0
    assert b".debug" not in image
    assert b"fp16" not in image


def test_one_kernel_gives_the_same_bytes_each_time() -> None:
    target = load_target("cortex_m55")
    assert compile_kernel(copy_kernel(), target) == compile_kernel(copy_kernel(), target)


@pytest.mark.parametrize("name", target_names())
def test_the_preamble_is_all_that_llvm_ir_needs(name: str) -> None:
    target = load_target(name)
    assert re.match(r'target datalayout = "e-', preamble(target))
    image = assemble(f"{preamble(target)}\ndefine i32 @seven() nounwind {{\n  ret i32 7\n}}\n", target)
    assert defined_symbols(image) == ("seven",)


def local_buffer(size_bytes: int) -> PrimFunc:
    def body(x: Pointer, y: Pointer) -> None:
        buffer = tir.array("int32", size_bytes // 4)
        with tir.loop(size_bytes // 4) as i:
            buffer[i] = x[i]
        y[0] = buffer[x[0]]

    return tir.function("local", [Param("x", "int32", 100), Param("y", "int32", 1)], body)


def test_a_small_local_buffer_is_allowed() -> None:
    assert compile_kernel(local_buffer(ALLOCATION_LIMIT_BYTES), load_target("host"))


def test_a_large_local_buffer_is_refused_with_its_size() -> None:
    with pytest.raises(InvariantError, match="kernel local puts a buffer of 260 bytes on the stack; 256 are allowed"):
        compile_kernel(local_buffer(ALLOCATION_LIMIT_BYTES + 4), load_target("host"))


def test_what_llvm_refuses_names_the_kernel_and_the_device() -> None:
    def body(y: Pointer) -> None:
        y[0] = tir.intrinsic("int8x16", "llvm.arm.mve.vmulh", tir.constant(0), y.load(0, 16))  # wrong operands

    function = tir.function("wrong", [Param("y", "int8", 16)], body)
    with pytest.raises(InvariantError, match="cannot compile kernel wrong for cortex_m55"):
        compile_kernel(function, load_target("cortex_m55"))
