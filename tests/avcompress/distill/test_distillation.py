"""What a training loop makes small: every kind of loss between two small networks, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from avcompress.distill import Subject, distillation
from avcompress.distill.features import attention_transfer, channel_wise, mimicry
from avcompress.distill.soft import softmax_divergence
from avcompress.models import detector
from avcompress.onnx_import import import_onnx
from avcompress.recipe import Detection
from avcompress.recipe_distill import Teaching
from avcompress.spec import DataError, EngineError, ModelError, RecipeError

LTRB = Detection(kind="detection", decode="ltrb")
EVERY = [
    {"kind": "soft"},
    {"kind": "soft", "classes": "sigmoid", "temperature": 2},
    {"kind": "features", "taps": ["act"]},
    {"kind": "features", "taps": ["second.*"], "standardize": False},
    {"kind": "attention", "taps": ["act", "second.1"]},
    {"kind": "cwd"},
    {"kind": "cwd", "taps": ["act"], "temperature": 1},
    {"kind": "mgd", "taps": ["act"]},
    {"kind": "self", "deep": "second.1", "shallow": ["first"]},
    {"kind": "self", "deep": "second.1", "shallow": ["first", "act"], "by": "features"},
    {"kind": "mutual"},
]


def teaching(*losses: dict) -> Teaching:
    return Teaching.model_validate({"losses": losses})


def descend(distilled: nn.Module, inputs: torch.Tensor, steps: int = 60, targets: object = None) -> list[float]:
    optimizer = torch.optim.Adam([p for p in distilled.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for _ in range(steps):
        loss = distilled.loss(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: "-".join(str(v) for v in list(loss.values())[:2]))
def test_every_loss_between_networks_of_other_widths_and_sizes_is_learned(loss, net, images):
    torch.manual_seed(0)
    student, teacher = net(width=4, seed=1, stride=2), net(width=6, seed=2, stride=1)
    distilled = distillation(student, teacher, teaching(loss), images(1)).train()

    losses = descend(distilled, images(4, seed=3), steps=80)

    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_losses_are_those_of_the_formulas_weighted_and_summed(net, images):
    student, teacher, x = net(seed=1), net(seed=2).eval(), images()
    distilled = distillation(
        student,
        teacher,
        teaching(
            {"kind": "soft", "temperature": 2, "weight": 3},
            {"kind": "attention", "taps": ["act"]},
            {"kind": "cwd", "temperature": 1},
            {"kind": "features", "taps": ["norm", "head"], "standardize": False},
        ),
        x,
    ).train()
    parts = distilled.parts(x)
    student.train()

    a, b = student.norm(student.first(x)), teacher.norm(teacher.first(x))
    ours, theirs = student(x), teacher(x)
    expected = {
        "0 soft": 3 * softmax_divergence(ours, theirs, 2.0),
        "1 attention": attention_transfer(a.relu(), b.relu()),
        "2 cwd": channel_wise(ours, theirs, 1.0),
        "3 features": (mimicry(a, b, False) + mimicry(ours, theirs, False)) / 2,
    }
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )
    assert distilled.loss(x).item() == pytest.approx(sum(expected.values()).item(), rel=1e-4)


def test_the_teacher_is_asked_in_eval_mode_and_nothing_of_it_changes(net, images):
    student, teacher = net(seed=1), net(seed=2).train()
    before = copy.deepcopy(teacher.state_dict())
    distilled = distillation(student, teacher, teaching({"kind": "soft"}, {"kind": "mgd", "taps": ["act"]}), images())

    descend(distilled.train(), images(), steps=3)

    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert not any(layer._forward_hooks for layer in teacher.modules())


def test_parameters_are_the_students_and_what_the_losses_bring_along(net, images):
    student, teacher = net(width=5), net(width=6)
    losses = teaching(
        {"kind": "features", "taps": ["act"]},
        {"kind": "mgd", "taps": ["second.1"]},
        {"kind": "soft"},
        {"kind": "attention", "taps": ["act"]},
        {"kind": "self", "deep": "head", "shallow": ["act"]},
        {"kind": "self", "deep": "head", "shallow": ["head", "act"], "by": "features"},
    )

    names = [name for name, _ in distillation(student, teacher, losses, images()).named_parameters()]

    own = [name for name in names if not name.startswith("student.")]
    assert len(names) - len(own) == len(list(student.parameters()))
    assert own == [
        *(f"terms.0.adapters.0.{n}" for n in ("weight", "bias")),
        *(f"terms.1.adapters.0.{n}" for n in ("weight", "bias")),
        *(f"terms.1.generators.0.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")),
        *(f"terms.5.adapters.0.{n}" for n in ("weight", "bias")),
    ]


def test_a_copy_learns_on_its_own_from_the_same_teacher(net, images):
    student, teacher = net(seed=1), net(seed=2)
    distilled = distillation(student, teacher, teaching({"kind": "features", "taps": ["norm"]}), images())
    copied = copy.deepcopy(distilled)

    descend(copied, images(), steps=5)

    assert copied.other is distilled.other
    assert not torch.equal(copied.student.first.weight, student.first.weight)
    assert copied.loss(images()) < distilled.loss(images())


def test_a_teacher_sees_the_pictures_at_its_own_size(net, images):
    student, teacher, x = net(seed=1).eval(), net(seed=2).eval(), images()
    soft = {"losses": [{"kind": "soft", "temperature": 1}]}
    enlarged = Teaching.model_validate({**soft, "teacher_size": (32, 32)})
    asked = []
    teacher.first.register_forward_pre_hook(lambda _, given: asked.append(tuple(given[0].shape)))

    found = distillation(student, teacher, enlarged, x).eval().loss(x)

    assert asked == [(2, 3, 32, 32)] * 2
    theirs = F.interpolate(teacher(F.interpolate(x, (32, 32), mode="bilinear")), (8, 8), mode="area")
    assert found.item() == pytest.approx(softmax_divergence(student(x), theirs, 1.0).item(), rel=0.05)
    same = Teaching.model_validate({**soft, "teacher_size": (16, 16)})
    plain = distillation(student, teacher, Teaching.model_validate(soft), x).eval().loss(x)
    assert torch.equal(distillation(student, teacher, same, x).eval().loss(x), plain)


class Several(nn.Module):
    """A network with a second output beside its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y = self.inner(x)
        return {"aux": y.mean(), "out": y}

    def loss(self, outputs, targets):
        return (outputs["out"].mean() - targets).square() + outputs["aux"].square()


