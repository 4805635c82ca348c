"""Hypothesis strategies for the layers that kernels compute."""

from hypothesis import strategies as st

from benchmarks.random_graphs import ACTIVATION_RANGES, WEIGHT_RANGES, RandomGraph
from qkd.graph.graph import QuantGraph

CHANNELS = st.one_of(st.integers(1, 9), st.sampled_from([12, 15, 16, 17, 24, 31, 32, 48, 64]))


WEIGHTS = st.sampled_from(sorted(WEIGHT_RANGES))


ACTIVATIONS = st.sampled_from(sorted(ACTIVATION_RANGES))


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """A kernel, stride and padding that leave at least one output pixel."""
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    kernel = (
        draw(st.integers(1, min(5, height + padding[0] + padding[1]))),
        draw(st.integers(1, min(5, width + padding[2] + padding[3]))),
    )
    return {"kernel": kernel, "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), "padding": padding}


@st.composite
def networks(draw: st.DrawFn) -> QuantGraph:
    """A chain of every weighted operator, an add and both pools, each of a random shape and width."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12), CHANNELS))
    g = RandomGraph(draw(st.integers(0, 2**16)), shape, draw(ACTIVATIONS), name="chain")
    x = g.input
    for kind in draw(st.permutations(["conv", "depthwise", "pixel", "add", "max_pool"])):
        height, width, channels = g.values[x].shape[1:]
        format_of = {"weight": draw(WEIGHTS), "activation": draw(ACTIVATIONS), "extreme": draw(st.booleans())}
        match kind:
            case "conv":
                x = g.conv(x, draw(CHANNELS), **draw(windows(height, width)), **format_of)
            case "depthwise":
                x = g.depthwise(x, **draw(windows(height, width)), **format_of)
            case "pixel":
                stride = draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
                x = g.conv(x, draw(CHANNELS), (1, 1), stride=stride, **format_of)
            case "add":
                x = g.add(x, g.conv(x, channels, (1, 1), **format_of), draw(ACTIVATIONS))
            case "max_pool":
                x = g.max_pool(x, (draw(st.integers(1, height)), draw(st.integers(1, width))), (1, 2))
    height, width = g.values[x].shape[1:3]
    x = g.flatten(g.average_pool(x, (draw(st.integers(1, height)), draw(st.integers(1, width)))))
    x = g.fully_connected(x, draw(CHANNELS), draw(WEIGHTS), draw(ACTIVATIONS), draw(st.booleans()))
    return g.build(g.fully_connected(x, draw(CHANNELS), draw(WEIGHTS)))
