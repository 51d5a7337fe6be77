from types import SimpleNamespace

import pytest

from avcompress.recipe import Cast, Ptq
from avcompress.running.previous import Previous

MIXED = {"min_macs": 0.5, "times": "macs", "formats": ["int8", "fp8"]}


def previous(*precisions, **ptq):
    stages = (Ptq(kind="ptq", **ptq), Cast(kind="cast", format="fp16", keep_float=("first",)))
    planned = tuple(SimpleNamespace(name=f"conv[{i}]", precision=each) for i, each in enumerate(precisions))
    return Previous(None, SimpleNamespace(stages=stages), (), (), "", None, None, planned)


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [(("fp8", "fp16"), ("fp8", "symmetric")), (("int8", "float"), ("int8", "asymmetric"))],
)
def test_an_update_of_a_choice_goes_on_in_the_format_that_was_chosen(precisions, expected):
    stage = previous(*precisions, mixed=MIXED, activations="asymmetric").ptq

    assert (stage.format, stage.activations) == expected


def test_the_layers_that_a_choice_left_in_fp32_stay_so():
    assert previous("int8", "fp16", "float", mixed=MIXED).cast.keep_float == ("first", "conv[[]2]")
    assert previous("int8", "fp16", "float").cast.keep_float == ("first",)
