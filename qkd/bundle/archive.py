"""Static libraries: GNU `ar` archives with a symbol index, the same bytes on every run."""

import struct
from collections.abc import Sequence

from qkd.lower.objects import defined_symbols

MAGIC = b"!<arch>\n"
HEADER_BYTES = 60


def archive(objects: Sequence[tuple[str, bytes]]) -> bytes:
    """Put objects into a static library that GNU and LLVM linkers read.

    Parameters
    ----------
    objects : sequence of (str, bytes)
        File names, each ASCII without a slash, and ELF objects.

    Returns
    -------
    bytes
        Owner, mode and dates are fixed, as with `ar D`, so equal objects give an equal archive.
    """
    names = b"".join(name.encode() + b"/\n" for name, _ in objects)
    symbols = [(symbol, member) for member, (_, image) in enumerate(objects) for symbol in defined_symbols(image)]
    strings = b"".join(symbol.encode() + b"\0" for symbol, _ in symbols)
    index_bytes = 4 + 4 * len(symbols) + len(strings)
    start = len(MAGIC) + _member_bytes(index_bytes) + _member_bytes(len(names))
    offsets = _offsets([_member_bytes(len(image)) for _, image in objects], start)
    index = struct.pack(f">{1 + len(symbols)}I", len(symbols), *(offsets[member] for _, member in symbols)) + strings
    name_at = _offsets([len(name) + 2 for name, _ in objects], 0)
    members = [_member(f"/{at}", image) for at, (_, image) in zip(name_at, objects, strict=True)]
    return MAGIC + _member("/", index) + _member("//", names) + b"".join(members)


def _member(name: str, content: bytes) -> bytes:
    """A header and its content, filled up to an even number of bytes."""
    date, owner, group, mode = 0, 0, 0, 644
    header = f"{name:<16}{date:<12}{owner:<6}{group:<6}{mode:<8}{len(content):<10}`\n"
    return header.encode() + content + b"\n" * (len(content) % 2)


def _member_bytes(content_bytes: int) -> int:
    return HEADER_BYTES + content_bytes + content_bytes % 2


def _offsets(sizes: Sequence[int], start: int) -> list[int]:
    """Where each of several adjacent pieces begins."""
    starts = [start]
    for size in sizes[:-1]:
        starts.append(starts[-1] + size)
    return starts
