"""The layer over TVM: each call that we rely on does what its name says, on this machine or in the generated code."""

import shutil
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd.errors import InvariantError
from qkd.lower.codegen import compile_kernel, kernel_ir
from qkd.targets import load_target
from qkd.tir import tir
from qkd.tir.tir import Expr, Param, Pointer
from tests.support.host_function import call_on_host, disassemble

PAIRS = st.lists(st.tuples(st.integers(-(2**14), 2**14), st.integers(1, 30)), min_size=8, max_size=8)

OPERATORS: dict[str, tuple[Callable[[Expr, Expr], Expr], Callable[[np.int64, np.int64], object]]] = {
    "+": (lambda a, b: a + b, lambda a, b: a + b),
    "-": (lambda a, b: a - b, lambda a, b: a - b),
    "*": (lambda a, b: a * b, lambda a, b: a * b),
    "<<": (lambda a, b: a << b, lambda a, b: (a << b).astype(np.int32)),
    ">>": (lambda a, b: a >> b, lambda a, b: a >> b),
    "&": (lambda a, b: a & b, lambda a, b: a & b),
    "|": (lambda a, b: a | b, lambda a, b: a | b),
    "^": (lambda a, b: a ^ b, lambda a, b: a ^ b),
    "//": (lambda a, b: a // b, lambda a, b: a // b),
    "%": (lambda a, b: a % b, lambda a, b: a % b),
    "7 - a": (lambda a, b: 7 - a, lambda a, b: 7 - a),
    "-a": (lambda a, b: -a, lambda a, b: -a),
    "minimum": (tir.minimum, np.minimum),
    "maximum": (tir.maximum, np.maximum),
    "clamp": (lambda a, b: tir.clamp(a, -9, 20), lambda a, b: np.clip(a, -9, 20)),
    "mulhi": (
        lambda a, b: tir.mulhi(a << 16, b * 70_000_000),
        lambda a, b: ((a << 16) * (b * 70_000_000)) >> 32,
    ),
    "select <": (lambda a, b: tir.select(a < b, a, b * 2), lambda a, b: np.where(a < b, a, b * 2)),
    "select >= and <=": (
        lambda a, b: tir.select((a >= b) & (a <= 100), a, 5),
        lambda a, b: np.where((a >= b) & (a <= 100), a, 5),
    ),
    "select > or equal": (
        lambda a, b: tir.select((a > 300) | a.equals(b), a, 5),
        lambda a, b: np.where((a > 300) | (a == b), a, 5),
    ),
}


@settings(max_examples=5, deadline=None)
@given(PAIRS)
def test_operators_compute_what_numpy_computes(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, np.int32).T.copy()
    result = np.zeros((len(OPERATORS), len(a)), np.int32)

    def body(a: Pointer, b: Pointer, y: Pointer) -> None:
        with tir.loop(8) as i:
            for row, (apply, _) in enumerate(OPERATORS.values()):
                y[row * 8 + i] = apply(a[i], b[i])

    call_on_host(body, a, b, result)
    for row, (name, (_, meaning)) in enumerate(OPERATORS.items()):
        expected = np.asarray(meaning(a.astype(np.int64), b.astype(np.int64)))  # type: ignore[arg-type]
        assert np.array_equal(result[row], expected.astype(np.int32)), name


def test_operands_of_two_types_are_refused() -> None:
    def body(x: Pointer, y: Pointer) -> None:
        y[0] = tir.widen(x[0]) + x[0]

    with pytest.raises(InvariantError, match="int32 with int8; cast or broadcast"):
        call_on_host(body, np.zeros(1, np.int8), np.zeros(1, np.int32))


def test_bytes_wrap_around() -> None:
    x = np.array([127, -128], np.int8)

    def body(x: Pointer) -> None:
        x[0] = x[0] + 1
        x[1] = x[1] - 1

    call_on_host(body, x)
    assert x.tolist() == [-128, 127]


def test_vectors_are_loaded_shuffled_and_stored() -> None:
    x, y = np.arange(32, dtype=np.int8), np.zeros(64, np.int8)

    def body(x: Pointer, y: Pointer) -> None:
        low, high = x.load(1, 8), x.load(9, 8)
        y[0] = tir.shuffle((low, high), [i for pair in zip(range(8), range(8, 16), strict=True) for i in pair])
        y[16] = tir.low_half(low)
        y[20] = tir.high_half(low)
        y[24] = tir.lane(high, 3)
        y[25] = tir.vector([3, 1, 4, 1], "int8") + tir.broadcast(x[2], 4)
        y[29] = tir.cast(tir.widen(low) * 300 >> 2, "int8")
        y[37] = tir.select(low > 4, low, tir.constant(-1, "int8x8"))

    call_on_host(body, x, y)
    assert y[:16].tolist() == [1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 8, 16]
    assert y[16:29].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 12, 5, 3, 6, 3]
    assert y[29:37].tolist() == (np.arange(1, 9) * 300 >> 2).astype(np.int8).tolist()
    assert y[37:45].tolist() == [-1, -1, -1, -1, 5, 6, 7, 8]


