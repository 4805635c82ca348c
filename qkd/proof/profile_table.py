"""A Profile as a table on a terminal: one row a layer, and a sentence that says what the numbers are evidence of."""

from rich.table import Table

from qkd.proof.profiling import LayerProfile, Profile

DASH = "–"  # a number that was not measured

EVIDENCE = {
    "board": "latency: the median of many inferences, one after the other, by the clock of {board}",
    "emulated_board": "no latency: time on an emulated board means nothing. {board}",
    "unidentified_board": "no latency: the board does not prove that it is not emulated. {board}",
    "emulated_instructions": "instructions: executed ones of one inference, exact, in emulation; no cycles, no latency",
    None: "nothing was measured: the host computes what the device computes, and says nothing about its cost",
}


def profile_table(name: str, cost: Profile) -> Table:
    """Layers in execution order and their sum; columns that hold nothing are left out."""
    timed, counted = cost.latency_us is not None, cost.instructions is not None
    table = Table(title=f"{name} on {cost.target}; bytes of constants, scratch and output", show_footer=True)
    table.add_column("layer", "whole network")
    table.add_column("kernel")
    table.add_column("MAC", f"{sum(layer.macs for layer in cost.layers):,}", justify="right")
    if timed:
        table.add_column("latency µs", _time(cost.latency_us), justify="right")
    if counted:
        table.add_column("instructions", _count(cost.instructions), justify="right")
    table.add_column("constants", _count(cost.rodata_bytes), justify="right")
    table.add_column("scratch", justify="right")
    table.add_column("output", justify="right")
    for layer in cost.layers:
        table.add_row(*_cells(layer, timed, counted))
    return table


def evidence_line(cost: Profile) -> str:
    """What the profile's numbers are evidence of."""
    return EVIDENCE.get(cost.evidence, str(cost.evidence)).format(board=cost.board)


def _cells(layer: LayerProfile, timed: bool, counted: bool) -> list[str]:
    return [
        layer.name,
        layer.variant,
        f"{layer.macs:,}",
        *([_time(layer.latency_us)] if timed else []),
        *([_count(layer.instructions)] if counted else []),
        *(f"{size:,}" for size in (layer.constant_bytes, layer.scratch_bytes, layer.output_bytes)),
    ]


def _time(latency_us: float | None) -> str:
    return DASH if latency_us is None else f"{latency_us:,.1f}"


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"
