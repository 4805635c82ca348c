"""The recipe: what to train and for which devices. A TOML file becomes one strict, frozen Recipe."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from qkd.base.records import Record, faults_in
from qkd.bits import Bits
from qkd.errors import QkdError, RecipeError

Positive = Annotated[int, Field(gt=0)]


class DataSpec(Record):
    """Which data set, and how it is split and augmented."""

    name: Literal["digits", "cifar10", "parquet"]
    """digits is scikit-learn's; parquet is any image folder in Hugging Face's layout, cifar10 one of 10 classes."""
    path: str | None = None
    """Folder of a parquet data set, relative to the recipe or absolute; digits needs none."""
    validation: Positive
    """Training images held out for choices; the same ones for every seed."""
    crop_padding: Annotated[int, Field(ge=0, le=8)] = 0
    flip: bool = False


class ModelSpec(Record):
    """A network by name (`qkd list` names them) or as `package.module:function`, and its options."""

    model: str
    options: dict[str, int | float] = Field(default_factory=dict)
    weights: str | None = None
    """File of trained weights, relative to the recipe or absolute; a network that has them needs no pretrain pass."""


class QuantizerSpec(Record):
    """How a student rounds beyond its bits, in every pass that quantizes; the defaults are plain learned steps."""

    ternary_thresholds: Literal["symmetric", "asymmetric"] = "symmetric"
    """Ternary weights become ±1 beyond half a step, or beyond a learned threshold a side (`qkd.student.ternary`)."""
    dampening: Annotated[float, Field(ge=0)] = 0.0
    """Final pull of the weights towards their codes, against oscillation (`qkd.train.dampening`); 0: none."""


class TrainSpec(Record):
    """What every training pass shares."""

    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    mixed_precision: bool = False
    """bfloat16 products while training; only pays on processors that have them (AVX512-BF16, AMX)."""
    compile: bool = False
    """Fuse quantized students with torch.compile: costs up to a minute a pass, saves a fifth of a float32 step; passes
    that train float networks alone stay as they are, since their steps become no faster."""
    validate_every: Positive = 1
    """Epochs between validations, which are for watching: the last epoch of a pass always has one, and so has every
    epoch of a pass that keeps its best."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """0: all cores. Results repeat bit for bit only with the same number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" trains on a CUDA device where torch finds one; results repeat bit for bit only on the same kind."""
    quantizer: QuantizerSpec = QuantizerSpec()


class BudgetSpec(Record):
    """Upper limits besides the device's own memory; None leaves the device's."""

    flash_bytes: Positive | None = None
    arena_bytes: Positive | None = None
    scratch_bytes: Annotated[int, Field(ge=0)] | None = None
    """What one layer's workspace may take of the arena; a faster kernel that needs more is not chosen."""


class VerifySpec(Record):
    """How many test images each kind of device must compute exactly; 0 is the whole test split."""

    host: Annotated[int, Field(ge=0)] = 0
    aarch64: Annotated[int, Field(ge=0)] = 0
    cortex_m: Annotated[int, Field(ge=0)] = 0


class Recipe(Record):
    """Everything a run depends on."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    data: DataSpec
    teacher: ModelSpec
    student: ModelSpec
    bits: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    devices: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    train: TrainSpec = TrainSpec()
    passes: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, strict=False)]
    """Tables with `name` and the pass's own options, in order; checked against `qkd.passes.TRAIN_PASSES`."""
    budget: BudgetSpec = BudgetSpec()
    verify: VerifySpec = VerifySpec()

    @field_validator("bits", "devices", mode="before")
    @classmethod
    def _is_a_list(cls, names: Any) -> Any:
        if isinstance(names, str):
            raise ValueError(f'write a list, ["{names}"]')
        return names

    @field_validator("bits", "devices")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} stands there more than once; name each once")
        return names

    @field_validator("bits")
    @classmethod
    def _bits_parse(cls, bits: tuple[str, ...]) -> tuple[str, ...]:
        for text in bits:
            try:
                Bits.parse(text)
            except RecipeError as error:
                raise ValueError(str(error)) from error
        return bits


def load_recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file and apply `key=value` changes (`train.seed=1`), or raise RecipeError naming every fault."""
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}; the ones that ship are in benchmarks/recipes/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} is not a readable TOML file: {error}") from error
    for change in changes:
        _apply(table, change)
    return _with_absolute_paths(parse_recipe(table, str(path)), path.parent)


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its files found from anywhere; they stand relative to `folder`."""
    changed: dict[str, Record] = {}
    for name, key in (("data", "path"), ("teacher", "weights"), ("student", "weights")):
        part = getattr(recipe, name)
        if getattr(part, key) is not None:
            changed[name] = part.model_copy(update={key: str((folder / getattr(part, key)).resolve())})
    return recipe.model_copy(update=changed)


def parse_recipe(table: dict[str, Any], source: str) -> Recipe:
    """Validate a table, reporting all its faults together."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise RecipeError(f"{source} has {faults_in(error)}") from None


def _apply(table: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator:
        raise RecipeError(f"change {change!r} is not key=value; write for example train.seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"change {change!r}: {parent!r} is not a table of the recipe")
    table[last] = value


def pass_fault(error: QkdError | ValidationError, where: str) -> RecipeError:
    """Word a pass option's fault as the recipe's other faults are worded."""
    if isinstance(error, ValidationError):
        return RecipeError(f"{where} has {faults_in(error, where + '.')}")
    return RecipeError(f"{where}: {error}")
