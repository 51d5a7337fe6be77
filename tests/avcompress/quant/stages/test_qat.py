"""Quantization-aware training as a stage: it learns, the same each time, and stays what `ptq` has made."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from avcompress.checkpoint import load_artifact, save_artifact
from avcompress.onnx_import import import_onnx
from avcompress.quant.analysis.restore import quantized_layers, restored
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.qat import Lesson, by, output_distance, qat
from avcompress.recipe import KeepFloat, Preprocess, Ptq
from avcompress.recipe_qat import Qat
from avcompress.spec import Artifact, DataError, ModelError
from avcompress.train import Around, Store
from calibration.sample import Sample
from engines.in_memory import open_model
from engines.onnx_graph import initializers
from engines.qdq import dequantize_array, quantize_array

pytestmark = pytest.mark.usefixtures("one_thread")
PREPROCESS = Preprocess(size=(12, 12), fit="stretch", mean=(128.0,) * 3, std=(64.0,) * 3)


@dataclass(frozen=True)
class Pictures:
    """Samples that are at hand."""

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sample.name for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self):
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(tuple(Sample(str(i), rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for i in range(8)))


@pytest.fixture(scope="module")
def coarse(small_net, small_batches):
    """The small network on ranges of far too bright or dim images: what it computes is far from what it should."""

    def make(light=8.0, **settings) -> Artifact:
        bright = [{"x": np.float32(light) * batch["x"]} for batch in small_batches]
        ptq = Ptq(kind="ptq", ranges="minmax", keep_float=KeepFloat(head=False), **settings)
        return quantize(Artifact(small_net), ptq, bright)

    return make


def plan(**changes) -> Qat:
    settings = {"kind": "qat", "steps": 40, "batch_size": 4, "learning_rate": 0.05, "scale_rate": 0.02}
    return Qat.model_validate(settings | {"weight_scales": "learned"} | changes)


def error(artifact: Artifact) -> float:
    """Of the output, on images that are not trained on, as ONNX Runtime computes both networks."""
    images = np.random.default_rng(9).standard_normal((8, 1, 3, 12, 12)).astype(np.float32)
    ours, theirs = (
        np.stack([session.run(None, {"x": image})[0] for image in images])
        for session in (open_model(artifact.model), open_model(artifact.reference))
    )
    return float(((ours - theirs) ** 2).mean())


def stored(artifact: Artifact) -> bytes:
    return artifact.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("method", "activations", "light", "gain"),
    [
        ("lsq", "symmetric", 8, 0.5),
        ("lsq", "shifted", 8, 0.5),
        ("lsq_plus", "asymmetric", 0.3, 0.5),
        ("ste", "symmetric", 0.3, 0.95),
    ],
)
def test_the_network_comes_nearer_to_its_float_self(coarse, pictures, method, activations, light, gain):
    artifact = coarse(light, activations=activations)

    trained = qat(artifact, plan(method=method), pictures, PREPROCESS)

    assert error(trained) < gain * error(artifact)
    assert trained.reference is artifact.reference
    assert trained.layers == artifact.layers
    assert trained.log[-2].startswith(f"qat: {method}, 40 steps of 4 from 8 images, loss ")
    changed = {name for name, params in trained.qparams.items() if params != artifact.qparams[name]}
    assert changed == (set() if method == "ste" else set(artifact.qparams))
    moved = any(trained.qparams[name].zero_point != params.zero_point for name, params in artifact.qparams.items())
    assert moved == (method == "lsq_plus")


def test_pact_narrows_ranges_by_its_regularizer_and_widens_them_where_that_pays(coarse, pictures):
    wide = coarse()
    narrowed = qat(wide, plan(method="pact", pact_decay=10.0, weight_scales="fixed"), pictures, PREPROCESS)
    tight = coarse(0.1)
    widened = qat(tight, plan(method="pact", pact_decay=0.0, weight_scales="fixed"), pictures, PREPROCESS)

    for before, after, sign in ((wide, narrowed, -1), (tight, widened, 1)):
        for name, params in before.qparams.items():
            if len(params.scale) == 1:
                assert sign * (after.qparams[name].scale[0] - params.scale[0]) > 0


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(coarse, pictures):
    artifact = coarse()

    first, again, other = (stored(qat(artifact, plan(steps=5, seed=seed), pictures, PREPROCESS)) for seed in (0, 0, 1))

    assert first == again
    assert first != other


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_bytes(coarse, pictures, tmp_path):
    artifact, settings = coarse(), plan(steps=8, keep_every=3)
    whole = qat(artifact, settings, pictures, PREPROCESS)
    seen = []

    def killed(step, values):
        seen.append(step)
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qat(artifact, settings, pictures, PREPROCESS, Around(store=Store(tmp_path), log=killed))
    resumed = qat(
        artifact, settings, pictures, PREPROCESS, Around(store=Store(tmp_path), log=lambda step, _: seen.append(step))
    )

    assert seen == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    assert stored(resumed) == stored(whole)
    assert resumed.qparams == whole.qparams


def test_a_loss_of_the_users_own_is_given_outputs_float_outputs_and_samples(coarse, pictures):
    artifact, calls = coarse(), []

    def loss_of(outputs, float_outputs, samples):
        calls.append((tuple(outputs.shape), float_outputs.requires_grad, [sample.name for sample in samples]))
        return (outputs - float_outputs).square().mean()

    qat(artifact, plan(steps=2), pictures, PREPROCESS, lesson=by(loss_of))

    assert [(shape, grad) for shape, grad, _ in calls] == [((4, 4, 12, 12), False)] * 2
    assert sorted(calls[0][2] + calls[1][2]) == list(pictures.names)


def test_the_distance_of_outputs_is_in_parts_of_their_variance():
    floats = torch.tensor([[-2.0, 2.0]])

    assert output_distance(floats + 1, floats, []).item() == pytest.approx(1 / 4)
    assert output_distance((floats + 1, floats), (floats, floats), []).item() == pytest.approx(1 / 8)


def test_labels_that_a_lesson_needs_and_losses_that_are_no_number_are_told(coarse, pictures):
    artifact = coarse()
    with pytest.raises(DataError, match="expected boxes or a mask to learn from"):
        qat(artifact, plan(), pictures, PREPROCESS, lesson=by(output_distance, labels=True))

    with pytest.raises(ModelError, match=r"expected a finite loss, got nan at step 0 \("):
        qat(artifact, plan(), pictures, PREPROCESS, lesson=by(lambda outputs, *_: outputs.sum() * float("nan")))


def test_what_is_trained_along_is_not_exported(coarse, pictures):
    artifact = coarse()

    class WithAdapter(torch.nn.Module):
        def __init__(self, student, float_self):
            super().__init__()
            self.student, self.adapter = student, torch.nn.Conv2d(4, 4, 1)
            self.targets = [float_self]

        def loss(self, inputs, _targets=None):
            with torch.no_grad():
                wanted = self.targets[0](inputs)
            return (self.adapter(self.student(inputs)) - wanted).square().mean()

    trained = qat(artifact, plan(steps=3), pictures, PREPROCESS, lesson=Lesson(lambda s, f, _: WithAdapter(s, f)))

    assert [tensor.name for tensor in trained.model.graph.initializer] == [
        tensor.name for tensor in artifact.model.graph.initializer
    ]


def test_the_module_and_onnx_runtime_give_the_same_after_training(coarse, pictures):
    trained = qat(coarse(), plan(steps=5), pictures, PREPROCESS)
    image = np.random.default_rng(5).standard_normal((1, 3, 12, 12)).astype(np.float32)

    with torch.no_grad():
        ours = import_onnx(trained.model)(torch.from_numpy(image)).numpy()
    theirs = open_model(trained.model).run(None, {"x": image})[0]

    assert np.allclose(ours, theirs, atol=1e-4)


def test_it_trains_in_half_precision_in_parts_and_by_plain_descent(coarse, pictures):
    artifact = coarse()
    for changes in ({"precision": "bf16", "accumulate": 2}, {"optimizer": "sgd", "weight_scales": "recomputed"}):
        trained = qat(artifact, plan(steps=3, **changes), pictures, PREPROCESS)

        assert stored(trained) != stored(artifact)


# --- its float twin


def values(model):
    return {name: numpy_helper.to_array(tensor) for name, tensor in initializers(model).items()}


@pytest.mark.parametrize("settings", [{}, {"activations": "shifted"}], ids=["symmetric", "shifted"])
def test_the_float_twin_has_the_trained_weights_before_they_were_rounded(coarse, pictures, settings):
    trained = qat(coarse(**settings), plan(weight_decay=0.0), pictures, PREPROCESS)

    ours, before = values(trained.trained), values(trained.reference)
    assert [node.name for node in trained.trained.graph.node] == [node.name for node in trained.reference.graph.node]
    for name in ("wa", "wb", "wy"):
        params = trained.qparams[name]
        assert not np.allclose(ours[name], before[name], atol=float(max(params.scale)) / 4)
        integers = quantize_array(ours[name], params)
        assert (integers == stored_integers(trained.model, name)).all()


def stored_integers(model, name):
    """Of a weight: what the layer's DequantizeLinear reads."""
    (layer,) = [
        node for node in model.graph.node if node.name == {"wa": "Conv_0", "wb": "Conv_2", "wy": "Conv_4"}[name]
    ]
    (dequantize,) = [node for node in model.graph.node if layer.input[1] in node.output]
    return values(model)[dequantize.input[0]]


