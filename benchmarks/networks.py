"""Integer graphs with random weights in the exact shapes of MLPerf Tiny's networks: cost does not depend on training.

Shapes, strides and paddings are those of the reference models; first and last layer have 8-bit weights, as in a recipe.
"""

from collections.abc import Callable, Mapping

from benchmarks.random_graphs import RandomGraph
from qkd.bits import Bits
from qkd.graph.graph import QuantGraph

SAME = (1, 1, 1, 1)
SAME_STRIDE_2 = (0, 1, 0, 1)


def resnet8(bits: Bits, seed: int = 0) -> QuantGraph:
    """Image classification: ResNet-8 for 32 × 32 colour images, 12,501,632 multiply-accumulates."""
    weight, activation = _formats(bits)
    g = RandomGraph(seed, (32, 32, 3), name="resnet8")
    x = g.conv(g.input, 16, (3, 3), padding=SAME, weight="8", activation=activation)
    y = g.conv(x, 16, (3, 3), padding=SAME, weight=weight, activation=activation)
    y = g.conv(y, 16, (3, 3), padding=SAME, weight=weight, activation="s8")
    x = g.add(x, y, activation)
    for channels in (32, 64):
        y = g.conv(x, channels, (3, 3), stride=(2, 2), padding=SAME_STRIDE_2, weight=weight, activation=activation)
        y = g.conv(y, channels, (3, 3), padding=SAME, weight=weight, activation="s8")
        x = g.conv(x, channels, (1, 1), stride=(2, 2), weight=weight, activation="s8")
        x = g.add(x, y, activation)
    return g.build(g.fully_connected(g.flatten(g.average_pool(x, (8, 8), "u8")), 10))


def ds_cnn(bits: Bits, seed: int = 0) -> QuantGraph:
    """Keyword spotting: DS-CNN for 49 × 10 spectrograms, 2,656,768 multiply-accumulates."""
    weight, activation = _formats(bits)
    g = RandomGraph(seed, (49, 10, 1), name="ds_cnn")
    x = g.conv(g.input, 64, (10, 4), stride=(2, 2), padding=(4, 5, 1, 1), weight="8", activation=activation)
    for _ in range(4):
        x = g.depthwise(x, (3, 3), padding=SAME, weight=weight, activation=activation)
        x = g.conv(x, 64, (1, 1), weight=weight, activation=activation)
    return g.build(g.fully_connected(g.flatten(g.average_pool(x, (25, 5), "u8")), 12))


def autoencoder(bits: Bits, seed: int = 0) -> QuantGraph:
    """Anomaly detection: ten fully connected layers, 264,192 multiply-accumulates; the output is 640 codes."""
    weight, activation = _formats(bits)
    g = RandomGraph(seed, (640,), name="autoencoder")
    x = g.fully_connected(g.input, 128, "8", activation)
    for width in (128, 128, 128, 8, 128, 128, 128, 128):
        x = g.fully_connected(x, width, weight, activation)
    return g.build(g.fully_connected(x, 640, "8", "s8"))


NETWORKS: Mapping[str, Callable[[Bits], QuantGraph]] = {
    "resnet8": resnet8,
    "ds_cnn": ds_cnn,
    "autoencoder": autoencoder,
}


def _formats(bits: Bits) -> tuple[str, str]:
    """Weight and activation formats as `RandomGraph` names them."""
    return str(bits.weight), f"u{bits.activation}"
