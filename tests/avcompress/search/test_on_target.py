import pytest

from avcompress.search.on_target import precisions_on
from engines.profile_load import load_profile


@pytest.mark.parametrize(
    ("target", "precisions"),
    [
        ("orin-agx@jetpack-6.2", ("fp32", "fp16", "bf16", "int8", "int8 weights")),
        ("orin-agx@jetpack-5.1", ("fp32", "fp16", "int8")),
        ("cpu", ("fp32", "int8", "int8 weights")),
        ("rtx-4090", ("fp32", "fp16", "bf16", "int8", "fp8", "int8 weights")),
    ],
)
def test_a_target_says_what_layers_can_be_computed_in(target, precisions):
    assert precisions_on(load_profile(target)) == precisions
