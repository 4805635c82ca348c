"""A pass's learning curves as files: one JSON object an epoch in history.jsonl, and TensorBoard events.

`tensorboard --logdir <run folder>` shows them while the run goes on. A pass that is resumed leaves no epoch twice.
"""

from collections.abc import Sequence
from pathlib import Path

from qkd.base.files import write_atomic
from qkd.train.history import HistoryPoint

HISTORY = "history.jsonl"
EVENTS = "events"
CURVES = ("loss", "learning_rate", "validation_top1", "teacher_top1")


class Journal:
    """The curves of one pass, kept in its folder.

    Parameters
    ----------
    folder : Path
        Of the pass.
    epoch : int
        The first that will be recorded; events of a killed run from there on are hidden.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second, spent only where a run is kept

        self.folder = folder
        self.writer = SummaryWriter(str(folder / EVENTS), purge_step=epoch)

    def record(self, history: Sequence[HistoryPoint]) -> None:
        """Write the whole history as lines, and its last epoch as events."""
        lines = "".join(point.model_dump_json() + "\n" for point in history)
        write_atomic(self.folder / HISTORY, lines)
        last = history[-1]
        for curve in CURVES:
            value = getattr(last, curve)
            if value is not None:
                self.writer.add_scalar(f"{last.pass_name}/{curve}", value, last.epoch)
        self.writer.flush()

    def close(self) -> None:
        """Finish the events file."""
        self.writer.close()
