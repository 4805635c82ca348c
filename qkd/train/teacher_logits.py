"""What a frozen teacher says to each training view, kept on disk: formats and arms that share views ask it once.

A view is a function of (seed, pass, epoch), so logits are kept by epoch under the hash of the whole view: images,
border and mirroring, seed, place of the pass, batch size, precision, and the teacher's weights. Where views are the
images themselves, the teacher is asked about each image once.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from qkd import __version__
from qkd.train import parallel
from qkd.train.accelerator import training_device
from qkd.train.augment import Views
from qkd.train.checkpoint import read_tensors, write_tensors
from qkd.train.digests import array_sha256, digest, network_sha256
from qkd.train.state import TrainState

FOLDER = "teacher_logits"
Response = Callable[[Tensor], Tensor]


class TeacherLogits:
    """The logits of one pass's views, batch by batch.

    Parameters
    ----------
    respond : callable
        The teacher in eval mode and in the pass's precision: images to logits (N, K).
    folder : Path or None
        Where the logits of these very views are kept; None keeps nothing.
    """

    def __init__(self, respond: Response, folder: Path | None) -> None:
        self.respond = respond
        self.folder = folder
        self.known_NK: Tensor | None = None
        self.asked: list[Tensor] = []

    def begin(self, epoch: int) -> None:
        """Read what an earlier run kept of an epoch."""
        self.asked = []
        content = read_tensors(self._file(epoch)) if self.folder else None
        self.known_NK = None if content is None else content["logits"]

    @torch.no_grad()
    def batch(self, images: Tensor, position: slice, index_N: Tensor) -> Tensor:
        """Logits of the views at `position` in the epoch's order; they are of the images `index_N`."""
        if self.known_NK is not None:
            return self.known_NK[position].to(images.device)
        logits_NK = self.respond(images)
        if self.folder is not None:
            self.asked.append(logits_NK.cpu())
        return logits_NK

    def end(self, epoch: int) -> None:
        """Keep a whole epoch's logits."""
        if self.folder is not None and self.known_NK is None:
            write_tensors(self._file(epoch), {"logits": torch.cat(self.asked)})
        self.asked = []

    def _file(self, epoch: int) -> Path:
        return (self.folder or Path()) / f"epoch_{epoch:04}.pt"


class LogitsOfImages(TeacherLogits):
    """The logits of a data set that is not augmented: of each image, whatever the epoch and the order.

    Parameters
    ----------
    respond, folder
        As above.
    views : Views
        The training images, about which the teacher is asked in their own order, in the first step.
    batch_size : int
        Images that it is asked about at once.
    """

    def __init__(self, respond: Response, folder: Path | None, views: Views, batch_size: int) -> None:
        super().__init__(respond, folder)
        self.views = views
        self.batch_size = batch_size

    def begin(self, epoch: int) -> None:
        """Epochs are alike here."""

    @torch.no_grad()
    def batch(self, images: Tensor, position: slice, index_N: Tensor) -> Tensor:
        """Logits of the images `index_N`."""
        if self.known_NK is None:
            self.known_NK = self._read_or_ask()
        return self.known_NK[index_N].to(images.device)

    def end(self, epoch: int) -> None:
        """Nothing is left to keep."""

    def _read_or_ask(self) -> Tensor:
        file = self.folder / "images.pt" if self.folder else None
        content = read_tensors(file) if file else None
        if content is not None:
            return torch.as_tensor(content["logits"])
        every, unused = torch.arange(len(self.views.padded_NHWC)), torch.Generator()
        batches = (self.views.batch(index_N, unused) for index_N in torch.split(every, self.batch_size))
        logits_NK = torch.cat([self.respond(images).cpu() for images in batches])
        if file:
            write_tensors(file, {"logits": logits_NK})
        return logits_NK


def view_key(state: TrainState, teacher: nn.Module, batch_size: int) -> str:
    """Hash of all that a pass's views and the teacher's answers to them depend on."""
    data, settings = state.data, state.settings
    device = training_device(settings).type
    other_device = () if device == "cpu" else (device,)
    drawn = (settings.seed, len(state.passes)) if data.augmented else ()
    return digest(
        array_sha256(data.train.images), data.train.images.shape, data.crop_padding, data.flip, *drawn, batch_size,
        settings.mixed_precision, settings.compile, torch.get_num_threads(), torch.__version__, __version__,
        parallel.rank(), parallel.world_size(), network_sha256(teacher), *other_device,
    )[:32]  # fmt: skip


def kept_logits(
    state: TrainState, teacher: nn.Module, views: Views, batch_size: int, respond: Response
) -> TeacherLogits:
    """The logits of the next pass, kept beside the passes of its run."""
    own = state.checkpoint_folder()
    folder = own.parent.parent / FOLDER / view_key(state, teacher, batch_size) if own else None
    if state.data.augmented:
        return TeacherLogits(respond, folder)
    return LogitsOfImages(respond, folder, views, batch_size)
