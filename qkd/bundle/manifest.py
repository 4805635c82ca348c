"""manifest.json of a bundle: what the folder holds, what it was made of and with, and whether it is still that."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError

from qkd.base.records import Record, faults_in
from qkd.errors import RecipeError
from qkd.recipe import Recipe
from qkd.target import Target

MANIFEST = "manifest.json"

Memory: TypeAlias = Literal["flash", "arena", "stack"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Size(Record):
    """Bytes of one kind of memory and how they are known; None where nothing was measured."""

    size_bytes: Annotated[int, Field(ge=0)] | None
    evidence: str


class Manifest(Record):
    """Everything that must be known of a bundle to trust it and to make it again."""

    format: Literal[1]
    name: str
    bits: str
    graph_sha256: Sha256
    """Of what the model computes; the same on every device."""
    target: Target
    sizes: dict[Memory, Size]
    macs: Annotated[int, Field(ge=0)]
    tool_versions: dict[str, str]
    recipe: Recipe | None
    """The resolved recipe; None where the graph did not come from one."""
    files: dict[str, Sha256]
    """Path within the folder to hash, for every file but the manifest."""


def file_hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, in order of path."""
    return {path: hashlib.sha256(files[path]).hexdigest() for path in sorted(files)}


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises
    ------
    RecipeError
        When there is none, or it is not one of this version, with every fault.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError:
        raise RecipeError(f"{folder} is not a bundle: it has no readable {MANIFEST}; `qkd run` writes one") from None
    except ValidationError as error:
        raise RecipeError(f"{path} has {faults_in(error)}") from None


def check_bundle(folder: Path) -> Manifest:
    """Read the manifest and compare every file with its hash; files beside them, such as a build folder, do not matter.

    Raises
    ------
    RecipeError
        Naming each file that is missing or was changed.
    """
    manifest = read_manifest(folder)
    faults = [fault for path, sha256 in manifest.files.items() if (fault := _fault(folder, path, sha256))]
    if faults:
        listed = "\n  ".join(faults)
        raise RecipeError(
            f"{folder} is no longer what was proved; {len(faults)} of {len(manifest.files)} files differ:\n  {listed}\n"
            "Write the bundle again with `qkd run`."
        )
    return manifest


def _fault(folder: Path, path: str, sha256: str) -> str | None:
    try:
        found = hashlib.sha256((folder / path).read_bytes()).hexdigest()
    except OSError:
        return f"{path}: missing or not readable"
    return None if found == sha256 else f"{path}: changed (sha256 {found[:12]}…, should be {sha256[:12]}…)"