def test_of_several_outputs_the_named_one_is_compared_and_labels_see_all(net, images):
    inner, teacher, x = net(seed=1).eval(), net(seed=2).eval(), images()
    student, losses = Several(inner), teaching({"kind": "soft", "alpha": 0.25}, {"kind": "cwd"}, {"kind": "labels"})

    parts = distillation(student, teacher, losses, x, Subject(output="out")).eval().parts(x, 3.0)

    ours, theirs = inner(x), teacher(x)
    hard = student.loss({"out": ours, "aux": ours.mean()}, 3.0)
    mixed = 0.25 * hard + 0.75 * softmax_divergence(ours, theirs, 4.0)
    assert parts["0 soft"].item() == pytest.approx(mixed.item(), rel=1e-4)
    assert parts["1 cwd"].item() == pytest.approx(channel_wise(ours, theirs, 4.0).item(), rel=1e-4)
    assert parts["2 labels"].item() == pytest.approx(hard.item(), rel=1e-4)
    with pytest.raises(RecipeError, match=r"model\.output: expected one of what the module returns, aux, out, got 'y'"):
        distillation(student, teacher, losses, x, Subject(output="y"))


def test_an_imported_network_learns_from_a_torch_module_with_other_names(small_onnx, net, images):
    student, teacher = import_onnx(small_onnx), net(seed=3, width=8, stride=1)
    losses = teaching(
        {"kind": "features", "taps": [{"student": "r", "teacher": "act"}, {"student": "b", "teacher": "second.0"}]},
        {"kind": "soft"},
    )

    found = descend(distillation(student, teacher, losses, images()), images(4), steps=80)

    assert found[-1] < 0.7 * found[0]


# --- labels, two students, depths


def test_labels_and_soft_labels_share_the_loss_by_alpha(net, images):
    student, teacher, x = net(seed=1).eval(), net(seed=2), images()
    targets = torch.tensor([5.0, -5.0])
    hard = student.loss(student(x), targets).item()
    soft = softmax_divergence(student(x), teacher.eval()(x), 4.0).item()

    distilled = distillation(student, teacher, teaching({"kind": "soft", "alpha": 0.25}, {"kind": "labels"}), x)

    parts = distilled.eval().parts(x, targets)
    assert parts["0 soft"].item() == pytest.approx(0.25 * hard + 0.75 * soft, rel=1e-4)
    assert parts["1 labels"].item() == pytest.approx(hard, rel=1e-4)


