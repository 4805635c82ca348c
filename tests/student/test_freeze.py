"""Freeze: the graph's structure and its agreement with float arithmetic; exactness is tested in test_student."""

import numpy as np
import pytest
import torch

from qkd.bits import Bits
from qkd.data.pixels import image_batch
from qkd.errors import UnsupportedOpError
from qkd.graph.graph import AveragePool2d, Conv2d, DepthwiseConv2d, FullyConnected, MaxPool2d, Reshape
from qkd.graph.reference import run
from qkd.student.freeze import freeze
from qkd.student.student import calibrate, prepare
from tests.support.networks import SHAPE, random_pixels, small_student


def test_every_operator_kind_keeps_its_geometry() -> None:
    graph = freeze(small_student(), "net")
    ops = {op.name: op for op in graph.ops}
    strided, depthwise, maximum = ops["conv_3"], ops["dw_4"], ops["max_6"]
    assert isinstance(strided, Conv2d)
    assert (strided.stride, strided.padding) == ((2, 2), (0, 1, 0, 1))
    assert isinstance(depthwise, DepthwiseConv2d)
    assert isinstance(maximum, MaxPool2d)
    assert (maximum.kernel, maximum.stride) == ((2, 2), (1, 2))
    assert isinstance(ops["pool_7"], AveragePool2d)
    assert isinstance(ops["reshape_8"], Reshape)
    assert isinstance(ops["fc_10"], FullyConnected)
    assert graph.values["conv_3.y"].shape == (1, 6, 5, 10)
    assert graph.values["dw_4.w"].shape == (10, 3, 3, 1)
    assert graph.values["fc_10.y"].dtype == "int32"


def test_asymmetric_padding_is_top_bottom_left_right_in_the_graph() -> None:
    model = torch.nn.Sequential(torch.nn.ZeroPad2d((1, 2, 3, 4)), torch.nn.Conv2d(3, 4, 3))
    student = prepare(model.eval(), Bits.parse("W8A8"), (6, 6, 3))
    calibrate(student, image_batch(random_pixels((6, 6, 3), 4)))
    op = freeze(student, "net").ops[0]
    assert isinstance(op, Conv2d)
    assert op.padding == (3, 4, 1, 2)


def test_unsigned_bytes_are_stored_around_minus_128_and_narrower_codes_from_0() -> None:
    graph = freeze(small_student("W4A4"), "net")
    stored = {name: (v.qmin, v.qmax, v.qparams.zero_point) for name, v in graph.values.items()}
    assert stored["input"] == (-128, 127, 0)
    assert stored["conv_0.y"] == (0, 15, 0)
    assert stored["conv_1.y"] == (-128, 127, 0)
    assert stored["fc_9.y"] == (-128, 127, -128)


def test_the_integer_logits_stand_for_the_fake_quantized_ones() -> None:
    student, pixels = small_student("W8A8"), random_pixels(SHAPE, 40)
    graph = freeze(student, "net")
    output = graph.values[graph.outputs[0]]
    integers = run(graph, (pixels.astype(np.int64) - 128).astype(np.int8))[output.name]
    with torch.no_grad():
        fake = student.eval()(image_batch(pixels)).numpy()
    error = np.abs(integers * output.qparams.scale[0] - fake)
    # a rounding that falls the other way moves one code of 255; that is all freezing may do
    assert error.max() < 0.02 * np.abs(fake).max()


def test_freezing_twice_gives_the_same_graph() -> None:
    student = small_student()
    assert freeze(student, "net").sha256() == freeze(student, "net").sha256()


def test_nan_is_refused_by_layer() -> None:
    student = small_student()
    with torch.no_grad():
        student.weighted()[2].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UnsupportedOpError, match=r"conv_3\.weight holds NaN"):
        freeze(student, "net")
