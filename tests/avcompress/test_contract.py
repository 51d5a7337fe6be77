import pytest
from pydantic import ValidationError

from avcompress.contract import Contract


@pytest.mark.parametrize(
    ("least", "most"),
    [
        ({"metric": "AP"}, {"metric": "AP"}),
        ({"metric": "IoU/*"}, {"metric": "IoU/road"}),
        ({"metric": "IoU/*"}, {"metric": "mIoU"}),
        ({"metric": "AP/*"}, {"metric": "AP"}),
        ({"metric": "AP", "slice": "distance:*"}, {"metric": "AP", "slice": "distance:far"}),
        ({"metric": "AP/*", "slice": "size:*"}, {"metric": "AP/car", "slice": "size:small"}),
        ({"metric": "ece", "slice": "distance:far"}, {"metric": "ece", "slice": "distance:*"}),
    ],
)
def test_a_contract_that_no_network_can_keep_is_refused(least, most):
    with pytest.raises(ValidationError, match=r"limits that one network can keep, got .* >= 0.9 and .* <= 0.5"):
        Contract(accuracy=[least | {"min": 0.9}, most | {"max": 0.5}])

    assert Contract(accuracy=[least | {"min": 0.5}, most | {"max": 0.5}])


@pytest.mark.parametrize(
    ("least", "most"),
    [
        ({"metric": "mIoU"}, {"metric": "IoU/road"}),
        ({"metric": "AP"}, {"metric": "AP", "slice": "size:small"}),
        ({"metric": "recall/*"}, {"metric": "precision/car"}),
        ({"metric": "AP", "slice": "size:*"}, {"metric": "AP", "slice": "distance:far"}),
        ({"metric": "ece", "slice": "distance:*"}, {"metric": "ece", "slice": "distance:far"}),
    ],
)
def test_limits_of_which_one_says_nothing_of_the_other_are_taken(least, most):
    assert Contract(accuracy=[least | {"min": 0.9}, most | {"max": 0.5}])
