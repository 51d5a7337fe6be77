"""avcompress.output_error: which of two networks is nearer to the float one, on images kept apart."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper, parser

from avcompress.output_error import better, held_out, output_errors
from avcompress.spec import Artifact, DataError
from engines.onnx_graph import infer_shapes, name_nodes

ONE = np.ones((1, 1, 2, 2), np.float32)


def scaled(*factors):
    """A network with an output for each factor, by which it multiplies its input."""
    body = " ".join(f"y{i} = Mul (x, f{i})" for i in range(len(factors)))
    outputs = ", ".join(f"float[1,1,2,2] y{i}" for i in range(len(factors)))
    text = f"""<ir_version: 8, opset_import: ["" : 17]> net (float[1,1,2,2] x) => ({outputs}) {{ {body} }}"""
    model = parser.parse_model(text)
    for i, factor in enumerate(factors):
        model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), f"f{i}"))
    return infer_shapes(name_nodes(model))


def numbered(count):
    return [{"x": ONE * i} for i in range(count)]


def test_the_error_is_in_parts_of_the_float_output_and_every_output_counts_the_same():
    """By hand: 10 and 12 differ by (2/10)**2 of the square, 0.1 and 0.1 by nothing."""
    (error,) = output_errors(scaled(10, 0.1), [scaled(12, 0.1)], [ONE, 3 * ONE])

    assert error == pytest.approx((0.04 + 0) / 2, rel=1e-5)


def test_an_output_of_zeros_counts_by_its_own_square():
    (error,) = output_errors(scaled(0.0), [scaled(0.5)], [ONE])

    assert error == pytest.approx(4 * 0.25)


def test_the_nearer_network_is_kept():
    before = Artifact(scaled(1.2), reference=scaled(1.0))
    good, bad, broken = (replace(before, model=scaled(factor)) for factor in (1.1, 1.3, float("nan")))

    assert better(before, good, [ONE]) == (good, "the network's outputs 0.04 -> 0.01 (-6.0 dB)")
    assert better(before, bad, [ONE]) == (
        before,
        "the network's outputs 0.04 -> 0.09 (+3.5 dB), so that all is kept as it was",
    )
    assert better(before, broken, [ONE])[0] is before
    assert better(before, before, [ONE])[0] is before


def test_every_fourth_image_is_held_out_and_of_a_single_one_that():
    model = scaled(1.0)

    assert [image.max() for image in held_out(model, numbered(10))] == [1, 5, 9]
    assert [image.max() for image in held_out(model, numbered(1))] == [0]
    assert len(list(held_out(model, numbered(100)))) == 8
    with pytest.raises(DataError, match="at least one image"):
        list(held_out(model, []))
