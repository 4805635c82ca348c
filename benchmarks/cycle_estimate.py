"""Estimate cycles on AArch64 cores: llvm-mca's cycles of each executed block, times how often it was executed.

An estimate, never a measurement: no caches, no branches missed, nothing overlaps between blocks. LLVM's model of the
Cortex-A53 only ranks kernels (take it as within 50 %); the Cortex-A72 has the A57's model, and the Cortex-A76 the
Neoverse N1's, because LLVM's own cortex-a76 is an A57.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qkd.device_run import DeviceRun
from qkd.errors import ToolError
from qkd.target import Target

MODELS = {
    "cortex_a53": "cortex-a53",
    "cortex_a72": "cortex-a72",
    "cortex_a76": "neoverse-n1",
    "armv8_6_i8mm": "neoverse-n2",
}
ITERATIONS = 50
BRANCH = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z|bl|blr|br|ret|adrp?|dc|udf|svc)\b")
"""What llvm-mca cannot place; it counts as a nop."""


@dataclass(frozen=True)
class Block:
    """Instructions that were executed together, and how often."""

    lines: tuple[str, ...]
    count: int


def estimate_cycles(run: DeviceRun, target: Target, llvm_mca: str = "llvm-mca-19") -> int:
    """Estimate the cycles of one inference.

    Parameters
    ----------
    run : DeviceRun
        Made with `profile=True`.
    target : Target
        One of `MODELS`.
    llvm_mca : str
        Version 19; older ones lack the Neoverse models.

    Returns
    -------
    int
        Of the layers' kernels; what happens between layers is scaled in.
    """
    blocks = list(_blocks(run, target))
    covered = sum(len(block.lines) * block.count for block in blocks)
    cycles = _simulate(blocks, MODELS[target.name], llvm_mca)
    total = sum(cost * block.count for cost, block in zip(cycles, blocks, strict=True))
    return round(total * (run.instructions or covered) / covered)


def simulator_version(llvm_mca: str) -> str:
    """What `llvm-mca --version` says of itself."""
    return _output([llvm_mca, "--version"]).splitlines()[0].strip()


def _blocks(run: DeviceRun, target: Target) -> Iterator[Block]:
    """Cut what was executed where the address jumps, the count changes, or an instruction branches."""
    text = _disassemble(run, target)
    for executed in (run.executed or {}).values():
        lines: list[str] = []
        previous, count = -1, 0
        for address in sorted(executed):
            broken = address != previous + 4 or executed[address] != count
            if lines and (broken or lines[-1] == "nop // branch"):
                yield Block(tuple(lines), count)
                lines = []
            lines.append("nop // branch" if BRANCH.match(text[address]) else text[address])
            previous, count = address, executed[address]
        if lines:
            yield Block(tuple(lines), count)


def _disassemble(run: DeviceRun, target: Target) -> Mapping[int, str]:
    objdump = target.compiler.removesuffix("gcc") + "objdump"
    with TemporaryDirectory(prefix="qkd-") as folder:
        image = Path(folder) / "image.elf"
        image.write_bytes(run.image or b"")
        text = _output([objdump, "-d", "--no-show-raw-insn", str(image)])
    found = re.findall(r"^\s*([0-9a-f]+):\t([^\n]*)", text, re.MULTILINE)
    return {int(address, 16): re.sub(r"\s*(//|<).*", "", line) for address, line in found}


def _simulate(blocks: list[Block], model: str, llvm_mca: str) -> list[float]:
    """Cycles of one pass through each block when it repeats."""
    source = "".join(
        f"# LLVM-MCA-BEGIN {i}\n" + "\n".join(block.lines) + f"\n# LLVM-MCA-END {i}\n" for i, block in enumerate(blocks)
    )
    with TemporaryDirectory(prefix="qkd-") as folder:
        path = Path(folder) / "blocks.s"
        path.write_text(source)
        text = _output([llvm_mca, "-mtriple=aarch64", f"-mcpu={model}", "-mattr=+dotprod,+i8mm", "--json",
                        f"-iterations={ITERATIONS}", str(path)])  # fmt: skip
    regions = {region["Name"]: region["SummaryView"]["TotalCycles"] for region in json.loads(text)["CodeRegions"]}
    return [regions[str(i)] / ITERATIONS for i in range(len(blocks))]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is missing; install the package of that name", command, "") from None
    except subprocess.CalledProcessError as error:
        raise ToolError(f"{command[0]} failed", command, error.stderr) from None
    return done.stdout
