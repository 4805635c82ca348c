"""Two ranks of torchrun give the weights of one process at the same global batch, to 1e-5 after 50 steps.

Float networks are compared as they are trained. A quantized one is compared in float64: in float32 the other order of
sums moves a value by its last bit, rounding may turn that into a whole code, and the comparison would test luck.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qkd.data.pixels import image_batch
from qkd.errors import RecipeError
from qkd.passes.train.co_study import CoStudy
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.re_estimate_batch_norm import ReEstimateBatchNorm
from qkd.passes.train.self_study import Qat
from qkd.student import student
from qkd.student.models import digits_teacher
from qkd.student.quantizer import FLOOR_FRACTION, LearnedStep
from qkd.train import augment, evaluation, norm_statistics, parallel
from qkd.train.state import Session, TrainState
from tests.support.networks import tiny_state

EPOCHS = 17  # of 3 steps
LOW_RATE = 0.002
"""At ten times of it this student is chaotic: differences grow threefold a step, 1e-16 becomes 1e-2 after 51 steps."""
MINUTE = 60

RECIPE = """
name = "small"
bits = ["W4A8"]
devices = ["host"]
[data]
name = "digits"
validation = 300
crop_padding = 1
[teacher]
model = "{teacher}"
options = {{ width = 8 }}
[student]
model = "digits_student"
options = {{ width = 8 }}
[train]
batch_size = 64
threads = 1
[[passes]]
name = "pretrain"
network = "teacher"
epochs = 1
[[passes]]
name = "pretrain"
network = "student"
epochs = 1
[[passes]]
name = "quantize"
calibration_images = 64
norm_batches = 4
[[passes]]
name = "self_study"
epochs = 1
[[passes]]
name = "co_study"
epochs = 1
[[passes]]
name = "tutoring"
epochs = 1
[verify]
host = 20
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the ranks; threads that wait for each other make networks this small no faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained() -> TrainState:
    """51 float steps."""
    return Pretrain("student", EPOCHS)(tiny_state())


