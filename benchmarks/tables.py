"""Every result under results/ as a readable page: `python -m benchmarks.tables` writes benchmarks/RESULTS.md.

A figure stands in one place, the JSON file that its benchmark wrote; this page is made of those files and nothing else.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkd.base.files import write_atomic

HERE = Path(__file__).parent
PAGE = HERE / "RESULTS.md"


@dataclass(frozen=True)
class Section:
    """One results file: its title, what its numbers are evidence of, which lists and columns are shown."""

    name: str
    title: str
    evidence: str
    lists: tuple[tuple[str, tuple[str, ...]], ...]


SECTIONS = (
    Section(
        "thread", "The whole thread: recipe to proved firmware",
        "Top-1 over the whole test split (the CIFAR-10 copy is JPEG: its scores compare with no published ones). "
        "`differing` counts elements of every layer's output that differ from the integer graph, over `n` images. "
        "Instructions are QEMU's exact count for one inference: no cycles, no latency. `train_seconds` is the wall "
        "time of all passes, teacher included, on two cores, which W2A2 and the digits shared with other runs; a pass "
        "that several runs share was trained once.",
        (
            ("digits_over_seeds", ("bits", "seeds", "top1_float_mean", "top1_integer_mean", "top1_integer_sd",
                                   "points_below_float")),
            ("rows", ("recipe", "seed", "bits", "core", "n", "differing", "elements", "top1_float", "top1_torch",
                      "top1_integer", "train_seconds", "flash_bytes", "arena_bytes", "instructions")),
        ),
    ),
    Section(
        "cortex_m", "Cortex-M kernels",
        "Executed instructions of one inference, exact; cycles are estimates. Code for Cortex-M0+ runs on QEMU's "
        "Cortex-M0; `generic_instructions` are those of the same network with the portable kernels.",
        (("rows", ("core", "network", "bits", "weights", "instructions", "generic_instructions", "cycles_estimate",
                   "text_bytes", "rodata_bytes", "arena_bytes", "scratch_bytes", "differing", "elements")),
         ("four_bit_activations", ("idea", "instructions_per_mac", "counted_per_mac", "of"))),
    ),
    Section(
        "kernel_choice", "Whether the choice of kernels ranks as counted code does",
        "Cycles estimated from executed instructions of the four closest candidates of each layer; all are estimates. "
        "Regret: what the chosen ones cost beyond the best, flash at its worth. Times are processor time.",
        (("rows", ("core", "network", "bits", "regret_percent", "pairs", "agreeing", "choosing_ms", "lowering_ms")),),
    ),
    Section(
        "fusing", "Residual adds in the kernels of their convolutions",
        "The same network with every operator apart and as the device has it best, both proved; executed instructions, "
        "exact. `pool_instructions` are those of the average pool: more than fusing it could save.",
        (("rows", ("core", "network", "bits", "fused", "instructions_apart", "instructions_fused", "arena_bytes_apart",
                   "arena_bytes_fused", "flash_bytes_apart", "flash_bytes_fused", "pool_instructions", "differing",
                   "elements")),),
    ),
    Section(
        "codebook", "Learned points on a device",
        "ResNet-8 with a codebook in its inner layers, three epochs after the float student, one seed; `test` is the "
        "integer graph's, `snapping` what rounding the levels to int8 cost. `paper_bytes` is the size as Polino et al. "
        "count it, `flash_bytes` that of the ELF sections. "
        "Indices are looked up into the scratch where that is estimated to be faster, or (\"lookup\") as they are "
        "multiplied. Executed instructions, exact; cycles are estimates.",
        (("rows", ("bits", "core", "in_flash", "test", "paper_bytes", "flash_bytes", "arena_bytes", "instructions",
                   "cycles_estimate", "differing", "elements", "snapping")),),
    ),
    Section(
        "aarch64", "AArch64 kernels",
        "Executed instructions of one inference in user-mode emulation, exact; cycles are llvm-mca estimates.",
        (("rows", ("engine", "core", "network", "bits", "weights", "instructions", "cycles_estimate", "text_bytes",
                   "rodata_bytes", "arena_bytes", "differing", "elements")),),
    ),
    Section(
        "linux_bundle", "Linux bundles in Python",
        "A bundle's self-test in Python on emulated 64-bit Arm boards (Debian's Python, NumPy's wheel): outputs of the "
        "shared library that differ from the golden vectors. Nothing is timed.",
        (("rows", ("core", "network", "bits", "images", "differing", "elements", "shared_library_bytes")),),
    ),
    Section(
        "rpc", "Boards over TVM's RPC",
        "TVM's server on emulated 64-bit Arm boards, reached by a tracker: every layer's output of a trained network's "
        "test images compared with the integer graph. The boards were found out to be emulated, so no time was taken; "
        "`refused` is what a library gets to hear that the board's core cannot run.",
        (("rows", ("network", "device", "board", "images", "differing", "elements", "evidence", "latency_us",
                   "refused")),),
    ),
    Section(
        "train_step", "Cost of a quantized training step",
        "Forward, backward and SGD step, batch 128, one thread, processor time: the machine was shared. Ratio to the "
        "float step of the same kind in the same run; a row without one did not run, and its record says why.",
        (("rows", ("net", "quantizer", "compiled", "precision", "ratio", "step_ms", "target")),),
    ),
    Section(
        "quantizers", "Quantizer options",
        "Plain QAT of `digits_student`, equal updates from the same float student of each seed; the first variant of "
        "each question is the default, and `gain` the difference from it, paired by seed, with its sample standard "
        "deviation. Top-1 of the integer graph; `val_start` before training, fake-quantized. Evidence about 300 images "
        "and minutes of training, no more.",
        (("over_seeds", ("width", "question", "bits", "variant", "seeds", "val_start_mean", "val_mean", "test_mean",
                         "val_gain", "val_gain_sd", "test_gain", "test_gain_sd")),),
    ),
    Section(
        "kill_resume", "Runs killed with -9",
        "Each run was killed at random moments and resumed; its hash is compared with that of an undisturbed run.",
        (("rows", ("mode", "kills", "equal", "uninterrupted_seconds", "kills_after_s")),),
    ),
    Section(
        "study", "Which method to use",
        "Equal student updates, choices on validation, test once, mean and sample standard deviation over the seeds. "
        "`over_qat` and `over_float` are differences of test scores, paired by seed; core_seconds is the median arm's "
        "own processor time, without the float networks that all arms share.",
        (("over_seeds", ("data", "net", "bits", "method", "float_epochs", "epochs", "seeds", "val_mean", "val_sd",
                         "test_mean", "test_sd", "over_qat_mean", "over_qat_sd", "over_float_mean", "over_float_sd",
                         "core_seconds")),),
    ),
)  # fmt: skip


def page(folder: Path = HERE / "results") -> str:
    """The page for the results that are there."""
    found = [section for section in SECTIONS if (folder / f"{section.name}.json").exists()]
    parts = ["# Results\n\nMade by `python -m benchmarks.tables` from the files in `results/`; do not edit."]
    parts += [_section(section, json.loads((folder / f"{section.name}.json").read_text())) for section in found]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, record: dict[str, Any]) -> str:
    made = f"`{record['command']}` on {record['machine']}, {record['date']}."
    tables = [_table(record[key], columns) for key, columns in section.lists if record.get(key)]
    return "\n\n".join([f"## {section.title}", section.evidence, made, *tables])


def _table(rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> str:
    shown = [column for column in columns if any(column in row for row in rows)]
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in shown) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    write_atomic(PAGE, page())
    print(PAGE)
