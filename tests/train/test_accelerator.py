"""Where training computes: what is chosen, and that a whole step keeps to one device.

There is no CUDA device here. torch's meta device computes no values but refuses to mix devices as CUDA does, so a step
on it shows that every tensor was moved; kernels, nccl and speed on CUDA are not shown by anything here.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qkd.data.pixels import image_batch
from qkd.errors import RecipeError
from qkd.passes.train.co_study import CoStudy
from qkd.passes.train.quantize import Quantize
from qkd.recipe import TrainSpec
from qkd.student.student import calibrate
from qkd.train import training
from qkd.train.accelerator import CPU, make_deterministic, precision, training_device
from qkd.train.gradient_boost import GradBoost
from qkd.train.job import Job
from qkd.train.knowledge.response import ResponseLoss
from qkd.train.optimisation import Learner
from qkd.train.state import TrainState
from qkd.train.training_run import shared_settings
from tests.support.networks import SHAPE, random_pixels, small_student, tiny_state

META = torch.device("meta")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch believes that there are CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_the_processor_is_used_where_there_is_no_cuda_device() -> None:
    assert training_device(TrainSpec()) == training_device(TrainSpec(device="cpu")) == CPU
    with pytest.raises(RecipeError, match=r"train\.device is 'cuda', but torch finds no CUDA device"):
        training_device(TrainSpec(device="cuda"))


@pytest.mark.usefixtures("cuda")
def test_each_process_gets_its_own_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training_device(TrainSpec(device="cpu")) == CPU
    assert training_device(TrainSpec()) == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert training_device(TrainSpec(device="cuda")) == torch.device("cuda:3")


@pytest.mark.usefixtures("cuda")
def test_passes_trained_on_cuda_have_other_keys() -> None:
    on_processor, on_cuda = (shared_settings(TrainSpec(device=name))[0] for name in ("cpu", "auto"))
    assert "device" not in on_processor
    assert on_cuda == on_processor | {"device": "cuda"}


def test_mixed_precision_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(torch, "autocast", lambda *given: used.append(given))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, have=supported: have)
        precision(TrainSpec(mixed_precision=True), torch.device("cuda:0"))
    precision(TrainSpec(mixed_precision=True), CPU)
    precision(TrainSpec(), CPU)
    assert used == [("cuda", torch.bfloat16), ("cpu", torch.bfloat16)]


def test_nothing_is_switched_on_the_processor() -> None:
    make_deterministic(CPU)
    assert not torch.are_deterministic_algorithms_enabled()


def job_of_everything(state: TrainState) -> Job:
    """Student, teacher that learns, frozen teacher, noise on gradients."""
    student, teacher = state.student_to_train(), state.teacher
    response = ResponseLoss(2.0)

    def loss(images: Tensor, labels: Tensor, frozen_NK: Tensor) -> Tensor:
        own_NK, teacher_NK = student(images), teacher(images)
        return response(own_NK, frozen_NK, labels) + response(teacher_NK, own_NK, labels)

    learners = {"quantized": Learner(student, 0.1), "teacher": Learner(teacher, 0.1)}
    boost = GradBoost([p for learner in learners.values() for p in learner.network.parameters()])
    return Job("everything", 1, learners, loss, teacher=state.student, gradients=boost)  # type: ignore[arg-type]


def on_every_network(state: TrainState, test: Callable[[nn.Module], bool]) -> bool:
    """Whether something holds of all networks of a job."""
    return all(test(network) for network in (state.student_to_train(), state.teacher, state.student))


def test_a_whole_step_keeps_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Quantize(32, 2)(tiny_state(bits="ternary-A8", quantizer={"dampening": 0.1}))
    monkeypatch.setattr(training, "training_device", lambda settings: META)
    run = training._Run(job_of_everything(state), state)
    with pytest.raises(RuntimeError, match="meta"):  # the last line of a step reads the loss's value
        run._step(torch.arange(32), 0, torch.Generator().manual_seed(0))
    assert on_every_network(state, lambda network: all(p.device == META for p in network.parameters()))
    stepped = [p for learner in run.job.learners.values() for p in learner.network.parameters()]
    assert all(p.grad is not None and p.grad.device == META for p in stepped)
    assert all(kept["momentum_buffer"].device == META for kept in run.optimiser.state.values())


def test_steps_are_fitted_where_the_student_lies() -> None:
    student = small_student().to(META)
    calibrate(student, image_batch(random_pixels(SHAPE, 4)))
    assert all(layer.output.raw.device == META for layer in student.ordered() if layer.output is not None)


def test_networks_go_back_to_main_memory_after_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    to = nn.Module.to

    def noted(self: nn.Module, device: torch.device) -> nn.Module:
        moved.append(str(device))
        return to(self, device)

    monkeypatch.setattr(nn.Module, "to", noted)
    CoStudy(1)(Quantize(32, 2)(tiny_state()))
    assert moved == ["cpu"] * 4  # two networks, to the device and back