def with_inner_layer(state: TrainState) -> TrainState:
    """The student with a second convolution and batch norm, whose weights have the format's bits."""
    first, norm, relu, *rest = state.student.children()
    inner = (nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return replace(state, student=nn.Sequential(first, norm, relu, *inner, *rest))


def trained_quantized(replace_name: Callable[[object, str, object], None]) -> TrainState:
    """51 quantized steps in float64 from first weights, then re-estimated statistics; images stay float64."""
    state = Quantize(32, 2)(with_inner_layer(tiny_state(bits="W4A4", quantizer={"dampening": 0.1})))
    images_in_double(replace_name)
    state = replace(state, quantized=state.student_to_train().double())
    return ReEstimateBatchNorm(2)(Qat(EPOCHS, LOW_RATE, step_rate=1.0)(state))


def images_in_double(replace_name: Callable[[object, str, object], None]) -> None:
    """Let every part of training get its images as float64."""

    def doubled(pixels: Tensor) -> Tensor:
        return image_batch(pixels).double()

    for module in (augment, evaluation, norm_statistics, student):
        replace_name(module, "image_batch", doubled)


def worker(folder: Path) -> None:
    """What each rank does: train, check that it agrees with the others, and keep the first one's weights."""
    torch.set_num_threads(1)
    parallel.start()
    first = trained()
    both = CoStudy(1)(Quantize(32, 2)(Pretrain("teacher", 1)(first)))
    checkpointed = replace(tiny_state(), session=Session((folder / "pass",)))
    Pretrain("student", 1)(checkpointed)
    mixed = Pretrain("student", 1)(tiny_state(mixed_precision=True))
    quantized = trained_quantized(setattr)
    for network in (first.student, mixed.student, both.teacher, both.student_to_train(), quantized.student_to_train()):
        for tensor in network.state_dict().values():
            other = tensor.detach().clone().double()
            torch.distributed.broadcast(other, 0)
            if not torch.equal(other, tensor.double()):
                raise SystemExit("the ranks have different weights")
    if parallel.rank() == 0:
        torch.save(first.student.state_dict(), folder / "float.pt")
        torch.save(quantized.student_to_train().state_dict(), folder / "quantized.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    code = f"from pathlib import Path; from tests.train.test_parallel import worker; worker(Path({str(folder)!r}))"
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=4 * MINUTE)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return folder


def largest_difference(path: Path, network: nn.Module) -> float:
    """Between stored tensors and a network's."""
    stored, own = torch.load(path, weights_only=True), network.state_dict()
    assert stored.keys() == own.keys()
    return max(float((own[name] - stored[name]).abs().max()) for name in own)


def test_two_ranks_equal_one_process(two_ranks: Path) -> None:
    assert largest_difference(two_ranks / "float.pt", trained().student) < 1e-5


def test_two_ranks_equal_one_process_with_a_quantized_student(two_ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trained_quantized(monkeypatch.setattr).student_to_train()
    steps = [m for m in one.modules() if isinstance(m, LearnedStep)]
    moved = [float((m.raw.detach() - m.floor / FLOOR_FRACTION).abs().max()) for m in steps]
    assert min(moved) > 1e-5  # they have learned more than they may differ
    names = {name.split(".", 2)[2] for name in one.state_dict()}
    assert {"weight_step.raw", "output.raw", "norm.running_mean", "norm.running_var"} <= names
    assert largest_difference(two_ranks / "quantized.pt", one) < 1e-5


def test_statistics_of_bfloat16_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_sum_over_ranks", lambda x: x)  # of one
    own, torchs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    y = parallel._SharedForward(own)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, torchs(x))
    torch.testing.assert_close(own.running_var, torchs.running_var)


def test_another_number_of_ranks_is_refused(two_ranks: Path) -> None:
    alone = replace(tiny_state(), session=Session((two_ranks / "pass",)))
    with pytest.raises(RecipeError, match="begun by 2 processes and cannot go on with 1"):
        Pretrain("student", 1)(alone)


def torchrun(folder: Path, teacher: str) -> subprocess.CompletedProcess[str]:
    """The command of `qkd.train.parallel` on a short recipe; what each rank prints lies in folder/logs."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(teacher=teacher))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--redirects",
        "3",
    ]
    command += ["--log-dir", str(folder / "logs"), "-m", "qkd", "run", str(recipe), "--out", str(folder / "run")]
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * MINUTE, check=False)


def printed(folder: Path, rank: int, stream: str) -> str:
    """What a rank printed."""
    (path,) = (folder / "logs").glob(f"*/attempt_0/{rank}/{stream}.log")
    return path.read_text()


@pytest.mark.slow
def test_torchrun_does_a_whole_recipe_and_only_the_first_rank_writes(tmp_path: Path) -> None:
    done = torchrun(tmp_path, "digits_teacher")
    assert done.returncode == 0, done.stderr + printed(tmp_path, 0, "stderr") + printed(tmp_path, 1, "stderr")
    assert (tmp_path / "run" / "report.html").exists()
    assert "firmware" in printed(tmp_path, 0, "stdout")
    assert printed(tmp_path, 1, "stdout") == ""
    folders = sorted((tmp_path / "run" / "passes").iterdir())
    assert [folder.name[3:].rsplit("_", 1)[0] for folder in folders] == [
        "pretrain", "pretrain", "quantize", "self_study", "co_study", "tutoring"
    ]  # fmt: skip
    assert all((folder / "result.pt").exists() for folder in folders)
    events = [len(list(folder.glob("events/*"))) for folder in folders]
    assert events == [1, 1, 0, 1, 1, 1]  # a second rank that wrote would have opened a second file


def dies_on_the_second_rank(classes: int, input_shape: tuple[int, int, int], width: int) -> nn.Module:
    """A teacher whose fifth forward kills the process of rank 1, as a machine that fails would."""

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = digits_teacher(classes, input_shape, width)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 5 and os.environ.get("RANK") == "1":
                os._exit(9)
            return self.inner(x)  # type: ignore[no-any-return]

    return Fails()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_nothing_hangs(tmp_path: Path) -> None:
    done = torchrun(tmp_path, "tests.train.test_parallel:dies_on_the_second_rank")  # its time limit is the test
    assert done.returncode != 0
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 2)
    assert parallel.my_part(6) == slice(4, 6)
    with pytest.raises(RecipeError, match="32 images cannot be shared by 3"):
        parallel.my_part(32)


def test_one_process_is_the_first_of_one_and_averages_nothing() -> None:
    assert (parallel.rank(), parallel.world_size(), parallel.my_part(5)) == (0, 1, slice(0, 5))
    assert parallel.average(3.5) == 3.5


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert parallel.threads_for_each() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert parallel.threads_for_each() == 2
