"""Where a layer spends its instructions: the disassembly of what was executed, each line with how often."""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter

from qkd.base.files import write_atomic
from qkd.errors import RecipeError
from qkd.proof.device_run import DeviceRun
from qkd.target import Target
from qkd.targets.running.toolchain import run_checked, working_folder

_INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\t")


def annotated_listing(run: DeviceRun, target: Target, layer: str, least: int = 1) -> str:
    """Disassemble what a layer executed.

    Parameters
    ----------
    run : DeviceRun
        Made with `profile=True` in an emulator.
    target : Target
        The device of the run.
    layer : str
        An operator's name.
    least : int
        Leave out instructions that were executed fewer times.

    Returns
    -------
    str
        One line an instruction, in order of address, with the count in front; the symbols they belong to in between.

    Raises
    ------
    RecipeError
        When the run was not profiled or has no such layer.
    ToolError
        When objdump is missing.
    """
    if run.executed is None or run.image is None:
        raise RecipeError(f"the run on {target.name} was not counted; run with profile=True on an emulated device")
    if layer not in run.executed:
        raise RecipeError(f"no layer {layer!r} was counted; there are {', '.join(run.executed)}")
    counts = {address: count for address, count in run.executed[layer].items() if count >= least}
    executed = [entry for entry in disassembly(run.image, target) if entry[1] in counts]
    return "".join(
        f"{symbol}\n" + "".join(f"{counts[address]:>10}  {line.strip()}\n" for _, address, line in entries)
        for symbol, entries in groupby(executed, key=itemgetter(0))
    )


def disassembly(image: bytes, target: Target) -> list[tuple[str, int, str]]:
    """(symbol line, address, line) of every instruction."""
    objdump = target.compiler.removesuffix("gcc") + "objdump"
    with working_folder() as folder:
        write_atomic(folder / "image.elf", image)
        text = run_checked([objdump, "-d", "image.elf"], f"disassembling for {target.name}", folder)
    symbol, found = "", []
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match:
            found.append((symbol, int(match[1], 16), line))
        elif line.endswith(">:"):
            symbol = line
    return found
