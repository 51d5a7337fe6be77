"""What a torch module returns is named as the export names it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avcompress.outputs import chosen, named_outputs
from avcompress.spec import ModelError, RecipeError

TENSOR = torch.zeros(1)
LEAVES = st.just(TENSOR)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


def test_the_output_that_is_named_is_taken_out():
    main, other = torch.zeros(2, 2), torch.ones(2, 2)

    assert chosen({"out": main, "aux": other}, "out") is main
    assert chosen((other, main), "output_1") is main
    assert chosen({"aux": [other, main], "none": None}, "aux_1") is main
    assert chosen(main, "output") is main
    assert chosen(main, "out") is main
    assert chosen([main], None) == [main]


@given(NESTED)
def test_every_tensor_has_a_name_by_which_it_is_chosen(value):
    names = dict(named_outputs(value))

    assert all(chosen(value, name) is tensor for name, tensor in names.items())


def test_a_name_that_is_not_there_and_what_is_no_tensor_are_told():
    with pytest.raises(RecipeError, match=r"model\.output: expected one of what the module returns, output_0, got 'a'"):
        chosen((TENSOR,), "a")
    with pytest.raises(RecipeError, match=r"teacher\.output: expected one of what the module returns, b, got 'a'"):
        chosen({"b": TENSOR}, "a", "teacher.output")
    with pytest.raises(ModelError, match="expected it to return tensors, got a int in them"):
        chosen({"a": TENSOR, "b": 3}, "a")
