"""What an ELF object holds: its sections by memory, the symbols it wants, and the check that it wants nothing else."""

import io
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from qkd.errors import InvariantError

ALLOWED = re.compile(
    r"__aeabi_(?:mem(?:cpy|move|set|clr)[48]?|u?idiv(?:mod)?|u?ldivmod|lmul|llsl|llsr|lasr)|memcpy|memmove|memset"
)
"""Compiler helpers that a kernel may call: integer arithmetic and copies. No float, no heap, no runtime of TVM."""


def section_bytes(image: bytes) -> tuple[int, int]:
    """Bytes of code and of constants that an object adds to flash."""
    text, rodata = 0, 0
    for section in ELFFile(io.BytesIO(image)).iter_sections():
        flags = section["sh_flags"]
        if flags & SH_FLAGS.SHF_ALLOC and flags & SH_FLAGS.SHF_EXECINSTR:
            text += section["sh_size"]
        elif flags & SH_FLAGS.SHF_ALLOC:
            rodata += section["sh_size"]
    return text, rodata


def defined_symbols(image: bytes) -> tuple[str, ...]:
    """Names that other objects can link to, in the order of the symbol table."""
    return tuple(s.name for s in _global_symbols(image) if s["st_shndx"] != "SHN_UNDEF")


def undefined_symbols(image: bytes) -> tuple[str, ...]:
    """Names that an object needs from elsewhere."""
    return tuple(s.name for s in _global_symbols(image) if s["st_shndx"] == "SHN_UNDEF")


def check_undefined(name: str, image: bytes, own: Collection[str]) -> None:
    """Raise InvariantError where an object needs more than `own` symbols and integer helpers of the compiler."""
    strange = [s for s in undefined_symbols(image) if s not in own and not ALLOWED.fullmatch(s)]
    if strange:
        raise InvariantError(
            f"{name} needs {', '.join(strange)}; only the library's own symbols, memcpy, memset and the integer "
            "helpers of __aeabi_ may be undefined. A kernel must not use float, the heap or TVM's runtime."
        )


def make_read_only(image: bytes, section_name: str) -> bytes:
    """Clear the write flag of a section, so that a linker script puts it into flash.

    LLVM marks constants that hold addresses as writable, for dynamic linkers; bare metal has none.
    """

    def clear(header: Any) -> None:
        header["sh_flags"] &= ~SH_FLAGS.SHF_WRITE

    return _with_header(image, section_name, clear)


def without_stack_note(image: bytes) -> bytes:
    """Take out the empty section by which LLVM says that the stack holds no code.

    One object with it makes GNU ld warn of every object without it, and GCC's bare-metal objects have none.
    """

    def deactivate(header: Any) -> None:
        header["sh_type"] = "SHT_NULL"

    return _with_header(image, ".note.GNU-stack", deactivate)


def _with_header(image: bytes, section_name: str, change: Callable[[Any], None]) -> bytes:
    """Rewrite the header of a section in place."""
    elf = ELFFile(io.BytesIO(image))
    index = elf.get_section_index(section_name)
    if index is None:
        raise InvariantError(
            f"the object has no section {section_name}; it has {[s.name for s in elf.iter_sections()]}"
        )
    layout = elf.structs.Elf_Shdr
    at, size = elf["e_shoff"] + index * elf["e_shentsize"], elf["e_shentsize"]
    header = layout.parse(image[at : at + size])
    change(header)
    return image[:at] + layout.build(header) + image[at + size :]


def _global_symbols(image: bytes) -> Iterator[Any]:
    table: Any = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    for symbol in table.iter_symbols() if table is not None else ():
        if symbol.name and symbol["st_info"]["bind"] != "STB_LOCAL":
            yield symbol
