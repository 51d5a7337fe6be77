"""A float network between the stages that train it or make it smaller: a module, and how it becomes ONNX."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from avcompress.float_network import deployed, with_output
from avcompress.recipe_network import TorchModel
from avcompress.running.bench import Bench
from avcompress.running.generating import generate_images
from avcompress.running.rehearsing import rehearse
from avcompress.running.task_loss import module_code
from avcompress.spec import Artifact
from avcompress.state import step_key

if TYPE_CHECKING:
    import onnx
    from torch import fx, nn

    from avcompress.train import TaskLoss

Export = Callable[["nn.Module"], "onnx.ModelProto"]
"""What makes the network of a module."""


@dataclass(frozen=True)
class FloatModel:
    """A float network on its way through the recipe's stages.

    Attributes:
        artifact: its model is a torch module, the user's own or one imported from ONNX.
        key: stands for all that has made it.
        export: makes the network that is measured, and quantized later.
        whole: makes the same with the batch normalization that it is trained with: what is made smaller.
        stored_norms: whether normalization keeps its statistics unless a stage says otherwise.
        loss: of the labels, by methods of the torch module that it once was; None where it has none, or still is one.
        dense: as it was before it was first made smaller; None until then.
    """

    artifact: Artifact
    key: str
    export: Export
    whole: Export
    stored_norms: bool = False
    loss: TaskLoss | None = None
    dense: onnx.ModelProto | None = None

    @property
    def network(self) -> Artifact:
        """The artifact of the network that is measured."""
        return replace(self.artifact, model=self.export(self.artifact.model))

    @property
    def own_loss(self) -> TaskLoss | None:
        """The loss of the labels by methods of the torch module that it is, or was; None where it has none."""
        return self.loss or _loss_of(self.artifact.model)

    def dense_self(self) -> nn.Module:
        """A copy of the network as it was before it was made smaller; as it is where it was not."""
        from avcompress.onnx_import import import_onnx

        return import_onnx(self.dense) if self.dense is not None else copy.deepcopy(self.artifact.model)


def digest(network: onnx.ModelProto) -> str:
    """The hash of a network's bytes."""
    return hashlib.sha256(network.SerializeToString(deterministic=True)).hexdigest()


def from_file(network: onnx.ModelProto, artifact: Artifact) -> FloatModel:
    """The network of an ONNX file: it stays the graph that it is, and its normalization as it is stored."""
    from avcompress.onnx_import import import_onnx

    export = _into(network)
    imported = replace(artifact, model=import_onnx(network, norms=True))
    return FloatModel(imported, step_key("imported", digest(network)), export, export, stored_norms=True)


def from_factory(bench: Bench, settings: TorchModel) -> FloatModel:
    """Build the torch module that a recipe names; raises ModelError for one that does not run or cannot be exported."""
    from avcompress.export import to_onnx
    from avcompress.models.loading import load_torch

    size = bench.recipe.preprocess.size

    def export(module: nn.Module) -> onnx.ModelProto:
        return with_output(to_onnx(module, size), settings.output)

    def whole(module: nn.Module) -> onnx.ModelProto:
        return with_output(to_onnx(module, size, keep_norms=True), settings.output)

    module = load_torch(settings, bench.job.data_root, bench.job.recipe_path.parent)
    network = export(module)  # its bytes are the key: they hold all that the user's code does
    rehearse(bench, network, settings.factory)
    key = step_key("module", digest(network), module_code(module, bench.inputs.get("model.import_from")))
    generate_images(bench, module, key)
    return FloatModel(Artifact(module, log=(f"built {settings.factory}",)), key, export, whole)


def from_structure(network: onnx.ModelProto, artifact: Artifact) -> FloatModel:
    """A network that was made smaller and saved: it is trained and exported as it was then."""
    from avcompress.onnx_import import import_onnx

    whole = _into(network)
    imported = replace(artifact, model=import_onnx(network, norms=True))
    return FloatModel(imported, step_key("saved", digest(network)), lambda module: deployed(whole(module)), whole)


def smaller(model: FloatModel, artifact: Artifact, key: str) -> FloatModel:
    """The network that a stage has made of one: from now on a graph imported from the artifact's ONNX."""
    from avcompress.onnx_import import import_onnx

    network: onnx.ModelProto = artifact.model
    whole = _into(network)

    def export(module: nn.Module) -> onnx.ModelProto:
        # As torch exports a module: with normalization folded in. A user's file stays the graph that it is.
        written = whole(module)
        return written if model.stored_norms else deployed(written)

    return replace(
        model,
        artifact=replace(artifact, model=import_onnx(network, norms=True)),
        key=key,
        export=export,
        whole=whole,
        loss=model.own_loss,
        dense=model.dense if model.dense is not None else model.whole(model.artifact.model),
    )


def as_graph(model: FloatModel) -> FloatModel:
    """The same network as a graph imported from its ONNX: its parameters have the names of constants."""
    network = model.whole(model.artifact.model)
    return smaller(model, replace(model.artifact, model=network), step_key("graph", model.key))


def _into(network: onnx.ModelProto) -> Export:
    """What writes a module that was imported from a network back into it."""
    from avcompress.onnx_import import write_back

    return lambda module: write_back(cast("fx.GraphModule", module), network)


def _loss_of(module: nn.Module) -> TaskLoss | None:
    """The loss of a module's own methods, where it has both of them."""
    from avcompress.train.recovery import own_loss

    has = all(callable(getattr(module, name, None)) for name in ("targets", "loss"))
    return own_loss(module) if has else None
