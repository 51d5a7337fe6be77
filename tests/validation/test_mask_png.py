import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.spec import DataError, EngineError
from validation.mask_png import decode_mask, encode_mask, mask_size

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)


@given(mask=hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 255)))
def test_every_mask_comes_back_and_its_size_is_known_undecoded(mask):
    png = encode_mask(mask)

    assert (decode_mask(png) == mask).all()
    assert mask_size(png) == mask.shape


def test_a_transposed_mask_is_one_too():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4).T

    assert (decode_mask(encode_mask(mask)) == mask).all()


def test_more_classes_than_labels_can_name_are_told_and_not_cut_off():
    with pytest.raises(EngineError, match="at most 256 classes, got uint16 of up to 300"):
        encode_mask(np.full((2, 2), 299, np.uint16))


@pytest.mark.parametrize(
    "png",
    [
        b"",
        b"GIF89a" * 10,
        cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes(),
        cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes(),
        encode_mask(np.zeros((40, 40), np.uint8))[:40],
    ],
)
def test_anything_else_is_refused_by_name(png):
    with pytest.raises(DataError, match=r"predictions of a: expected a (whole )?PNG"):
        decode_mask(png, "predictions of a")
