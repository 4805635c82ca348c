"""What a run found out, as it lies in results.json; the table, the report and the benchmarks are views of it."""

from pathlib import Path

from pydantic import Field, ValidationError

from qkd.base.files import write_atomic
from qkd.base.records import Record
from qkd.errors import RecipeError
from qkd.graph.arena import BufferFact
from qkd.graph.graph import Conv2d, DepthwiseConv2d, FullyConnected, Op, QuantGraph, Value
from qkd.graph.steps import steps
from qkd.proof.profiling import Profile
from qkd.train.history import HistoryPoint, PassFact


class LayerFact(Record):
    """A layer of the integer graph; `weight_format` is int8, int4, int2, ternary, codebook<levels> or None."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    weight_format: str | None
    weight_bytes: int | None
    macs: int


class DeviceResult(Record):
    """Proof and profile of one format on one device; with `skipped` only the reason is known."""

    name: str
    description: str
    skipped: str | None = None
    images: int | None = None
    elements: int | None = None
    differing: int | None = None
    first_difference: str | None = None
    profile: Profile | None = None
    buffers: tuple[BufferFact, ...] = ()
    reasons: dict[str, str] = Field(default_factory=dict)
    """By layer: why its kernel was chosen, and why it is safe."""
    firmware: str | None = None
    """The bundle's folder, relative to the run's."""


class FormatResult(Record):
    """One bit format: how it was trained, what freezing kept, and every device."""

    bits: str
    graph_sha256: str
    passes: tuple[PassFact, ...]
    history: tuple[HistoryPoint, ...]
    layers: tuple[LayerFact, ...]
    top1_float: float | None
    top1_torch: float
    top1_exact: float
    top1_integer: float
    agreement: float
    agreement_exact: float
    devices: tuple[DeviceResult, ...] = ()


class RunResult(Record):
    """Everything that one `qkd run` found out."""

    recipe_name: str
    recipe_path: str
    recipe_text: str
    student: str
    teacher: str
    data: str
    data_note: str
    test_images: int
    date: str
    machine: str
    tool_versions: dict[str, str]
    formats: tuple[FormatResult, ...]

    def save(self, path: Path) -> None:
        """Write results.json."""
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RunResult":
        """Read results.json, or raise RecipeError saying what is wrong with it."""
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise RecipeError(f"no results at {path}; name the --out folder of a finished `qkd run`") from None
        except ValidationError:
            raise RecipeError(f"{path} is not a results file of this version of qkd; run again") from None


class Row(Record):
    """One line of the table that ends a run, and of benchmarks/results/thread.json."""

    recipe: str
    bits: str
    core: str
    n: int | None
    differing: int | None
    elements: int | None
    top1_float: float | None
    top1_torch: float
    top1_integer: float
    train_seconds: float
    """Wall time of all passes of the format, whichever run trained them: what it takes from nothing."""
    flash_bytes: int | None
    arena_bytes: int | None
    stack_bytes: int | None
    instructions: int | None
    evidence: str | None
    skipped: str | None


def layer_facts(graph: QuantGraph) -> tuple[LayerFact, ...]:
    """The layers of a graph as the report lists them; a reshape is none."""
    return tuple(_layer_fact(graph, op) for op in steps(graph))


def _layer_fact(graph: QuantGraph, op: Op) -> LayerFact:
    weight = graph.values[op.weight] if isinstance(op, Conv2d | DepthwiseConv2d | FullyConnected) else None
    return LayerFact(
        name=op.name,
        kind=type(op).__name__,
        output_shape=graph.values[op.output].shape,
        weight_format=None if weight is None else _weight_format(weight),
        weight_bytes=None if weight is None else weight.elements * weight.packed_bits // 8,
        macs=graph.macs(op),
    )


def _weight_format(weight: Value) -> str:
    if weight.codebook is not None:
        return f"codebook{weight.codebook.shape[-1]}"
    return "ternary" if (weight.qmin, weight.qmax) == (-1, 1) else f"int{weight.bits}"


def rows(result: RunResult) -> list[Row]:
    """The table of a run: one row a format and device."""
    return [_row(result.recipe_name, f, d) for f in result.formats for d in f.devices]


def _row(recipe_name: str, format_: FormatResult, device: DeviceResult) -> Row:
    cost = device.profile
    return Row(
        recipe=recipe_name,
        bits=format_.bits,
        core=device.name,
        n=device.images,
        differing=device.differing,
        elements=device.elements,
        top1_float=format_.top1_float,
        top1_torch=format_.top1_torch,
        top1_integer=format_.top1_integer,
        train_seconds=sum(step.seconds for step in format_.passes),
        flash_bytes=None if cost is None else cost.flash_bytes,
        arena_bytes=None if cost is None else cost.arena_bytes,
        stack_bytes=None if cost is None else cost.stack_bytes,
        instructions=None if cost is None else cost.instructions,
        evidence=None if cost is None else cost.evidence,
        skipped=device.skipped,
    )
