"""Estimate cycles with llvm-mca on AArch64 cores and Cortex-M55: cycles of each executed block, times its executions.

An estimate, never a measurement: no caches or wait states, nothing overlaps between blocks. LLVM's model of the
Cortex-A53 only ranks kernels (take it as within 50 %); the Cortex-A72 has the A57's model, and the Cortex-A76 the
Neoverse N1's, because LLVM's own cortex-a76 is an A57. AArch64 branches are taken to be predicted.

The model of Cortex-M55 gives a vector instruction two beats, which overlap with its neighbours' in other pipes. What it
leaves out is added here: a branch taken, or a hardware loop entered, fills the pipeline again; `le` and `letp` cost
nothing after a loop's first turn, since the core remembers where the loop ends.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from qkd.errors import ToolError
from qkd.proof.device_run import DeviceRun
from qkd.target import Target

ITERATIONS = 50
REFILL_CYCLES = 3
"""What LLVM's model of Cortex-M55 says a mispredicted branch costs; here every taken branch is one."""


@dataclass(frozen=True)
class Simulation:
    """How llvm-mca and llvm-objdump, of one version, are called for a core."""

    mcpu: str
    mtriple: str = "aarch64"
    mattr: str = "+dotprod,+i8mm"
    branch: str = r"(?:b|b\.\w+|cbn?z|tbn?z|bl|blr|br|ret|adrp?|dc|udf|svc)\b"
    """What llvm-mca cannot place; it counts as a nop."""
    refill_cycles: int = 0
    loop_end: str = r"(?!)"
    loop_start: str = r"(?!)"


SIMULATIONS: Mapping[str, Simulation] = {
    "cortex_a53": Simulation("cortex-a53"),
    "cortex_a72": Simulation("cortex-a72"),
    "cortex_a76": Simulation("neoverse-n1"),
    "armv8_6_i8mm": Simulation("neoverse-n2"),
    "cortex_m55": Simulation(
        "cortex-m55", "thumbv8.1m.main-none-eabi", "",
        branch=r"(?:b(?:l|lx|x\w*|eq|ne|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?(?:\.w)?|cbn?z|tb[bh])\s|(?:pop|ldm).*\bpc\b",
        refill_cycles=REFILL_CYCLES, loop_end=r"le(?:tp)?\s", loop_start=r"[dw]ls(?:tp\.\d+)?\s",
    ),
}  # fmt: skip
"""Cores that have a model, by device."""


@dataclass(frozen=True)
class Estimate:
    """Estimated cycles of one inference."""

    cycles: int
    """Of everything: the layers' cycles, scaled by the share of instructions that lie between layers."""
    layers: Mapping[str, int]
    covered_instructions: int
    """How many of the executed instructions the layers hold; `cycles` is scaled up from these."""


@dataclass(frozen=True)
class Block:
    """Instructions that were executed together, how often, and the cycles that llvm-mca does not know of."""

    layer: str
    lines: tuple[str, ...]
    count: int
    refills: int = 0
    """How often it was left by a taken branch, or entered a hardware loop."""


def estimate_cycles(run: DeviceRun, target: Target, llvm_mca: str = "llvm-mca-19") -> Estimate:
    """Estimate the cycles of one inference.

    Parameters
    ----------
    run : DeviceRun
        Made with `profile=True`.
    target : Target
        One of `SIMULATIONS`.
    llvm_mca : str
        Version 19; older ones lack the Neoverse models. llvm-objdump of the same name's version is used too.

    Returns
    -------
    Estimate

    Raises
    ------
    ToolError
        When llvm-mca is missing, or meets an instruction that it does not know.
    """
    simulation, executed = SIMULATIONS[target.name], run.executed or {}
    text = _disassemble(run.image or b"", simulation, llvm_mca)
    blocks = [b for layer, counts in executed.items() for b in cut_blocks(layer, counts, text, simulation)]
    layers = dict.fromkeys(executed, 0.0)
    for block, cycles in zip(blocks, _simulate(blocks, simulation, llvm_mca), strict=True):
        layers[block.layer] += cycles * block.count + simulation.refill_cycles * block.refills
    covered = sum(sum(counts.values()) for counts in executed.values())
    cycles = round(sum(layers.values()) * (run.instructions or covered) / covered)
    return Estimate(cycles, {layer: round(cycles) for layer, cycles in layers.items()}, covered)


def simulator_version(llvm_mca: str) -> str:
    """What `llvm-mca --version` says of itself."""
    return _output([llvm_mca, "--version"]).splitlines()[0].strip()


def cut_blocks(layer: str, executed: Mapping[int, int], text: Mapping[int, str], how: Simulation) -> Iterator[Block]:
    """Cut a layer where the address jumps, the count changes, or an instruction branches."""
    following = dict(pairwise(text))
    lines: list[str] = []
    for address in sorted(executed):
        line, count, after = text[address], executed[address], executed.get(following.get(address, -1), 0)
        leaves = bool(re.match(how.branch, line))
        if leaves and lines and lines[-1].startswith("it"):
            lines[-1] = "nop"  # IT must be followed by what it makes conditional
        if not re.match(how.loop_end, line):
            lines.append("nop" if leaves or re.match(how.loop_start, line) else line)
        if leaves or after != count or re.match(how.loop_end, line):
            refills = _refills(line, count, after, how)
            yield Block(layer, tuple(lines), count, refills)
            lines = []


def _refills(line: str, count: int, after: int, how: Simulation) -> int:
    """How often a block's last instruction fills the pipeline again; the first turn of a hardware loop does so."""
    if re.match(how.loop_end, line):
        return min(count, after)
    return max(0, count - after) if re.match(how.branch, line) else 0


def _disassemble(image: bytes, simulation: Simulation, llvm_mca: str) -> dict[int, str]:
    """Instructions by address, in order, in the words that llvm-mca reads; GNU's objdump does not know MVE."""
    with TemporaryDirectory(prefix="qkd-") as folder:
        path = Path(folder) / "image.elf"
        path.write_bytes(image)
        text = _output([llvm_mca.replace("llvm-mca", "llvm-objdump"), "-d", "--no-show-raw-insn",
                        f"--mcpu={simulation.mcpu}", f"--mattr={simulation.mattr}", str(path)])  # fmt: skip
    found = re.findall(r"^\s*([0-9a-f]+):\s+([^\n]*)", text, re.MULTILINE)
    return {int(address, 16): re.sub(r"\s*(//|<|@).*", "", line) for address, line in found}


def _simulate(blocks: Sequence[Block], simulation: Simulation, llvm_mca: str) -> list[float]:
    """Cycles of one pass through each block when it repeats."""
    lines = (f"# LLVM-MCA-BEGIN {i}\n" + "\n".join(b.lines) + f"\n# LLVM-MCA-END {i}\n" for i, b in enumerate(blocks))
    with TemporaryDirectory(prefix="qkd-") as folder:
        path = Path(folder) / "blocks.s"
        path.write_text("".join(lines))
        text = _output([llvm_mca, f"-mtriple={simulation.mtriple}", f"-mcpu={simulation.mcpu}",
                        f"-mattr={simulation.mattr}", "--json", f"-iterations={ITERATIONS}", str(path)])  # fmt: skip
    regions = {region["Name"]: region["SummaryView"]["TotalCycles"] for region in json.loads(text)["CodeRegions"]}
    return [regions.get(str(i), 0) / ITERATIONS for i in range(len(blocks))]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is missing; install the package of that name", command, "") from None
    except subprocess.CalledProcessError as error:
        raise ToolError(f"{command[0]} failed", command, error.stderr) from None
    return done.stdout
