"""The network that teaches: where it comes from, and how it is run."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_never

from avcompress.distill.taps import Record, Tapped
from avcompress.float_network import saved_network, with_output
from avcompress.models.loading import load_torch
from avcompress.modes import evaluating
from avcompress.onnx_import import import_onnx
from avcompress.outputs import chosen
from avcompress.recipe_distill import Teaching
from avcompress.recipe_network import OnnxModel, SavedModel, TorchModel
from avcompress.spec import Artifact, ModelError
from avcompress.train.recovery import refuse_several
from engines.onnx_load import load_onnx


def load_teacher(settings: Teaching, own: nn.Module, size: tuple[int, int], data_root: Path, folder: Path) -> nn.Module:
    """The module that a recipe names as the teacher, in eval mode.

    Args:
        settings: `teacher` names it.
        own: what `self` stands for: the float network before pruning or quantization.
        size: height and width of the input.
        data_root: what the files start from.
        folder: the recipe's, which `import_from` starts from.

    Raises ModelError or RecipeError for a network that cannot be read, built or imported.
    """
    match settings.teacher:
        case "self":
            return own.eval()
        case OnnxModel(onnx=file, output=name):
            model = load_onnx((data_root / file).resolve(), settings.teacher_size or size)
            return import_onnx(with_output(model, name)).eval()
        case SavedModel(structure=saved, output=name):
            return import_onnx(with_output(saved_network((data_root / saved).resolve()), name)).eval()
        case TorchModel(output=name):
            module = load_torch(settings.teacher, data_root, folder)
            if name is not None:
                module.register_forward_hook(lambda _module, _inputs, output: chosen(output, name, "teacher.output"))
            return module
        case _:
            assert_never(settings.teacher)


def float_module(artifact: Artifact) -> nn.Module:
    """The float network of an artifact as a module of its own: what it was quantized from, or else as it is now."""
    network = artifact.model if artifact.reference is None else artifact.reference
    return copy.deepcopy(network).eval() if isinstance(network, nn.Module) else import_onnx(network).eval()


class Teacher:
    """A network that is asked and never changed: run in eval mode and without gradients.

    A copy of what holds it shares it: the averaged weights of a student have the same teacher.
    """

    def __init__(self, module: nn.Module, taps: Iterable[str]) -> None:
        self.module = module
        self.tapped = Tapped(module, taps, "teacher")

    def __call__(self, inputs: Tensor) -> Record:
        """What the network gives, as tensors that a loss may keep; nothing else of its run is kept."""
        refuse_several(self.module, inputs)
        _move_(self.module, inputs.device)
        with evaluating(self.module), torch.inference_mode():
            record = self.tapped(inputs)
        # A tensor made in inference mode cannot be saved for a gradient; its copy can.
        return record.map(torch.clone)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self


def _move_(module: nn.Module, device: torch.device) -> None:
    first = next(module.parameters(), None)
    if first is not None and first.device != device:
        module.to(device)


def check_two_networks(student: nn.Module, teacher: nn.Module) -> None:
    """Raise ModelError when the teacher would learn along: one of the student's parameters is its own."""
    ours = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in ours for parameter in teacher.parameters()):
        raise ModelError(
            "teacher: expected a network of its own, got parameters of the student's; copy it before training"
        )
