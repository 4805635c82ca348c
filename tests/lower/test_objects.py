"""What an object holds and wants is read from its ELF tables, and what it may not want is refused."""

import io

import pytest
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from qkd.errors import InvariantError
from qkd.lower.codegen import assemble, preamble
from qkd.lower.objects import (
    ALLOWED,
    check_undefined,
    defined_symbols,
    make_read_only,
    section_bytes,
    undefined_symbols,
)
from qkd.targets import load_target

IR = """
@numbers = constant [10 x i8] zeroinitializer, section ".rodata.numbers"
@pointer = constant ptr @numbers, section ".rodata.pointer"
define internal i32 @hidden(i32 %x) noinline nounwind { ret i32 %x }
define i32 @visible(float %x) nounwind {
  %a = call i32 @other(float %x)
  %b = call i32 @hidden(i32 %a)
  ret i32 %b
}
declare i32 @other(float)
"""


def assembled(device: str) -> bytes:
    target = load_target(device)
    return assemble(preamble(target) + IR, target)


@pytest.fixture(scope="module", params=["cortex_m4", "host"])
def image(request: pytest.FixtureRequest) -> bytes:
    return assembled(request.param)


def test_symbols_are_told_apart(image: bytes) -> None:
    assert defined_symbols(image) == ("visible", "numbers", "pointer")
    assert undefined_symbols(image) == ("other",)


def test_code_and_constants_are_told_apart(image: bytes) -> None:
    text, rodata = section_bytes(image)
    assert 8 <= text <= 40
    assert rodata >= 14


def test_a_symbol_of_the_library_itself_is_no_want(image: bytes) -> None:
    check_undefined("a.o", image, {"other"})


def test_a_strange_symbol_is_named(image: bytes) -> None:
    with pytest.raises(InvariantError, match=r"a\.o needs other; only"):
        check_undefined("a.o", image, {"visible"})


@pytest.mark.parametrize("symbol", ["memcpy", "memset", "__aeabi_memclr4", "__aeabi_idivmod", "__aeabi_lmul"])
def test_copies_and_integer_helpers_are_allowed(symbol: str) -> None:
    assert ALLOWED.fullmatch(symbol)


@pytest.mark.parametrize("symbol", ["__aeabi_fadd", "__aeabi_dmul", "__aeabi_i2f", "malloc", "TVMBackendAllocWorkspace",
                                    "__aeabi_unwind_cpp_pr0", "memcpy_s", "exp"])  # fmt: skip
def test_float_heap_and_runtimes_are_not(symbol: str) -> None:
    assert not ALLOWED.fullmatch(symbol)


def test_a_section_loses_its_write_flag_and_nothing_else() -> None:
    image = assembled("cortex_m4")
    changed = make_read_only(image, ".rodata.pointer")
    flags = [ELFFile(io.BytesIO(data)).get_section_by_name(".rodata.pointer")["sh_flags"] for data in (image, changed)]
    assert flags == [SH_FLAGS.SHF_ALLOC | SH_FLAGS.SHF_WRITE, SH_FLAGS.SHF_ALLOC]
    assert len(changed) == len(image)
    assert sum(a != b for a, b in zip(image, changed, strict=True)) == 1


def test_a_section_that_is_missing_is_named(image: bytes) -> None:
    with pytest.raises(InvariantError, match=r"no section \.text\.none"):
        make_read_only(image, ".text.none")


def test_only_bare_metal_objects_keep_silent_about_the_stack_as_those_of_gcc_do() -> None:
    types = [
        ELFFile(io.BytesIO(assembled(name))).get_section_by_name(".note.GNU-stack")["sh_type"]
        for name in ("host", "cortex_m4")
    ]
    assert types == ["SHT_PROGBITS", "SHT_NULL"]
