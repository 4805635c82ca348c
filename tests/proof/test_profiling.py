"""Profile: figures with their evidence, None for what was not measured, strict files."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.random_graphs import residual_graph
from qkd.errors import RecipeError
from qkd.graph.steps import steps
from qkd.proof.device_run import DeviceRun
from qkd.proof.profiling import Profile, profile

if TYPE_CHECKING:
    from qkd.lower.lower import Library

GRAPH = residual_graph().with_plan({}, {}, 1104)
OPS = steps(GRAPH)
KERNELS = [SimpleNamespace(variant="generic", constants=(np.zeros(3, np.int32),), scratch_bytes=8) for _ in OPS]
LIBRARY = cast(
    "Library",
    SimpleNamespace(
        graph=GRAPH, target=SimpleNamespace(name="cortex_m4"), kernels=KERNELS, text_bytes=2000, rodata_bytes=500
    ),
)
OUTPUTS = np.zeros((1, 5), np.int32)
COUNTED = DeviceRun(
    OUTPUTS, instructions=100, layer_instructions={op.name: 7 for op in OPS}, stack_bytes=112,
    tool_versions={"qemu-system-arm": "7.2"},
)  # fmt: skip


def faulty(**changes: Any) -> dict[str, Any]:
    """A counted profile's fields with some of them changed."""
    return {**profile(LIBRARY, COUNTED).model_dump(), **changes}


def test_a_counted_run_gives_instructions_for_the_whole_and_for_each_layer() -> None:
    counted = profile(LIBRARY, COUNTED)
    assert counted.evidence == "emulated_instructions"
    assert counted.instructions == 100
    assert [layer.instructions for layer in counted.layers] == [7] * len(OPS)
    assert counted.stack_bytes == 112
    assert counted.flash_bytes == 2500
    assert counted.arena_bytes == 1104


def test_what_was_not_measured_is_none_and_has_no_evidence() -> None:
    bare = profile(LIBRARY, DeviceRun(OUTPUTS))
    assert bare.evidence is bare.instructions is bare.cycles is bare.latency_us is bare.stack_bytes is None
    assert {layer.instructions for layer in bare.layers} == {None}


def test_layers_carry_their_kernel_and_sizes() -> None:
    layer = profile(LIBRARY, COUNTED).layers[0]
    assert (layer.name, layer.kind, layer.variant) == ("conv_0", "Conv2d", "generic")
    assert (layer.constant_bytes, layer.scratch_bytes) == (12, 8)
    assert layer.macs == GRAPH.macs(OPS[0])
    assert layer.output_bytes == GRAPH.values[OPS[0].output].buffer_bytes


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    saved = profile(LIBRARY, COUNTED)
    saved.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == saved


def test_a_profile_names_the_tools_that_made_it() -> None:
    assert set(profile(LIBRARY, COUNTED).tool_versions) == {"qkd", "qemu-system-arm"}


@pytest.mark.parametrize("time", [{"latency_us": 3.5}, {"cycles": 100}])
def test_an_instruction_count_never_reads_as_time(time: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="need evidence of time"):
        Profile.model_validate(faulty(**time), strict=False)


def test_a_count_without_evidence_is_refused() -> None:
    with pytest.raises(ValidationError, match="instructions need evidence"):
        Profile.model_validate(faulty(evidence=None), strict=False)


def test_faults_of_a_file_are_reported_together_with_their_path(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile(LIBRARY, COUNTED).model_dump_json().replace('"arena_bytes":1104', '"arena_byte":-1'))
    with pytest.raises(RecipeError, match=r"(?s)profile\.json is not a profile: 2 faults.*arena_bytes.*arena_byte:"):
        Profile.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no profile can be read at .*nowhere\.json"):
        Profile.load(tmp_path / "nowhere.json")
