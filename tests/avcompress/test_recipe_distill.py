"""What a recipe says of distillation."""

import pytest
from pydantic import ValidationError

from avcompress.recipe_distill import Distill, Response, Soft, Teaching
from avcompress.recipe_network import OnnxModel, TorchModel


def teaching(teacher: object = "self", *losses: dict) -> Teaching:
    return Teaching.model_validate({"teacher": teacher, "losses": list(losses) or [{"kind": "soft"}]})


def test_a_stage_lists_several_losses_with_their_weights_beside_how_it_trains():
    stage = Distill.model_validate(
        {
            "kind": "distill",
            "steps": 10,
            "losses": [
                {"kind": "response", "weight": 2},
                {"kind": "cwd", "taps": ["neck.*", {"student": "a", "teacher": "b"}], "temperature": 1},
                {"kind": "mutual", "by": {"kind": "response"}},
                {"kind": "mutual"},
            ],
        }
    )

    assert stage.teacher == "self"
    assert stage.batch_size == 16
    assert [loss.weight for loss in stage.losses] == [2, 1, 1, 1]
    assert stage.losses[1].taps[1].teacher == "b"
    assert isinstance(stage.losses[2].by, Response)
    assert isinstance(stage.losses[3].by, Soft)


def test_a_teacher_is_a_file_a_module_or_the_network_itself():
    assert teaching({"onnx": "t.onnx"}).teacher == OnnxModel(onnx="t.onnx")
    assert teaching({"factory": "net:big", "weights": "w.pth"}).teacher == TorchModel(
        factory="net:big", weights="w.pth"
    )
    assert teaching().teacher == "self"


@pytest.mark.parametrize(
    ("teacher", "loss", "where"),
    [
        ("myself", {"kind": "soft"}, "teacher"),
        ("self", {"kind": "hard"}, "losses"),
        ("self", {"kind": "soft", "taps": ["a"]}, "taps"),
        ("self", {"kind": "features", "taps": []}, "taps"),
        ("self", {"kind": "mgd", "taps": ["a"], "mask": 1.0}, "mask"),
        ("self", {"kind": "soft", "temperature": 0}, "temperature"),
        ("self", {"kind": "soft", "alpha": 1.5}, "alpha"),
        ("self", {"kind": "mutual", "by": {"kind": "cwd"}}, "by"),
    ],
)
def test_what_no_loss_knows_is_refused(teacher, loss, where):
    with pytest.raises(ValidationError, match=where):
        teaching(teacher, loss)


def test_at_least_one_loss_is_needed():
    with pytest.raises(ValidationError, match="losses"):
        Teaching.model_validate({"losses": []})
