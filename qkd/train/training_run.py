"""Run or resume all training passes of a recipe for one bit format; what has finished is never trained again.

A pass's folder is named by the hash of all that its result depends on: data, networks, settings, and every pass before
it with its options; the bits count only from the first pass that reads them, so all formats share what comes before.
"""

import copy
import ctypes
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from qkd import __version__
from qkd.base.progress import Reporter, Silent
from qkd.bits import Bits
from qkd.data.datasets import Dataset, load_data
from qkd.errors import RecipeError
from qkd.pipeline import Invariant, Pass, check_order, run_passes
from qkd.recipe import ModelSpec, Recipe, TrainSpec
from qkd.student.models import build_model
from qkd.student.student import QuantStudent, prepare
from qkd.train import parallel
from qkd.train.accelerator import make_deterministic, training_device
from qkd.train.checkpoint import load_result, save_result
from qkd.train.digests import array_sha256, digest, network_sha256
from qkd.train.state import (
    Role,
    Session,
    TrainState,
    derived_seed,
    student_is_quantized,
    student_is_trained,
    teacher_is_trained,
)
from qkd.train.weights_file import use_weights

TrainPass: TypeAlias = Pass[TrainState]


def train(
    recipe: Recipe, passes: Sequence[TrainPass], bits: Bits, folder: Path, reporter: Reporter,
    data: Dataset | None = None,
) -> TrainState:  # fmt: skip
    """Run the passes for one format, from wherever an earlier run in `folder` stopped.

    Parameters
    ----------
    recipe : Recipe
    passes : sequence of Pass
        What `qkd.passes.build_train_passes` makes of the recipe's tables.
    bits : Bits
        One of the recipe's formats.
    folder : Path
        Holds `passes/`, with checkpoints and results, and `data/`, the decoded images.
    reporter : Reporter
    data : Dataset or None
        The recipe's, where the caller has loaded it already (with `shared_data`).

    Returns
    -------
    TrainState
        With the trained `quantized` student, the float `student` it started from, and the history.
    """
    check_passes(passes, trained_networks(recipe))
    device = training_device(recipe.train)
    make_deterministic(device)
    parallel.start(device)
    if parallel.rank() > 0:
        reporter = Silent()
    torch.set_num_threads(recipe.train.threads or parallel.threads_for_each())
    keep_freed_memory()
    state = initial_state(recipe, shared_data(recipe, folder) if data is None else data, bits)
    folders = tuple(folder / "passes" / key for key in pass_keys(recipe, state, passes))
    state = replace(state, session=Session(folders, reporter))

    def keep(index: int, _: TrainPass, reached: TrainState) -> None:
        if parallel.rank() == 0:
            save_result(reached, folders[index])
        parallel.wait_for_all()  # the next format starts from the results of passes that it shares

    finished, state = _last_result(state, folders)
    parallel.wait_for_all()  # or a rank would see what another has computed meanwhile, and go on from there
    return run_passes(passes, state, observe=(keep,), start=finished)


def _last_result(state: TrainState, folders: Sequence[Path]) -> tuple[int, TrainState]:
    """How many passes are finished, and the state after them."""
    for finished in range(len(folders), 0, -1):
        found = load_result(state, folders[finished - 1])
        if found is not None:
            return finished, found
    return 0, state


def shared_data(recipe: Recipe, folder: Path) -> Dataset:
    """The recipe's data; under torchrun the first rank decodes it, the others find it decoded: call it on all ranks."""
    parallel.start(training_device(recipe.train))
    with parallel.first_rank_first():
        return load_data(recipe.data, folder / "data")


def trained_networks(recipe: Recipe) -> frozenset[Role]:
    """The networks that the recipe has trained weights for."""
    given: dict[Role, ModelSpec] = {"teacher": recipe.teacher, "student": recipe.student}
    return frozenset(role for role, spec in given.items() if spec.weights is not None)


def check_passes(passes: Sequence[TrainPass], trained: Container[Role] = ()) -> None:
    """Prove the order and that a quantized student comes out, or raise RecipeError; `trained` networks are so now."""
    rules: dict[Role, Invariant[TrainState]] = {"teacher": teacher_is_trained, "student": student_is_trained}
    check_order(passes, [rule for role, rule in rules.items() if role in trained])
    if not any(student_is_quantized in step.ensures for step in passes):
        names = ", ".join(step.name for step in passes)
        raise RecipeError(f'no pass quantizes the student (passes: {names}); add a table with name = "quantize"')


def initial_state(recipe: Recipe, data: Dataset, bits: Bits) -> TrainState:
    """Both networks with their first weights; RecipeError or UnsupportedOpError where they cannot work."""
    seed, shape = recipe.train.seed, data.input_shape
    teacher = build_model(recipe.teacher, data.classes, shape, derived_seed(seed, "teacher"))
    student = build_model(recipe.student, data.classes, shape, derived_seed(seed, "student"))
    for network, spec in ((teacher, recipe.teacher), (student, recipe.student)):
        if spec.weights is not None:
            use_weights(network, Path(spec.weights))
        if min(recipe.train.batch_size, len(data.train)) == 1:
            _check_single_images(network, shape)
    prepare(student, bits, shape, recipe.train.quantizer)  # whether it can be quantized is known before the first epoch
    return TrainState(data, recipe.train, bits, teacher, student, trained=trained_networks(recipe))


def _check_single_images(network: torch.nn.Module, shape: tuple[int, int, int]) -> None:
    """Refuse batches of one image where a batch norm would see one value a channel."""
    try:
        copy.deepcopy(network).train()(torch.zeros(1, shape[2], *shape[:2]))
    except ValueError as error:
        raise RecipeError(
            f"a training batch would be one image, and {type(network).__name__} does not train on that: {error}; use a "
            "larger train.batch_size or a smaller data.validation"
        ) from error


def untrained_student(recipe: Recipe, classes: int, input_shape: tuple[int, int, int], bits: Bits) -> QuantStudent:
    """A quantized student with its first weights: shapes are enough to ask whether it fits a device."""
    return prepare(build_model(recipe.student, classes, input_shape, 0), bits, input_shape, recipe.train.quantizer)


def pass_keys(recipe: Recipe, state: TrainState, passes: Sequence[TrainPass]) -> tuple[str, ...]:
    """A folder name for each pass: its place, its name and the hash of all that its result depends on."""
    settings, rounding = shared_settings(state.settings)
    found = digest(
        __version__, torch.__version__, settings, state.data.crop_padding, state.data.flip,
        [array_sha256(a) for s in (state.data.train, state.data.validation) for a in (s.images, s.labels)],
        [spec.model_dump(exclude={"weights"}) for spec in (recipe.teacher, recipe.student)],
        network_sha256(state.teacher), network_sha256(state.student),
    )  # fmt: skip
    keys = []
    for index, step in enumerate(passes):
        if student_is_quantized in step.ensures:
            found = digest(found, str(state.bits), *rounding)
        found = digest(found, step.name, repr(step))  # a dataclass prints its options
        keys.append(f"{index + 1:02}_{step.name}_{found[:16]}")
    return tuple(keys)


def shared_settings(settings: TrainSpec) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """What every pass depends on, and what only passes with a quantized student do, as far as it was changed."""
    shared = settings.model_dump(exclude={"quantizer", "device", "validate_every"})
    device = training_device(settings).type
    rounding = settings.quantizer.model_dump(exclude_defaults=True)
    return shared if device == "cpu" else shared | {"device": device}, (rounding,) if rounding else ()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees: giving it back and faulting it in again costs a quarter of the step."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library, which has its own policy
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 1 << 28)