def test_registers_loops_and_branches_run_as_written() -> None:
    x, y = np.arange(10, dtype=np.int8), np.zeros(4, np.int32)

    def body(x: Pointer, y: Pointer) -> None:
        total, odd = tir.Register(), tir.Register("int32", 100)
        with tir.loop(10) as i:
            total.value = total.value + tir.widen(x[i])
            with tir.when((i & 1).equals(1)):
                odd.value = odd.value + 1
        y[0] = total.value
        y[1] = odd.value
        with tir.loop(2) as i:

            def first() -> None:
                y[2 + i] = 7

            def second() -> None:
                y[2 + i] = 8

            tir.branch(i < 1, first, second)

    call_on_host(body, x, y)
    assert y.tolist() == [45, 105, 7, 8]


def test_a_view_sees_what_was_written_as_bytes() -> None:
    scratch, y = np.zeros(16, np.int8), np.zeros(3, np.int32)

    def body(scratch: Pointer, y: Pointer) -> None:
        words = scratch.view("int32")
        with tir.loop(16) as i:
            scratch[i] = tir.cast(i, "int8")
        y[0] = words[1]
        scratch[5] = 0x55  # a constant index: LLVM may not conclude that the word is another place
        y[1] = words[1]
        words[3] = 0x01020304
        y[2] = tir.widen(scratch[13])

    call_on_host(body, scratch, y)
    assert y.tolist() == [0x07060504, 0x07065504, 3]


def test_a_view_of_other_size_counts_its_own_elements() -> None:
    y = np.zeros(4, np.int32)

    def body(y: Pointer) -> None:
        halves = y.view("int16")
        with tir.loop(8) as i:
            halves[i] = tir.cast(i, "int16")

    call_on_host(body, y)
    assert y.view(np.int16).tolist() == list(range(8))


def test_a_part_is_memory_of_its_own_that_starts_further_on() -> None:
    scratch, y = np.full(32, -1, np.int8), np.zeros(2, np.int32)

    def body(scratch: Pointer, y: Pointer) -> None:
        first, second = scratch.part(4, 8), scratch.part(16, 8).view("int32")
        with tir.loop(8) as i:
            first[i] = tir.cast(i, "int8")
        second[1] = 0x01020304
        y[0] = first.view("int32")[1]
        y[1] = second[1]

    call_on_host(body, scratch, y)
    assert y.tolist() == [0x07060504, 0x01020304]
    assert scratch[:12].tolist() == [-1] * 4 + list(range(8))
    assert scratch[12:].tolist() == [-1] * 8 + [4, 3, 2, 1] + [-1] * 8


def test_kernels_may_bring_their_own_llvm_ir() -> None:
    y = np.zeros(1, np.int32)
    prelude = "define i32 @twice(i32 %x) {\n  %y = shl i32 %x, 1\n  ret i32 %y\n}\n"

    def body(y: Pointer) -> None:
        y[0] = tir.call("int32", "twice", tir.constant(21))

    call_on_host(body, y, prelude=prelude)
    assert y[0] == 42


def add_one(x: Pointer, y: Pointer) -> None:
    with tir.loop(32) as i:
        y[i] = x[i] + 1


def test_a_kernel_that_may_alias_works_in_place() -> None:
    memory = np.arange(32, dtype=np.int8)
    call_on_host(add_one, memory, memory, may_alias=True)
    assert memory.tolist() == list(range(1, 33))


