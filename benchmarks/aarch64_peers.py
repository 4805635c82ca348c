"""Count what LiteRT and ONNX Runtime execute: their own AArch64 wheels, under an emulated Python.

The folder holds `root` (an AArch64 Debian with Python 3.11, unpacked, not installed), `site` (the wheels, by
`pip install --target`), and `models` with `<network>.tflite` and `<network>.onnx`; what is absent is left out. The
difference of two runs removes start-up; about 10,000 instructions of Python's own a call remain.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qkd.errors import ToolError
from qkd.target import Target
from qkd.targets.running.counting import plugin

PROGRAM = Path(__file__).parent / "aarch64_peer.py"
RUNS = (10, 40)
SUFFIXES = {"litert": "tflite", "onnxruntime": "onnx"}
PARTS = {"cortex_a53": "0xd03", "cortex_a72": "0xd08", "cortex_a76": "0xd0b", "armv8_6_i8mm": "0xd49"}
"""CPU parts of the fake /proc/cpuinfo: cpuinfo, a library of both peers, crashes on an x86 host's."""
BASE_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
FEATURES = {
    "cortex_a76": " atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    "armv8_6_i8mm": " atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp i8mm bf16",
}


def measure_peers(folder: Path, target: Target, networks: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the record for each engine and network whose model is there."""
    rows = []
    with TemporaryDirectory(prefix="qkd-", dir=folder) as name:
        root = Path(name) / "root"
        _make_root(folder / "root", root, target)
        for network in networks:
            for engine, suffix in SUFFIXES.items():
                model = folder / "models" / f"{network}.{suffix}"
                if model.exists():
                    rows.append(_row(engine, network, _count(folder, root, target, engine, model)))
                    print(f"{target.name} {network} {engine}: {rows[-1]['instructions']:,}", flush=True)
    return rows


def peer_versions(folder: Path) -> dict[str, str]:
    """Versions of the peers' wheels and SHA-256 of their models."""
    wheels = dict(path.name.removesuffix(".dist-info").rsplit("-", 1) for path in (folder / "site").glob("*.dist-info"))
    found = {name: wheels[name] for name in ("ai_edge_litert", "onnxruntime") if name in wheels}
    models = (path for suffix in SUFFIXES.values() for path in sorted((folder / "models").glob(f"*.{suffix}")))
    return found | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in models}


def _row(engine: str, network: str, instructions: int) -> dict[str, Any]:
    absent = ("cycles_estimate", "text_bytes", "rodata_bytes", "arena_bytes", "scratch_bytes", "differing", "elements")
    row = {"network": network, "bits": "W8A8", "weights": None, "engine": engine, "instructions": instructions}
    return {**row, **dict.fromkeys(absent)}


def _count(folder: Path, root: Path, target: Target, engine: str, model: Path) -> int:
    """Instructions of one inference: the difference of two runs."""
    totals = [_run(folder, root, target, (engine, str(model), str(count))) for count in RUNS]
    return round((totals[1] - totals[0]) / (RUNS[1] - RUNS[0]))


def _run(folder: Path, root: Path, target: Target, arguments: Sequence[str]) -> int:
    counts = root.parent / "counts.txt"
    emulator, *options = target.emulator
    command = [emulator, "-plugin", f"{plugin()},out={counts}", *options, "-L", str(root),
               str(root / "usr/bin/python3.11"), str(PROGRAM), *arguments]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "PYTHONHOME": str(root / "usr")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(f"{arguments[0]} failed on {target.name}", command, done.stdout + done.stderr)
    match = re.match(r"mark (\d+)", counts.read_text())
    if match is None:
        raise ToolError(f"{counts} holds no count", command, done.stderr)
    return int(match[1])


def _make_root(source: Path, root: Path, target: Target) -> None:
    """The root with the core's own /proc/cpuinfo and /sys; files are linked, not copied."""
    shutil.copytree(source, root, symlinks=True, copy_function=os.link)
    (root / "proc").mkdir(exist_ok=True)
    features = BASE_FEATURES + FEATURES.get(target.name, "")
    (root / "proc/cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {PARTS[target.name]}\nCPU revision\t: 4\n\n"
    )
    cpus = root / "sys/devices/system/cpu"
    (cpus / "cpu0/topology").mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online", "kernel_max"):
        (cpus / name).write_text("0\n")
    for name in ("core_id", "physical_package_id", "thread_siblings_list", "core_siblings_list"):
        (cpus / "cpu0/topology" / name).write_text("0\n")
