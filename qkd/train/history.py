"""What is remembered of training: each epoch, and what each pass cost."""

from qkd.base.records import Record


class HistoryPoint(Record):
    """One epoch of one pass; None where nothing was measured."""

    pass_name: str
    epoch: int
    loss: float
    learning_rate: float
    validation_top1: float | None = None
    teacher_top1: float | None = None


class PassFact(Record):
    """What a pass cost and where the student stood after it."""

    name: str
    epochs: int
    seconds: float
    validation_top1: float | None
    note: str | None = None
    """What else a reader should know, as a sentence."""