def test_only_a_kernel_that_may_alias_lets_llvm_see_that() -> None:
    params = [Param("x", "int8", 32), Param("y", "int8", 32)]
    host = load_target("host")
    assert "noalias" in kernel_ir(tir.function("k", params, add_one), host)
    open_ir = kernel_ir(tir.function("k", params, add_one, may_alias=True), host)
    assert "noalias" not in open_ir
    assert "tvm-alias" in open_ir  # one type for all memory: accesses of both parameters may meet


def code_for_cortex_m4(body: Callable[..., None]) -> str:
    if shutil.which("arm-none-eabi-objdump") is None:
        pytest.skip("no arm-none-eabi-objdump; run `make tools`")
    params = [Param("x", "int8", 256), Param("y", "int32", 4)]
    return disassemble(
        compile_kernel(tir.function("k", params, body), load_target("cortex_m4")), "arm-none-eabi-objdump"
    )


@pytest.mark.device
def test_mulhi_and_clamp_are_smmul_and_ssat_on_cortex_m() -> None:
    def body(x: Pointer, y: Pointer) -> None:
        y[0] = tir.clamp(tir.mulhi(y[1], y[2]) >> 5, -128, 127)

    code = code_for_cortex_m4(body)
    assert "smmul" in code
    assert "ssat" in code


@pytest.mark.device
def test_nounroll_keeps_a_loop_small() -> None:
    def body(x: Pointer, y: Pointer, rolled: bool) -> None:
        acc = tir.Register()
        with tir.loop(16) as i:
            if rolled:
                tir.nounroll()
            acc.value = acc.value + tir.widen(x[i]) * tir.widen(x[i + 100])
        y[0] = acc.value

    loads = [code_for_cortex_m4(partial(body, rolled=rolled)).count("ldrsb") for rolled in (False, True)]
    assert loads == [32, 2]


def test_an_opaque_trip_count_is_the_number_it_hides() -> None:
    y = np.zeros(1, np.int32)

    def body(y: Pointer) -> None:
        with tir.loop(tir.opaque(9)):
            y[0] = y[0] + 2

    call_on_host(body, y)
    assert y[0] == 18


def zeros(dtype: str) -> Expr:
    return tir.constant(0, dtype)


INTRINSICS = {
    "llvm.arm.smlad": ("cortex_m4", "int32", ("int32", "int32", "int32")),
    "llvm.arm.sxtb16": ("cortex_m4", "int32", ("int32",)),
    "llvm.fshr": ("cortex_m4", "int32", ("int32", "int32", "int32")),
    "llvm.arm.mve.vmldava": ("cortex_m55", "int32", ("int32", "int32", "int32", "int32", "int8x16", "int8x16")),
    "llvm.aarch64.neon.smull": ("cortex_a53", "int16x8", ("int8x8", "int8x8")),
    "llvm.aarch64.neon.saddlp": ("cortex_a53", "int32x4", ("int16x8",)),
    "llvm.aarch64.neon.sdot": ("cortex_a76", "int32x4", ("int32x4", "int8x16", "int8x16")),
    "llvm.vector.reduce.add": ("cortex_a53", "int32", ("int32x4",)),
}


@pytest.mark.parametrize("name", INTRINSICS)
def test_intrinsics_are_found_by_their_llvm_name(name: str) -> None:
    device, dtype, operands = INTRINSICS[name]

    def body(y: Pointer) -> None:
        y[0] = tir.intrinsic(dtype, name, *map(zeros, operands))

    params = [Param("y", tir.split_dtype(dtype)[0], 16)]
    assert compile_kernel(tir.function("k", params, body), load_target(device))


def test_a_masked_load_takes_an_address_and_a_predicate() -> None:
    def body(x: Pointer, y: Pointer) -> None:
        mask = tir.intrinsic("boolx16", "llvm.arm.mve.vctp8", tir.constant(5))
        y[0] = tir.memory_intrinsic("int8x16", "llvm.masked.load", x.address(0), mask, zeros("int8x16"))

    params = [Param("x", "int8", 16), Param("y", "int8", 16)]
    assert compile_kernel(tir.function("k", params, body), load_target("cortex_m55"))


def test_an_unknown_intrinsic_is_named() -> None:
    def body(y: Pointer) -> None:
        y[0] = tir.intrinsic("int32", "llvm.arm.nonsense", y[0])

    with pytest.raises(InvariantError, match=r"llvm\.arm\.nonsense"):
        call_on_host(body, np.zeros(1, np.int32))
