"""Who teaches: an ONNX file, a torch module, or the network itself."""

import copy

import numpy as np
import onnx
import pytest
import torch

from avcompress.distill.teacher import Teacher, load_teacher
from avcompress.recipe_distill import Teaching
from avcompress.spec import ModelError, RecipeError
from engines.in_memory import open_model

CODE = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return {"out": y, "aux": -y}


class Listed(Two):
    def forward(self, x):
        y = self.conv(x)
        return y, -y
"""


def teaching(teacher: object) -> Teaching:
    return Teaching.model_validate({"teacher": teacher, "losses": [{"kind": "soft"}]})


def test_a_file_is_imported_and_computes_what_the_runtime_does(small_onnx, tmp_path, net, images):
    onnx.save(small_onnx, tmp_path / "teacher.onnx")

    module = load_teacher(teaching({"onnx": "teacher.onnx"}), net(), (16, 16), tmp_path, tmp_path)

    (expected,) = open_model(small_onnx).run(None, {"x": images(1).numpy()})
    np.testing.assert_allclose(module(images(1)).detach().numpy(), expected, atol=1e-4)
    assert not module.training


def test_a_file_of_fixed_size_is_read_at_the_size_that_the_teacher_sees(small_onnx, tmp_path, net):
    onnx.save(small_onnx, tmp_path / "teacher.onnx")
    settings = teaching({"onnx": "teacher.onnx"}).model_copy(update={"teacher_size": (16, 16)})

    module = load_teacher(settings, net(), (8, 8), tmp_path, tmp_path)

    assert module(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 16, 16)


@pytest.mark.parametrize(("factory", "output"), [("Two", "aux"), ("Listed", "output_1")])
def test_a_torch_module_gives_the_output_that_is_named(factory, output, tmp_path, net, images):
    (tmp_path / "teacher_code.py").write_text(CODE)
    settings = {"factory": f"teacher_code:{factory}", "import_from": ".", "output": output}

    module = load_teacher(teaching(settings), net(), (16, 16), tmp_path, tmp_path)

    assert torch.equal(module(images()), -module.conv(images()))
    wrong = load_teacher(teaching({**settings, "output": "logits"}), net(), (16, 16), tmp_path, tmp_path)
    with pytest.raises(RecipeError, match=r"teacher\.output: expected one of .*, out.*, got 'logits'"):
        wrong(images())


def test_itself_is_the_network_as_it_was(net, tmp_path):
    own = net()

    assert load_teacher(teaching("self"), own, (16, 16), tmp_path, tmp_path) is own


def test_a_file_that_is_not_there_is_told(net, tmp_path):
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        load_teacher(teaching({"onnx": "missing.onnx"}), net(), (16, 16), tmp_path, tmp_path)


def test_what_a_teacher_gives_may_be_kept_by_a_loss(net, images):
    asked = Teacher(net(), ["act"])(images())
    student = torch.ones(1, requires_grad=True)

    (student * asked.output).sum().backward()

    assert not asked.output.is_inference()
    assert not asked.taps["act"].requires_grad
    assert student.grad.item() == pytest.approx(asked.output.sum().item(), rel=1e-4)


def test_copies_share_their_teacher(net):
    teacher = Teacher(net(), [])

    assert copy.deepcopy(teacher) is teacher