def test_a_bias_of_the_float_twin_gives_the_layer_the_mean_that_the_quantized_one_has(coarse, pictures):
    start = coarse()
    trained = qat(start, plan(augment={"mirror": 0.0, "brightness": 0.0}), pictures, PREPROCESS)

    images = np.stack([(p.image.transpose(2, 0, 1) - 128.0) / 64 for p in pictures]).astype(np.float32)
    mean = dequantize_array(quantize_array(images, start.qparams["x"]), start.qparams["x"]).mean((0, 2, 3))
    ours, quantized = values(trained.trained), values(trained.model)
    params = trained.qparams["wa"]
    rounded = dequantize_array(stored_integers(trained.model, "wa"), params)
    change = ((rounded - ours["wa"]) * mean[None, :, None, None]).sum((1, 2, 3))
    np.testing.assert_allclose(ours["ba"], quantized["ba"] + change, atol=1e-5)
    assert np.abs(change).max() > 1e-4


@pytest.mark.parametrize("settings", [{}, {"activations": "shifted"}], ids=["symmetric", "shifted"])
def test_layers_that_are_set_back_to_float_compute_what_the_twin_does(coarse, pictures, settings):
    trained = qat(coarse(**settings), plan(), pictures, PREPROCESS)
    layers = quantized_layers(trained.model, trained.trained)
    image = np.random.default_rng(5).standard_normal((1, 3, 12, 12)).astype(np.float32)

    back = open_model(restored(trained.model, trained.trained, layers)).run(None, {"x": image})[0]
    twin = open_model(trained.trained).run(None, {"x": image})[0]

    np.testing.assert_allclose(back, twin, atol=1e-5)


def test_the_twin_is_kept_with_the_artifact(coarse, pictures, tmp_path):
    trained = qat(coarse(), plan(steps=2), pictures, PREPROCESS)

    save_artifact(trained, tmp_path)

    assert load_artifact(tmp_path).trained == trained.trained
