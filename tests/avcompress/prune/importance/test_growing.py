"""Channels that become zeros while a network trains."""

import contextlib

import numpy as np
import pytest
import torch

from avcompress.onnx_import import import_onnx
from avcompress.prune.growing import gone, growing_channels
from avcompress.prune.schedule import Rise
from avcompress.prune.selection import Selection
from avcompress.recipe_training import Train
from avcompress.spec import RecipeError
from avcompress.train import Around, Store, run_steps

WIDTH, STEPS = 8, 12
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(WIDTH, 3)), RNG.normal(size=(2, WIDTH))
BIAS = RNG.normal(size=WIDTH)
INPUTS = torch.randn(STEPS, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
RULE = Selection(0.5)
RISE = Rise(start=2, end=8, final=0.5, every=2)


@pytest.fixture
def network(chain):
    return chain(FIRST, SECOND, bias=BIAS)


@pytest.fixture
def coupled(coupling):
    return coupling(WIDTH, ("first.bias",))


def fit(network, zeros, around=None, stop=None, seen=None):
    module = import_onnx(network)
    settings = Train.model_validate(
        {"kind": "train", "steps": STEPS, "batch_size": 4, "learning_rate": 0.01, "ema": 0.2, "keep_every": 3}
    )

    def loss_of(turn):
        if turn.step == stop:
            raise InterruptedError
        if seen is not None:
            seen.append(module)
        inputs = INPUTS[turn.step]
        return (module(inputs) - inputs[:, :2]).square().mean()

    store = around.store if around else None
    return run_steps(module, settings, loss_of, Around(store=store, zeros=zeros)).module


def test_channels_go_as_the_schedule_says_and_never_come_back(network, coupled):
    module = import_onnx(network)
    zeros = growing_channels(module, coupled, RULE, RISE)
    counts = []
    for done in range(STEPS + 1):
        zeros.grow_(module, done)
        counts.append(sum(len(channels) for channels in gone(module, coupled).values()))

    # Half of eight channels by the cubic of steps 2 to 8: 4 (1 - (2/3)^3) = 2.8, 4 (1 - (1/3)^3) = 3.9
    assert counts == [0, 0, 0, 0, 3, 3, 4, 4, 4, 4, 4, 4, 4]


def test_after_a_training_the_network_computes_what_the_smaller_one_does(network, coupled, chain):
    trained = fit(network, growing_channels(import_onnx(network), coupled, RULE, RISE))

    removed = gone(trained, coupled)
    names = trained.meta["parameters"]
    first, second, bias = (
        trained.get_parameter(names[name]).detach().numpy() for name in ("first.weight", "second.weight", "first.bias")
    )
    keep = [i for i in range(WIDTH) if i not in removed["first"]]
    smaller = import_onnx(chain(first[keep, :, 0, 0], second[:, keep, 0, 0], bias=bias[keep]))
    assert len(removed["first"]) == 4
    assert (bias[list(removed["first"])] == 0).all()
    assert torch.allclose(trained(INPUTS[0]), smaller(INPUTS[0]), atol=1e-5)


def test_a_training_gone_on_with_removes_the_same_channels(network, coupled, tmp_path):
    zeros = growing_channels(import_onnx(network), coupled, RULE, RISE)
    whole = fit(network, zeros).state_dict()

    with contextlib.suppress(InterruptedError):
        fit(network, zeros, Around(store=Store(tmp_path)), stop=7)
    resumed = fit(network, zeros, Around(store=Store(tmp_path))).state_dict()

    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_scores_may_say_who_goes(network, coupled):
    module = import_onnx(network)
    order = np.array([5.0, 1, 2, 3, 0, 4, 6, 7])
    zeros = growing_channels(module, coupled, RULE, RISE, lambda _: {"first": order})

    zeros.grow_(module, RISE.end)

    assert gone(module, coupled) == {"first": (1, 2, 3, 4)}


def test_a_bias_that_is_zero_learns_where_its_channel_is_not_gone(chain, coupled):
    network = chain(FIRST, SECOND, bias=np.zeros(WIDTH))

    trained = fit(network, growing_channels(import_onnx(network), coupled, RULE, RISE))

    bias = trained.get_parameter(trained.meta["parameters"]["first.bias"])
    assert int((bias != 0).sum()) == 4


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Selection(0.1, alignment=16), r"expected at most the 8 channels of layer 'first', got 16"),
        (Selection(0.1, floor=0.8), r"prune.floor: expected at most 0.5, which the ratio of 0.5 leaves"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_before_anything_is_trained(network, coupled, rule, message):
    with pytest.raises(RecipeError, match=message):
        growing_channels(import_onnx(network), coupled, rule, RISE)


def test_parameters_may_lie_deeper_in_what_is_trained(network, coupled):
    holder = torch.nn.Module()
    holder.student = import_onnx(network)
    zeros = growing_channels(holder.student, coupled, RULE, RISE, prefix="student.")

    zeros.grow_(holder, RISE.end)

    assert len(gone(holder.student, coupled)["first"]) == 4
    assert all(name.startswith("student.") for name in zeros.masks(holder))
