"""Profile: what a library costs on a device, layer by layer, with the kind of evidence behind every figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from qkd import __version__
from qkd.base.files import write_atomic
from qkd.base.records import Record, faults_in
from qkd.errors import RecipeError
from qkd.graph.graph import Op, QuantGraph
from qkd.graph.steps import steps
from qkd.proof.device_run import DeviceRun

if TYPE_CHECKING:
    from qkd.lower.lower import Library
    from qkd.tir.kernel import Kernel

Evidence = Literal[
    "board", "simulated_cycles", "emulated_instructions", "estimate", "emulated_board", "unidentified_board"
]
"""Where cost figures come from: a clock on a board, a cycle simulator, a counting emulator, a model of the core.

A board that is emulated, or does not prove that it is none, shows what a library computes; its clock shows nothing.
"""

TIMED: tuple[Evidence, ...] = ("board", "simulated_cycles", "estimate")
"""Evidence that can hold cycles or a latency."""

Count = Annotated[int, Field(ge=0)]


class LayerProfile(Record):
    """One operator; None is what was not measured."""

    name: str
    kind: str
    variant: str
    """The kernel that computes it."""
    macs: Count
    instructions: Count | None
    latency_us: Annotated[float, Field(ge=0)] | None = None
    constant_bytes: Count
    scratch_bytes: Count
    output_bytes: Count


class Profile(Record):
    """What one inference costs; None is what was not measured."""

    target: str
    graph_sha256: str
    evidence: Evidence | None
    """None: nothing was counted or timed, as on the host."""
    instructions: Count | None
    cycles: Count | None = None
    latency_us: Annotated[float, Field(ge=0)] | None = None
    board: str | None = None
    """What the board is and why it is believed to be that; None where no board was asked."""
    text_bytes: Count
    rodata_bytes: Count
    arena_bytes: Count
    stack_bytes: Count | None
    layers: tuple[LayerProfile, ...]
    tool_versions: dict[str, str]

    @property
    def flash_bytes(self) -> int:
        """Code and constants."""
        return self.text_bytes + self.rodata_bytes

    @model_validator(mode="after")
    def _instructions_are_not_time(self) -> Self:
        times = (self.cycles, self.latency_us, *(layer.latency_us for layer in self.layers))
        if any(time is not None for time in times) and self.evidence not in TIMED:
            raise ValueError(f"cycles and latency_us need evidence of time: {', '.join(TIMED)}")
        if self.evidence is None and self.instructions is not None:
            raise ValueError("instructions need evidence: emulated_instructions, for example")
        return self

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile, or raise RecipeError saying what is wrong with the file."""
        try:
            return cls.model_validate_json(path.read_text())
        except OSError as error:
            raise RecipeError(f"no profile can be read at {path}: {error.strerror}") from None
        except ValidationError as error:
            raise RecipeError(f"{path} is not a profile: {faults_in(error)}") from None


def profile(library: Library, run: DeviceRun) -> Profile:
    """Put together what a library holds and what a run of it measured.

    Parameters
    ----------
    library : Library
        The library that was run.
    run : DeviceRun
        Made with `profile=True` where something can be measured.

    Returns
    -------
    Profile
        With the evidence that `run` gives.
    """
    graph = library.graph
    ops = steps(graph)
    return Profile(
        target=library.target.name,
        graph_sha256=graph.sha256(),
        evidence=_evidence(run),
        instructions=run.instructions,
        latency_us=run.latency_us,
        board=None if run.board is None else f"{run.board.description}; {run.board.why}",
        text_bytes=library.text_bytes,
        rodata_bytes=library.rodata_bytes,
        arena_bytes=graph.arena_bytes or 0,
        stack_bytes=run.stack_bytes,
        layers=tuple(_layer(graph, op, k, run) for op, k in zip(ops, library.kernels, strict=True)),
        tool_versions={"qkd": __version__, **run.tool_versions},
    )


def _evidence(run: DeviceRun) -> Evidence | None:
    if run.board is not None:
        verdicts: dict[bool | None, Evidence] = {False: "board", True: "emulated_board", None: "unidentified_board"}
        return verdicts[run.board.emulated]
    return None if run.instructions is None else "emulated_instructions"


def _layer(graph: QuantGraph, op: Op, kernel: Kernel, run: DeviceRun) -> LayerProfile:
    return LayerProfile(
        name=op.name,
        kind=type(op).__name__,
        variant=kernel.variant,
        macs=graph.macs(op),
        instructions=(run.layer_instructions or {}).get(op.name),
        latency_us=(run.layer_latency_us or {}).get(op.name),
        constant_bytes=sum(constant.nbytes for constant in kernel.constants),
        scratch_bytes=kernel.scratch_bytes,
        output_bytes=graph.values[op.output].buffer_bytes,
    )
