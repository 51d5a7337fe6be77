"""An export gives torch's numbers in ONNX Runtime, keeps the names, and leaves the module alone."""

import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from avcompress import export
from avcompress.export import load_state_, state_to_safetensors, to_onnx
from avcompress.spec import ModelError
from engines.onnx_graph import macs

SIZE = (16, 24)


def run(model: onnx.ModelProto, image: Tensor) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: image.numpy()}), strict=True))


def image(seed: int = 7) -> Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 4 - 2


class Residual(nn.Module):
    """Convolution and batch norm, a depthwise one, an addition, a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        with torch.no_grad():
            self.stem[1].running_mean.uniform_(-1, 1)
            self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.up(functional.silu(x + self.depthwise(x)))


class Returns(nn.Module):
    """A convolution whose result is handed to a function."""

    def __init__(self, function: Callable[[Tensor], object], channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(self.conv(x))


class Nested(nn.Module):
    """Blocks in blocks, and a list of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4)), nn.Conv2d(4, 4, 1))
        self.heads = nn.ModuleList(
            [nn.Conv2d(4, 2, 1), nn.Sequential(nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2))]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.body(x)
        return [head(x) for head in self.heads]


class Linear(nn.Module):
    """Two views of a pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 6)
        self.tokens = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x.mean((2, 3))), self.tokens(x.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("network", [Residual, Nested, Linear])
def test_onnx_runtime_gives_torchs_numbers_on_an_image_that_the_export_did_not_see(network: type[nn.Module]) -> None:
    torch.manual_seed(1)
    module = network().eval()
    with torch.no_grad():
        expected = module(image())
    outputs = run(to_onnx(module, SIZE), image())

    for value, reference in zip(
        outputs.values(), expected if isinstance(expected, list | tuple) else [expected], strict=True
    ):
        np.testing.assert_allclose(value, reference.numpy(), atol=1e-5)


@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.integers(1, 5))
def test_the_input_is_one_image_of_the_size_that_was_asked_for(height: int, width: int, channels: int) -> None:
    model = to_onnx(nn.Conv2d(3, channels, 1), (height, width), input_name="camera")

    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert (model.graph.input[0].name, shape) == ("camera", [1, 3, height, width])
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [1, channels, height, width]
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, x + 1), ["output_0", "output_1"]),
        (lambda x: [x + 1], ["output_0"]),
        (lambda x: {"out": x, "aux": x * 2, "none": None}, ["out", "aux"]),
        (lambda x: (x, [x + 1, x + 2]), ["output_0", "output_1_0", "output_1_1"]),
        (lambda x: {"boxes": [x, x + 1], "scores": x + 2}, ["boxes_0", "boxes_1", "scores"]),
        (lambda x: (x, x), ["output_0", "output_1"]),
    ],
)
def test_outputs_are_named_after_what_the_module_returns(
    function: Callable[[Tensor], object], names: list[str]
) -> None:
    module = Returns(function)
    outputs = run(to_onnx(module, SIZE), image())

    assert list(outputs) == names
    with torch.no_grad():
        np.testing.assert_allclose(outputs[names[0]] - module.conv(image()).numpy(), 0, atol=1.00001)


def test_class_indices_may_be_an_output() -> None:
    outputs = run(to_onnx(Returns(lambda x: x.argmax(1)), SIZE), image())

    assert outputs["output"].dtype == np.int64


def test_nodes_keep_their_scopes_and_initializers_the_names_of_parameters() -> None:
    graph = to_onnx(Nested(), SIZE).graph

    assert {node.name for node in graph.node if node.op_type == "Conv"} == {
        "/body/body.0/body.0.0/Conv",
        "/body/body.1/Conv",
        "/heads.0/Conv",
        "/heads.1/heads.1.0/Conv",
    }
    assert {item.name for item in graph.initializer} == {
        "body.0.0.weight",
        "body.0.0.bias",
        "body.0.1.weight",
        "body.1.weight",
        "body.1.bias",
        "heads.0.weight",
        "heads.0.bias",
        "heads.1.0.weight",  # the batch norm is folded into these two
        "heads.1.0.bias",
    }


def test_a_folded_batch_norm_is_scale_over_deviation() -> None:
    module = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0))
    module.load_state_dict(
        {
            "0.weight": torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1),
            "1.weight": torch.tensor([6.0]),
            "1.bias": torch.tensor([1.0]),
            "1.running_mean": torch.tensor([0.5]),
            "1.running_var": torch.tensor([4.0]),
        },
        strict=False,
    )
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in to_onnx(module, SIZE).graph.initializer}

    np.testing.assert_allclose(constants["0.weight"].ravel(), [3, 6, 9])  # 6 / sqrt(4) = 3
    np.testing.assert_allclose(constants["0.bias"], [-0.5])  # 1 - 3 * 0.5


def test_normalization_that_is_kept_has_the_parameters_names_and_the_same_numbers() -> None:
    module = Residual().eval()

    model = to_onnx(module, SIZE, keep_norms=True)

    (norm,) = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    kept = ("weight", "bias", "running_mean", "running_var")
    assert list(norm.input[1:]) == [f"stem.1.{name}" for name in kept]
    assert "stem.0.weight" in {item.name for item in model.graph.initializer}
    folded = to_onnx(module, SIZE)
    np.testing.assert_allclose(run(model, image())["output"], run(folded, image())["output"], atol=1e-5)


def test_a_module_that_is_called_twice_gets_two_nodes_and_one_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    graph = to_onnx(Twice(), SIZE).graph
    assert len(graph.node) == 2
    assert {item.name for item in graph.initializer} == {"conv.weight", "conv.bias"}


def test_equal_parameters_of_two_layers_stay_two_constants() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.PReLU(3), nn.Conv2d(3, 3, 1), nn.PReLU(3))
    module[2].load_state_dict(module[0].state_dict())
    graph = to_onnx(module, SIZE).graph

    assert [node.op_type for node in graph.node] == ["Conv", "PRelu", "Conv", "PRelu"]
    assert {item.name for item in graph.initializer} == set(module.state_dict())


def test_the_same_module_gives_the_same_bytes() -> None:
    module = Residual()

    first, second = (to_onnx(module, SIZE).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_module_stays_as_it_was() -> None:
    module = Residual()
    module.stem[1].eval()
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    to_onnx(module, SIZE)

    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert isinstance(module(image()), Tensor)


def test_the_module_stays_as_it_was_when_the_export_fails() -> None:
    module = Returns(lambda x: torch.linalg.svd(x)[0]).train()
    with pytest.raises(ModelError):
        to_onnx(module, SIZE)

    assert module.training
    assert not module._forward_hooks


def test_warnings_of_the_exporter_are_silent_and_others_stay_on() -> None:
    filters = warnings.filters.copy()
    to_onnx(Returns(lambda x: x * 2 if x.sum() < 1e9 else x), SIZE)  # a TracerWarning, an error under pytest

    assert warnings.filters == filters


def complaint(module: nn.Module, size: tuple[int, int] = SIZE) -> str:
    with pytest.raises(ModelError) as caught:
        to_onnx(module, size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_that_does_not_run_is_one_line() -> None:
    text = complaint(nn.Conv2d(4, 2, 1))
    assert text.startswith("model: expected it to run on (1, 3, 16, 24) float32, got RuntimeError: ")
    assert text.endswith("; check preprocess.size and model.args")


def test_an_operator_without_onnx_is_named() -> None:
    text = complaint(Returns(lambda x: torch.linalg.svd(x)[0]))
    assert text.startswith("model: expected an export to ONNX opset 17, got ")
    assert "aten::" in text


@pytest.mark.parametrize("result", ["text", 3, {"a": "text"}, object()])
def test_what_is_no_tensor_is_refused(result: object) -> None:
    assert "expected it to return tensors, got a " in complaint(Returns(lambda _: result))


@pytest.mark.parametrize("result", [(), {}, {"a": None}, None])
def test_no_output_is_refused(result: object) -> None:
    assert "expected it to return at least one tensor, got none" in complaint(Returns(lambda _: result))


def test_outputs_that_are_no_numbers_are_refused() -> None:
    assert "expected finite outputs" in complaint(Returns(lambda x: torch.log(x * 0 - 1)))


def test_a_random_network_is_refused() -> None:
    text = complaint(Returns(lambda x: functional.dropout(x, 0.5, training=True)))
    assert "export changed the numbers: expected 'output' within 0.0001 of torch, got " in text


def test_a_changed_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = export._export

    def wrong(*args: object) -> onnx.ModelProto:
        model = genuine(*args)  # type: ignore[arg-type]
        weight = next(item for item in model.graph.initializer if item.name == "conv.weight")
        value = onnx.numpy_helper.to_array(weight) * np.float32(1.001)
        weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
        return model

    monkeypatch.setattr(export, "_export", wrong)
    assert "export changed the numbers" in complaint(Returns(lambda x: x))


class Decides(nn.Module):
    """Python code that takes one of two ways by the result of a function."""

    def __init__(self, decision: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.decision = nn.Conv2d(3, 4, 1), decision

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.decision(x):  # decided here
            return y * 2
        return y


def test_a_decision_by_the_images_values_is_refused_with_its_line() -> None:
    text = complaint(Decides(lambda x: x.mean() > 0))

    assert text.startswith("model: expected the same operations for every image, got a decision by values at ")
    assert f"{__file__}:" in text
    assert "(if self.decision(x):  # decided here)" in text
    assert "torch.where" in text


@pytest.mark.parametrize(
    "decision",
    [
        lambda x: int(x.abs().max()) > 9,
        lambda x: float(x.mean()) > 0,
        lambda x: x.mean().item() > 0,
        lambda x: x.tolist()[0][0][0][0] > 1,
        lambda x: x.numpy().mean() > 0,
    ],
)
def test_a_value_that_python_reads_is_a_decision_too(decision: Callable[[Tensor], object]) -> None:
    text = complaint(Decides(decision))

    assert text.startswith("model: expected the same operations for every image, got a decision by values at ")
    assert f"{__file__}:" in text


@pytest.mark.parametrize(
    "decision",
    [
        lambda x: x.shape[2] % 2,
        lambda x: int(x.shape[2]) % 2,
        lambda x: torch.isnan(x).any(),
        lambda _: torch.ones(1) > 0,
    ],
)
def test_decisions_that_are_the_same_for_every_image_are_exported(decision: Callable[[Tensor], object]) -> None:
    module = Decides(decision).eval()
    model = to_onnx(module, SIZE)

    (found,) = run(model, image()).values()
    np.testing.assert_allclose(found, module(image()).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("network", [Residual, Nested, Linear])
def test_batch_norms_stay_nodes_where_they_are_asked_to(network: type[nn.Module]) -> None:
    module = network().eval()
    model = to_onnx(module, SIZE, keep_norms=True)

    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    expected = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == len(expected)
    assert not any(attribute.i for node in norms for attribute in node.attribute if attribute.name == "training_mode")
    assert {name for name, _ in module.named_parameters()} <= {item.name for item in model.graph.initializer}
    for found, part in zip(norms, expected, strict=True):
        scale = next(item for item in model.graph.initializer if item.name == found.input[1])
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(scale), part.weight.detach().numpy())


# --- the state of a module


def test_the_state_comes_back_and_its_bytes_are_the_same() -> None:
    torch.manual_seed(3)
    source, target = Residual(), Residual()
    data = state_to_safetensors(source)
    load_state_(target, data)

    assert state_to_safetensors(target) == data
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_tied_weights_survive() -> None:
    first = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    first[1].weight = first[0].weight
    second = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    second[1].weight = second[0].weight
    load_state_(second, state_to_safetensors(first))

    assert second[1].weight is second[0].weight
    assert torch.equal(second[0].weight, first[0].weight)


@pytest.mark.parametrize(
    "data", [b"", b"123", state_to_safetensors(nn.Linear(2, 2)), state_to_safetensors(Residual())[:99]]
)
def test_the_state_of_something_else_is_one_line(data: bytes) -> None:
    with pytest.raises(
        ModelError, match=r"^checkpoint: expected the state of this Residual, got .*--resume$"
    ) as caught:
        load_state_(Residual(), data)
    assert "\n" not in str(caught.value)


def test_layers_behind_a_split_whose_sizes_are_computed_have_their_macs() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.first(x).chunk(2, dim=1)
            return torch.cat([left, self.second(right)], dim=1)

    found = macs(to_onnx(Split(), SIZE))

    assert sorted(found.values()) == sorted([3 * 8 * 16 * 24, 4 * 4 * 9 * 16 * 24])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.layer(self.stem(x).flatten(2).transpose(1, 2))
        return tokens


def test_a_transformer_layer_of_torch_is_exported_without_its_fused_kernel() -> None:
    assert torch.backends.mha.get_fastpath_enabled()

    model = to_onnx(Attention().eval(), SIZE)

    assert "Softmax" in {node.op_type for node in model.graph.node}
    assert torch.backends.mha.get_fastpath_enabled()
