"""Library × device → DeviceResult and firmware folder: every element compared, every instruction counted, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from qkd.base.files import write_atomic
from qkd.base.machine import package_versions
from qkd.base.progress import Reporter
from qkd.base.records import Record
from qkd.bundle.bundle import BundleFacts, write_bundle
from qkd.bundle.manifest import check_bundle
from qkd.errors import RecipeError
from qkd.graph.arena import BufferFact
from qkd.lower.lower import Library
from qkd.proof.device_run import DeviceRun
from qkd.proof.profiling import Profile, profile
from qkd.proof.results import DeviceResult
from qkd.proof.verification import verify
from qkd.recipe import Recipe

REFUTED = "firmware-refuted"
"""Where a bundle goes whose library computes something else than the reference."""

GOLDEN_SAMPLES = 4
"""Test images that travel with the firmware for its self-test."""


class DeviceRunner(Protocol):
    """A linked library that can be run; `qkd.targets.running.runners.open_runner` gives one."""

    def __call__(self, inputs: NDArray[np.int8], trace: bool = False, profile: bool = False) -> DeviceRun: ...


OpenRunner = Callable[[Library], AbstractContextManager[DeviceRunner]]


@dataclass(frozen=True, eq=False)
class ProofTask:
    """What a proof needs besides the library: where it runs, what goes through it, what its folder tells."""

    recipe: Recipe
    bits: str
    inputs: NDArray[np.int8]
    buffers: tuple[BufferFact, ...]
    runtime: Mapping[str, bytes]
    folder: Path
    shared_library: bytes | None = None
    """Linked for Linux, to travel with the firmware."""


class _Proof(Record):
    key: str
    result: DeviceResult


def prove(library: Library, task: ProofTask, open_runner: OpenRunner, reporter: Reporter) -> DeviceResult:
    """Run a library on its device, compare, count and write the bundle; a finished proof is read back instead."""
    saved = task.folder / "proofs" / f"{library.name}-{library.target.name}.json"
    key = _key(library, task)
    known = _read(saved)
    firmware = task.folder / "firmware" / f"{library.name}-{library.target.name}"
    if known is not None and known.key == key and _is_whole(firmware):
        return known.result
    title = f"{task.bits} on {library.target.name}: proving"
    with open_runner(library) as run, reporter.task(title, len(task.inputs)) as advance:
        verification = verify(library, task.inputs, run, advance)
        counted = run(task.inputs[:1], profile=True)
    cost = profile(library, counted)
    if verification.differing:
        firmware = task.folder / REFUTED / firmware.name
    _write_firmware(firmware, library, task, cost, counted)
    result = DeviceResult(
        name=library.target.name,
        description=library.target.description,
        images=verification.samples,
        elements=verification.elements,
        differing=verification.differing,
        first_difference=verification.first_difference,
        profile=cost,
        buffers=task.buffers,
        reasons={kernel.op: kernel.why for kernel in library.kernels},
        firmware=str(firmware.relative_to(task.folder)),
    )
    if not verification.differing:  # what failed is tried again: another emulator may mend it
        write_atomic(saved, _Proof(key=key, result=result).model_dump_json(indent=1))
    return result


def _is_whole(firmware: Path) -> bool:
    """Whether every file of a bundle still has the hash with which it was proved."""
    try:
        check_bundle(firmware)
    except RecipeError:
        return False
    return True


def _write_firmware(folder: Path, library: Library, task: ProofTask, cost: Profile, run: DeviceRun) -> None:
    facts = BundleFacts(task.bits, task.recipe, {**package_versions(), **run.tool_versions})
    write_bundle(
        folder, library, task.inputs[:GOLDEN_SAMPLES], cost.stack_bytes, library.flash_bytes, facts, task.runtime,
        task.shared_library,
    )  # fmt: skip


def _key(library: Library, task: ProofTask) -> str:
    """Hash of all that a proof depends on."""
    digest = hashlib.sha256(library.graph.sha256().encode())
    for name, content in library.objects:
        digest.update(name.encode() + content)
    digest.update(task.shared_library or b"")
    digest.update(np.ascontiguousarray(task.inputs).tobytes())
    for part in (task.recipe.model_dump_json(), library.target.model_dump_json(), str(package_versions())):
        digest.update(part.encode())
    return digest.hexdigest()


def _read(path: Path) -> _Proof | None:
    try:
        return _Proof.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        return None  # never proved, or by another version: prove it again
