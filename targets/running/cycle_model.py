"""Estimated cycles of what ran in an emulator: how often each instruction was executed, times the cost of its class.

Zero wait states, no cache, no bus contention: flash wait states alone add 10 to 40 % on boards. The classes are those
of Arm's technical reference manual of Cortex-M4: arithmetic and multiply-accumulate 1, n loads in a row 1 + n, a
store 1, a taken branch 1 more. Cortex-M33 is taken to be the same. Cortex-M7 issues two neighbours at once where they
are independent and share no unit. On Cortex-M0+ (Arm DDI 0484C, table 3.1, with the fast multiplier) a load or store
of n words takes 1 + n, a taken branch 1 more, all else 1. Nothing here was compared with a board: the evidence is
"estimate".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from qkd.proof.device_run import DeviceRun
from qkd.target import Target
from qkd.targets.running.hotspots import disassembly

_REGISTER = re.compile(r"\b(?:r\d+|sl|fp|ip|sp|lr|pc)\b")
_BRANCH = re.compile(r"(?:b(?:l|x|lx|eq|ne|cs|cc|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?|cbn?z|tb[bh])(?:\.[nw])?$")
_CONDITIONAL = re.compile(r"(?:b(?:eq|ne|cs|cc|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)|cbn?z)(?:\.[nw])?$")
_MULTIPLY = re.compile(r"(?:mul|mla|mls|sm[lmu]|um[ula])")
_NO_RESULT = re.compile(r"(?:cmp|cmn|tst|teq|nop|it)")
DIVIDE_CYCLES = 7  # 2 to 12, by the operands


@dataclass(frozen=True)
class Core:
    """What differs between cores."""

    issue_width: int
    load_bytes: int
    """What one load instruction moves in a cycle."""
    pipelines_memory: bool = True
    """Loads in a row overlap, and a store takes the cycles of what it moves; else each takes one cycle more."""


CORES: Mapping[str, Core] = {
    "cortex_m0plus": Core(issue_width=1, load_bytes=4, pipelines_memory=False),
    "cortex_m4": Core(issue_width=1, load_bytes=4),
    "cortex_m33": Core(issue_width=1, load_bytes=4),
    "cortex_m7": Core(issue_width=2, load_bytes=8),
}


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly with the number of its executions."""

    address: int
    mnemonic: str
    operands: str
    count: int

    @property
    def is_branch(self) -> bool:
        """Whether it may leave the straight line."""
        return bool(_BRANCH.match(self.mnemonic)) or (self.is_load and "pc" in self.written)

    @property
    def is_load(self) -> bool:
        """Whether it reads memory."""
        return self.mnemonic.startswith(("ldr", "ldm", "pop"))

    @property
    def is_store(self) -> bool:
        """Whether it writes memory."""
        return self.mnemonic.startswith(("str", "stm", "push"))

    @property
    def moved_words(self) -> int:
        """Words that a load or store moves."""
        if self.mnemonic.startswith(("ldm", "stm", "pop", "push")):
            return len(_REGISTER.findall(self.operands.partition("{")[2]))
        return 2 if self.mnemonic.startswith(("ldrd", "strd")) else 1

    @property
    def written(self) -> set[str]:
        """Registers that it changes; the moved address of a load or store is left out."""
        names = _REGISTER.findall(self.operands)
        if self.mnemonic.startswith(("ldm", "pop")):
            return set(_REGISTER.findall(self.operands.partition("{")[2]))
        if self.is_store or _NO_RESULT.match(self.mnemonic) or _BRANCH.match(self.mnemonic):
            return set()
        double = self.mnemonic.startswith(("ldrd", "smull", "umull", "smlal", "umlal"))
        return set(names[: 2 if double else 1])

    @property
    def read(self) -> set[str]:
        """Registers that it depends on; the result of an accumulating form among them."""
        names = _REGISTER.findall(self.operands)
        keeps = self.is_store or _NO_RESULT.match(self.mnemonic) or _BRANCH.match(self.mnemonic)
        return set(names if keeps else names[len(self.written) :])


def estimate_cycles(run: DeviceRun, target: Target) -> dict[str, int] | None:
    """Estimate the cycles of each layer of one inference.

    Parameters
    ----------
    run : DeviceRun
        Made with `profile=True` in an emulator.
    target : Target

    Returns
    -------
    dict of str to int, or None
        By operator name; None where the core has no model or nothing was counted.
    """
    core = CORES.get(target.name)
    if core is None or run.executed is None or run.image is None:
        return None
    lines = [(address, line) for _, address, line in disassembly(run.image, target)]
    return {
        layer: listing_cycles([Instruction(at, *_split(line), counts[at]) for at, line in lines if at in counts], core)
        for layer, counts in run.executed.items()
    }


def _split(line: str) -> tuple[str, str]:
    """Mnemonic and operands of a line of objdump."""
    fields = line.split("\t")
    return fields[2].strip(), fields[3].partition("@")[0].partition("<")[0].strip() if len(fields) > 3 else ""


def listing_cycles(listing: Sequence[Instruction], core: Core) -> int:
    """Add up a layer; neighbours in the listing that ran equally often count as a straight line."""
    total, at = 0, 0
    while at < len(listing):
        here = listing[at]
        before = listing[at - 1] if at and listing[at - 1].count == here.count else None
        after = listing[at + 1] if at + 1 < len(listing) else None
        total += here.count * _issue(here, before, core) + _taken(here, after)
        at += 1
        if core.issue_width == 2 and after is not None and _pairs(here, after):
            total += _taken(after, listing[at + 1] if at + 1 < len(listing) else None)
            at += 1
    return total


def _issue(here: Instruction, before: Instruction | None, core: Core) -> int:
    if here.mnemonic.startswith(("udiv", "sdiv")):
        return DIVIDE_CYCLES
    if here.is_store or here.is_load:
        beats = ceil(here.moved_words * 4 / core.load_bytes)
        if not core.pipelines_memory:
            return beats + 1
        in_a_row = before is not None and before.is_load
        return beats + (here.is_load and core.issue_width == 1 and not in_a_row)
    waits = core.issue_width == 2 and before is not None and before.is_load and before.written & here.read
    return 2 if waits else 1


def _taken(here: Instruction, after: Instruction | None) -> int:
    """How often a branch was taken: at least as often as what follows was not executed."""
    if not here.is_branch:
        return 0
    if not _CONDITIONAL.match(here.mnemonic):
        return here.count
    return max(0, here.count - (after.count if after else 0))


def _pairs(first: Instruction, second: Instruction) -> bool:
    """Whether a dual-issue core starts both in one cycle."""
    memory = all(i.is_load or i.is_store for i in (first, second))
    multiply = all(_MULTIPLY.match(i.mnemonic) for i in (first, second))
    divide = any(i.mnemonic.startswith(("udiv", "sdiv")) for i in (first, second))
    dependent = bool(first.written & (second.read | second.written))
    wide = any(i.moved_words > 2 for i in (first, second) if i.is_load or i.is_store)
    in_line = first.count == second.count and not first.is_branch
    return in_line and not (memory or multiply or divide or dependent or wide)
