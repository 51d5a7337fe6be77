"""Zeros in the training loop: what is pruned stays pruned, whatever trains around it."""

import contextlib

import pytest
import torch
from torch import nn

from avcompress.recipe_training import Train
from avcompress.spec import ModelError
from avcompress.train import Around, Store, Zeros, run_steps, zeros_of

STEPS = 12
INPUTS = torch.randn(STEPS, 8, 6, generator=torch.Generator().manual_seed(1))
NAMES = ("0.weight", "2.weight")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Sequential:
    """Half of the first weight is 0, and one value of the second."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        module[0].weight[:, ::2] = 0
        module[2].weight[0, 0] = 0
    return module


def plan(**changes: object) -> Train:
    changes = {"learning_rate": 0.05, "ema": 0.1, **changes}
    return Train.model_validate({"kind": "train", "steps": STEPS, "batch_size": 8, "keep_every": 4, **changes})


def fit(settings: Train, zeros: Zeros | None, around: Around | None = None, stop: int | None = None) -> nn.Module:
    module = network()

    def loss_of(turn):
        if turn.step == stop:
            raise InterruptedError
        inputs = INPUTS[turn.step]
        return (module(inputs) - inputs[:, :2]).square().mean()

    around = around or Around()
    around = Around(store=around.store, judge=around.judge, log=around.log, zeros=zeros)
    return run_steps(module, settings, loss_of, around).module


def cut_smallest_(module: nn.Module, done: int) -> None:
    """As many values of the first weight are 0 as steps are done, and 15 before them."""
    weight = module[0].weight
    with torch.no_grad():
        weight.view(-1)[weight.abs().view(-1).argsort(stable=True)[: min(15 + done, 20)]] = 0


def growing(final: int = 0) -> Zeros:
    return Zeros(zeros_of(NAMES).masks, cut_smallest_, final)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [0, 0.3])
def test_zeros_stay_and_all_other_values_learn(optimizer, ema):
    before = network()

    trained = fit(plan(optimizer=optimizer, ema=ema), zeros_of(NAMES))

    for name, value in before.named_parameters():
        after = trained.get_parameter(name)
        assert ((after == 0) == (value == 0)).all()
        assert (after != value)[value != 0].all()


def test_without_the_hook_nothing_stays_zero():
    trained = fit(plan(), None)

    assert (trained[0].weight != 0).all()


def test_what_grows_stays_out_of_the_average_and_of_the_optimizers_momentum():
    trained = fit(plan(optimizer="sgd", ema=0.5), growing())

    assert int((trained[0].weight == 0).sum()) == 20


def test_gradients_of_zeros_do_not_count_where_the_gradient_is_clipped():
    norms: dict[str, list[float]] = {"kept": [], "free": []}
    for name, zeros in (("kept", zeros_of(NAMES)), ("free", None)):
        log = Around(log=lambda _, values, name=name: norms[name].append(values["gradient"]))
        fit(plan(steps=1), zeros, log)

    assert norms["kept"][0] < norms["free"][0]


@pytest.mark.parametrize("zeros", [zeros_of(NAMES), growing()], ids=["constant", "growing"])
def test_a_training_gone_on_with_has_the_same_zeros_and_weights(tmp_path, zeros):
    store = Around(store=Store(tmp_path))
    whole = fit(plan(), zeros)

    with contextlib.suppress(InterruptedError):
        fit(plan(), zeros, store, stop=9)
    resumed = fit(plan(), zeros, store)

    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_no_network_is_the_best_before_it_has_all_its_zeros():
    seen: list[int] = []

    def judge(module: nn.Module) -> float:
        seen.append(int((module[0].weight == 0).sum()))
        return -float(len(seen))  # the first is the best

    trained = fit(plan(validate_every=2), growing(final=5), Around(judge=judge))

    assert seen == [20] * 4  # after 6, 8, 10 and 12 steps
    assert int((trained[0].weight == 0).sum()) == 20


def test_a_name_that_the_module_has_not_is_told():
    with pytest.raises(ModelError, match=r"expected a parameter 'first' whose zeros stay"):
        fit(plan(), zeros_of(["first"]))
