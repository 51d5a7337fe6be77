"""avcompress.recipe_lowrank: what a recipe may say."""

import pytest
from pydantic import ValidationError

from avcompress.recipe_lowrank import Energy, Factorize, Speedup


def test_left_to_itself_it_keeps_nine_tenths_of_every_output_by_any_method():
    stage = Factorize(kind="factorize")

    assert (stage.method, stage.rank, stage.fit) == ("auto", Energy(energy=0.9), "output")


@pytest.mark.parametrize(
    ("given", "rank"),
    [
        ({"energy": 0.8}, Energy(energy=0.8)),
        ({"speedup": 1.3, "max_error": 0.2}, Speedup(speedup=1.3, max_error=0.2)),
        ("evbmf", "evbmf"),
    ],
)
def test_ranks_are_read_by_their_keys(given, rank):
    stage = Factorize(kind="factorize", rank=given)

    assert stage.rank == rank
    assert Factorize.model_validate(stage.model_dump()) == stage
    assert Factorize.model_validate_json(stage.model_dump_json()) == stage


def test_tucker_takes_two_ranks():
    stage = Factorize(kind="factorize", method="tucker2", rank=[8, 16])

    assert stage.rank == (8, 16)
    assert Factorize.model_validate_json(stage.model_dump_json()) == stage


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 8}, "expected a method for the rank 8, got auto; name one"),
        ({"rank": [8, 8], "method": "svd"}, r"expected two ranks of tucker2 only, got \[8, 8\] of svd"),
        ({"rank": {"energy": 1.0}}, "less than 1"),
        ({"rank": {"speedup": 1.0}}, "greater than 1"),
        ({"rank": "all"}, "evbmf"),
        ({"rank": 0, "method": "svd"}, "greater than 0"),
        ({"method": "qr"}, "svd"),
        ({"align": 0}, "greater than 0"),
        ({"ranks": 8}, "Extra inputs"),
    ],
)
def test_what_is_wrong_is_said(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Factorize(kind="factorize", **wrong)
