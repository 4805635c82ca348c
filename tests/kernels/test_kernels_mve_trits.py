"""Ternary weights at 1.6 bits on Cortex-M55: packed and expanded without a change, and chosen where they pay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lowering import kernels_of, lowered
from benchmarks.random_graphs import RandomGraph, random_inputs
from qkd.graph.graph import QuantGraph
from qkd.proof.verification import verify
from qkd.targets import load_target
from qkd.targets.kernels import choose_kernels
from qkd.targets.kernels.armv8_1_m_mve.trits import Trits
from qkd.targets.running.runners import open_runner
from tests.support.stub_library import device_or_skip

PIXELS = (6, 7)


def layer(
    out: int, kernel: tuple[int, int], inputs: int = 32, pixels: tuple[int, int] = PIXELS, weight: str = "ternary",
    extreme: bool = False,
) -> QuantGraph:  # fmt: skip
    """A first layer, so that the second reads the arena, and the layer in question."""
    g = RandomGraph(3, (*pixels, 3), name="layer")
    x = g.conv(g.input, inputs, (1, 1), weight="8")
    padding = (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2)
    return g.build(g.conv(x, out, kernel, padding=padding, weight=weight, extreme=extreme))


@given(size=st.integers(1, 400), seed=st.integers(0, 2**16))
def test_packing_keeps_every_trit(size: int, seed: int) -> None:
    trits = Trits(size, 0)
    codes = np.random.default_rng(seed).integers(-1, 2, (size, 4))
    fields = ((codes & 3) << np.array([0, 2, 4, 6])).sum(axis=1).astype(np.uint8).view(np.int8)
    packed = trits.pack(fields)
    assert packed.shape == (trits.packed_bytes,)
    assert expanded(packed)[:size].tolist() == codes.tolist()


def expanded(packed: np.ndarray) -> np.ndarray:
    """Trits of each expanded byte, one at a time, by the words of `Trits`: (bytes, 4)."""
    found = np.zeros((len(packed) // 64, 5, 16, 4), np.int64)
    for number, byte in enumerate(packed.view(np.uint8).tolist()):
        group, field, lane = number // 64, number // 16 % 4, number % 16
        for vector in range(5):
            digit, byte = divmod(byte * 3, 256)
            found[group, vector, lane, field] = {0: 0, 1: 1, 2: -1}[digit]
    return found.reshape(-1, 4)


@pytest.mark.device
@pytest.mark.parametrize(
    ("out", "kernel", "inputs", "extreme"),
    [(33, (3, 3), 32, False), (24, (3, 3), 17, True), (64, (1, 1), 64, False), (50, (5, 1), 20, False)],
)
def test_a_layer_expanded_from_trits_equals_the_reference(
    out: int, kernel: tuple[int, int], inputs: int, extreme: bool
) -> None:
    graph, target = layer(out, kernel, inputs, extreme=extreme), device_or_skip("cortex_m55")
    first, second = (kernels_of(graph, op, target) for op in graph.ops)
    ternary = next(kernel for kernel in second if kernel.variant.startswith("mve_ternary_"))
    library = lowered(graph, target, (first[0], ternary))
    with open_runner(library) as runner:
        proof = verify(library, random_inputs(library.graph, 4), runner)
    assert proof.differing == 0, proof.first_difference


def variant_of_the_layer(graph: QuantGraph, cap: int | None = None) -> str:
    variant: str = choose_kernels(graph, load_target("cortex_m55"), cap)[1].variant
    return variant


def test_the_choice_says_how_much_flash_trits_save() -> None:
    kernel = choose_kernels(layer(64, (3, 3)), load_target("cortex_m55"))[1]
    # 32 passes of two channels: 288 taps are four blocks of two vectors and a tail of one, 144 bytes.
    assert kernel.constants[0].nbytes == 58 * 64
    assert "1.6 bits a weight save 896 bytes of flash" in kernel.why


def test_scratch_that_is_too_small_for_expanded_weights_leaves_them_at_two_bits() -> None:
    graph = layer(64, (3, 3))
    need = choose_kernels(graph, load_target("cortex_m55"))[1].scratch_bytes
    assert variant_of_the_layer(graph, need) == "mve_ternary_2x2"
    assert variant_of_the_layer(graph, need - 1) == "mve_w2_2x2"


@pytest.mark.parametrize("other", [{"weight": "2"}, {"pixels": (5, 6)}, {"out": 4}])
def test_layers_that_are_not_ternary_or_where_expanding_does_not_pay_stay_at_two_bits(other: dict[str, object]) -> None:
    shape: dict[str, object] = {"out": 64, "kernel": (3, 3), **other}
    assert variant_of_the_layer(layer(**shape)).startswith("mve_w2_")  # type: ignore[arg-type]