def test_two_students_learn_from_labels_and_from_each_other(net, images):
    one, other, x, targets = net(width=4, seed=1), net(width=6, seed=2), images(4), torch.zeros(4)
    distilled = distillation(one, other, teaching({"kind": "mutual"}, {"kind": "labels"}), x).train()
    apart = softmax_divergence(one(x), other(x), 1.0).item()
    first = copy.deepcopy(other.state_dict())

    losses = descend(distilled, x, 80, targets)

    assert distilled.peer is other
    assert losses[-1] < 0.5 * losses[0]
    assert softmax_divergence(one(x), other(x), 1.0).item() < 0.5 * apart
    assert any(not torch.equal(value, first[name]) for name, value in other.state_dict().items())


def test_each_of_two_students_takes_the_other_one_as_it_is(net, images):
    one, other, x = net(seed=1).eval(), net(seed=2).eval(), images()
    distilled = distillation(one, other, teaching({"kind": "mutual"}), x).eval()
    distilled.loss(x).backward()
    found = one.head.weight.grad.clone()

    one.zero_grad()
    softmax_divergence(one(x), other(x).detach(), 1.0).backward()

    assert torch.allclose(found, one.head.weight.grad, atol=1e-6)


def test_deep_layers_teach_shallow_ones_and_learn_nothing_from_them(net, images):
    student = net()
    distilled = distillation(
        student, net(seed=1), teaching({"kind": "self", "deep": "head", "shallow": ["act"]}), images()
    )

    distilled.loss(images()).backward()

    assert student.first.weight.grad is not None
    assert student.head.weight.grad is None


# --- detectors


def test_a_detector_learns_a_larger_ones_boxes_and_scores_without_labels():
    student, teacher = detector(3, width=4, seed=1), detector(3, width=8, seed=2).eval()
    with torch.no_grad():
        for head in teacher.heads:
            head.bias[4:] = torch.tensor([1.0, -2.0, -4.0])
    x = torch.rand(2, 3, 32, 64)
    losses = teaching(
        {"kind": "response"},
        {"kind": "localisation", "form": "l1"},
        {"kind": "localisation"},
        {"kind": "mutual", "by": {"kind": "response"}},
    )
    distilled = distillation(student, teacher, losses, x, Subject(LTRB))

    found = descend(distilled.train(), x, 30)

    assert found[-1] < 0.5 * found[0]


def test_bins_are_learned_at_taps_where_the_teacher_is_sure(net, images):
    student, teacher = net(seed=1), net(seed=2)
    teacher.second[0] = nn.Conv2d(6, 6, 1)
    student.second[0] = nn.Conv2d(6, 6, 1)
    wide = [nn.Conv2d(3, 4 * 5, 3, 2, 1) for _ in range(2)]
    for module, first in zip((student, teacher), wide, strict=True):
        module.first, module.norm = first, nn.BatchNorm2d(20)
        module.second, module.head = nn.Sequential(nn.Conv2d(20, 20, 1), nn.ReLU()), nn.Conv2d(20, 4, 1)
    loss = {"kind": "localisation", "form": "distribution", "bins": 5, "taps": ["norm"]}
    certain = teaching({**loss, "scores": ["head"]})

    for settings in (teaching(loss), certain):
        found = descend(distillation(copy.deepcopy(student), teacher, settings, images()), images(), 60)
        assert found[-1] < 0.7 * found[0]


# --- what is refused


class Two(nn.Module):
    def forward(self, x):
        return x, x


