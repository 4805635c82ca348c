"""A buffer of the arena as results and reports hold it."""

from qkd.base.records import Record


class BufferFact(Record):
    """A buffer of the arena, live from step `first` to step `last`."""

    name: str
    offset_bytes: int
    size_bytes: int
    first: int
    last: int
    scratch: bool
