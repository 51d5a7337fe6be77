from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from avcompress.checkpoint import load_artifact, save_artifact
from avcompress.spec import Artifact, LayerPlan, QuantParams


def network():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph([], "empty", [value], [value]))


scales = st.lists(st.floats(1e-30, 1e30, allow_subnormal=False), min_size=1, max_size=4)


@given(scale=scales, axis=st.none() | st.integers(0, 3), reason=st.text())
def test_what_is_saved_comes_back_bit_for_bit(
    tmp_path_factory, scale: list[float], axis: int | None, reason: str
) -> None:
    folder: Path = tmp_path_factory.mktemp("artifact")
    params = QuantParams(tuple(scale), (0,) * len(scale), axis=axis)
    layers, sparse = (LayerPlan("conv", "Conv", "int8", reason, 7),), {"w": "2:4"}
    artifact = Artifact(network(), {"a": params}, layers, ("one", "two"), sparse=sparse)

    save_artifact(artifact, folder)

    assert load_artifact(folder) == artifact