class Flat(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.act = nn.Linear(3 * 16 * 16, features)

    def forward(self, x):
        return self.act(x.flatten(1))


@pytest.mark.parametrize(
    ("student", "teacher", "losses", "complaint"),
    [
        (Flat(4), Flat(5), [{"kind": "features", "taps": ["act"]}],
         r"tap 'act': expected \(2, 5\) as the teacher's or feature maps \(N, C, H, W\) of both, got \(2, 4\); tap"),
        (Flat(4), Flat(5), [{"kind": "soft"}], r"the outputs: expected \(2, 5\) as the teacher's"),
        (Flat(4), Flat(4), [{"kind": "attention", "taps": ["act"]}],
         r"tap 'act': expected feature maps \(N, C, H, W\) of both, as the teacher's is \(2, 4\), got \(2, 4\)"),
        (nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Sequential(nn.Conv2d(3, 8, 3)),
         [{"kind": "localisation", "form": "distribution", "taps": ["0"], "bins": 2}],
         r"tap '0': expected \(2, 8, 14, 14\) as the teacher's, got \(2, 8, 16, 16\)"),
        (nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Sequential(nn.Conv2d(3, 8, 1)),
         [{"kind": "localisation", "form": "distribution", "taps": ["0"]}],
         r"tap '0': expected \(N, 4 \* 16 bins, ...\), got \(2, 8, 16, 16\); mend taps or bins"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3)), nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3)),
         [{"kind": "localisation", "form": "distribution", "taps": ["0"], "scores": ["1"], "bins": 2}],
         r"teacher: tap '1': expected scores \(N, C, 16, 16\) of the cells of the bins, got \(2, 4, 14, 14\)"),
        (nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), [{"kind": "cwd"}],
         r"the outputs: expected \(2, 5, 16, 16\) as the teacher's, any height and width, got \(2, 4, 16, 16\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), Two(), [{"kind": "soft"}],
         "teacher: expected a network that returns one tensor, got tuple; cut the others off"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
         [{"kind": "features", "taps": ["?"]}],
         r"tap '\?': expected as many tensors of the teacher as of the student, 1, got 2; name them in pairs"),
    ],
    ids=["a tap", "an output", "no map", "other cells", "bins", "other scores", "classes", "two outputs", "numbers"],
)  # fmt: skip
def test_shapes_that_cannot_be_compared_are_one_line_with_the_tap(student, teacher, losses, complaint, images):
    with pytest.raises(ModelError, match=complaint):
        distillation(student, teacher, teaching(*losses), images())


def test_labels_are_asked_for_only_where_a_loss_needs_them(net, images):
    distilled = distillation(net(), net(seed=1), teaching({"kind": "soft", "alpha": 0.5}), images())

    with pytest.raises(DataError, match="expected labelled samples for `labels` and `alpha`, got samples without"):
        distilled.loss(images())

    unlabelled = distillation(Flat(4), Flat(4), teaching({"kind": "labels"}), images())
    with pytest.raises(ModelError, match="expected the network's own loss"):
        unlabelled.loss(images(), torch.zeros(2))


def test_a_teacher_that_shares_the_students_weights_is_refused(net, images):
    student = net()

    with pytest.raises(ModelError, match="teacher: expected a network of its own"):
        distillation(student, student, teaching({"kind": "soft"}), images())


def test_a_loss_of_another_task_or_of_another_head_is_refused(net, images):
    with pytest.raises(RecipeError, match="expected task: detection for `response`"):
        distillation(net(), net(seed=1), teaching({"kind": "response"}), images())
    with pytest.raises(EngineError, match=r"student.*expected \(1, 20, 4 \+ classes\) for decode: ltrb"):
        distillation(
            detector(3, width=4),
            detector(3, width=4, seed=1),
            teaching({"kind": "response"}),
            images(size=32),
            Subject(Detection(kind="detection", decode="ltrb", strides=(8, 16))),
        )


def test_a_network_that_cannot_take_the_images_is_told_with_what_it_said(net, images):
    with pytest.raises(ModelError, match=r"teacher: expected to take \(2, 3, 16, 16\), got RuntimeError: .*5 channels"):
        distillation(net(), nn.Conv2d(5, 4, 1), teaching({"kind": "soft"}), images())


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        ({"kind": "self", "deep": "second.*", "shallow": ["act"]}, "deep: expected one layer, got 2"),
        ({"kind": "self", "deep": "act", "shallow": ["act"]}, "shallow: expected another layer than 'act'"),
        ({"kind": "localisation", "form": "distribution"}, "expected taps of the bins' logits"),
        (
            {"kind": "localisation", "form": "distribution", "taps": ["act"], "scores": ["head", "norm"]},
            "expected as many tensors of scores as of bins, 1, got 2",
        ),
    ],
)
def test_places_that_make_no_sense_are_refused(loss, complaint, net, images):
    with pytest.raises(RecipeError, match=complaint):
        distillation(net(), net(seed=1), teaching(loss), images())
