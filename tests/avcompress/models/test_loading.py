"""A user's network comes in whole, or one line says what to mend."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from avcompress.models.loading import load_torch
from avcompress.recipe_network import TorchModel
from avcompress.spec import AvcompressError, MissingError, ModelError, RecipeError

CODE = """
import torch
from torch import nn

def build(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))

class Direct(nn.Module):
    pass

def prints():
    return "no module"

def divides():
    return 1 / 0

def leaves():
    raise SystemExit("usage: train.py")

def mistakes():
    return nn.Conv2d(3)

constant = 3
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A recipe's folder that holds `nets/net.py`."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.py").write_text(CODE)
    return tmp_path


def load(folder: Path, factory: str = "net:build", **changes: object) -> nn.Module:
    model = TorchModel(**{"factory": factory, "import_from": "nets", **changes})  # type: ignore[arg-type]
    return load_torch(model, folder, folder)


def build(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


def complaint(kind: type[AvcompressError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the module


def test_a_module_is_built_with_its_arguments_in_eval_mode(user: Path) -> None:
    module = load(user, args={"width": 7})

    assert module[0].out_channels == 7
    assert not any(part.training for part in module.modules())


def test_initial_weights_are_the_same_each_time_and_the_users_random_state_stays(user: Path) -> None:
    state = torch.random.get_rng_state()
    first, second = load(user), load(user)

    assert torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_class_is_a_factory_too(user: Path) -> None:
    assert type(load(user, "net:Direct")).__name__ == "Direct"


def test_an_installed_module_needs_no_folder(user: Path) -> None:
    assert isinstance(load(user, "torch.nn:Identity", import_from=None), nn.Identity)


def test_sys_path_is_as_before(user: Path) -> None:
    before = sys.path.copy()
    load(user)
    complaint(ModelError, lambda: load(user, "net:divides"))

    assert sys.path == before


def test_two_folders_may_hold_modules_of_the_same_name(user: Path) -> None:
    (user / "other").mkdir()
    (user / "other" / "net.py").write_text("from torch import nn\ndef build():\n    return nn.Identity()\n")

    assert isinstance(load(user), nn.Sequential)
    assert isinstance(load(user, import_from="other"), nn.Identity)
    assert isinstance(load(user), nn.Sequential)


def test_a_factory_may_import_its_neighbours_when_it_is_called(user: Path) -> None:
    (user / "nets" / "beside_it.py").write_text("from torch import nn\nlayer = nn.ReLU()\n")
    (user / "nets" / "late.py").write_text("def build():\n    from beside_it import layer\n    return layer\n")

    assert isinstance(load(user, "late:build"), nn.ReLU)


def test_a_missing_folder_is_named(user: Path) -> None:
    text = complaint(RecipeError, lambda: load(user, import_from="nest"))
    assert text.startswith("model.import_from: expected a folder, got nothing at")
    assert "nest" in text


def test_a_missing_module_is_named_with_the_nearest_one_and_where_it_was_looked_for(user: Path) -> None:
    text = complaint(RecipeError, lambda: load(user, "nett:build"))
    assert text == (
        f"model.factory: expected a module 'nett', got none in {user / 'nets'} and among the installed packages; "
        "did you mean 'net'?"
    )


def test_a_module_beside_the_recipe_is_pointed_at(user: Path) -> None:
    (user / "mine.py").write_text(CODE)
    text = complaint(RecipeError, lambda: load(user, "mine:build", import_from=None))
    assert text.endswith("set `import_from: .`, it lies beside the recipe")

    assert isinstance(load(user, "mine:build", import_from="."), nn.Sequential)


def test_a_relative_import_from_inside_its_package_is_answered_with_the_folder_above(user: Path) -> None:
    (user / "nets" / "inner.py").write_text("from .net import build")
    text = complaint(ModelError, lambda: load(user, "inner:build"))
    assert text.endswith("set `import_from` to the folder above the package, and name it in `factory`")

    assert isinstance(load(user, "nets.inner:build", import_from="."), nn.Sequential)


def test_the_only_state_dict_in_a_checkpoint_is_found_under_any_name(user: Path) -> None:
    state = build().state_dict()
    torch.save({"epoch": 3, "net": state, "optimizer": {"state": {}}}, user / "w.pth")
    assert torch.equal(load(user, weights="w.pth").state_dict()["0.weight"], state["0.weight"])

    torch.save({"net": state, "ema": state}, user / "w.pth")
    assert "expected names and tensors" in complaint(ModelError, lambda: load(user, weights="w.pth"))


def test_a_missing_module_without_a_folder_hints_at_import_from(user: Path) -> None:
    text = complaint(RecipeError, lambda: load(user, "no_such_net:build", import_from=None))
    assert text.endswith("among the installed packages; set `import_from` to the folder that holds it")


def test_a_missing_function_is_named_with_the_nearest_one(user: Path) -> None:
    text = complaint(RecipeError, lambda: load(user, "net:biuld"))
    assert "expected a function 'biuld' in" in text
    assert text.endswith("got none of that name; did you mean 'build'?")


def test_a_constant_is_not_a_factory(user: Path) -> None:
    assert "got a int" in complaint(RecipeError, lambda: load(user, "net:constant"))


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("divides", "ZeroDivisionError: division by zero"),
        ("leaves", "SystemExit: usage: train.py"),
        ("mistakes", "TypeError: "),
    ],
)
def test_a_failing_factory_is_reported_with_the_users_line(user: Path, factory: str, reason: str) -> None:
    line = 1 + next(i for i, text in enumerate(CODE.splitlines()) if f"def {factory}" in text) + 1
    text = complaint(ModelError, lambda: load(user, f"net:{factory}"))

    assert text.startswith(f"{user / 'nets' / 'net.py'}:{line}: expected net:{factory} to build a module, got {reason}")


@pytest.mark.parametrize("args", [{"widht": 3}, {"width": 3, "depth": 2}])
def test_wrong_arguments_are_named_with_what_the_factory_takes(user: Path, args: dict[str, int]) -> None:
    text = complaint(RecipeError, lambda: load(user, args=args))

    assert text.startswith("model.args: expected what net:build takes, (width=4), got {")
    assert f"unexpected keyword argument '{list(args)[-1]}'" in text


def test_what_is_no_module_is_refused(user: Path) -> None:
    text = complaint(ModelError, lambda: load(user, "net:prints"))
    assert text == "net:prints: expected it to return a torch.nn.Module, got a str; return the module"


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("import torch\nx = [", ModelError, ":2: expected Python, got '[' was never closed"),
        ("x = 1\nx.y", ModelError, ":2: expected 'bad' to import, got AttributeError"),
        ("\nraise SystemExit", ModelError, ":2: expected 'bad' to import, got SystemExit"),
        ("import no_such_package.deep", MissingError, ":1: expected the module 'no_such_package', got none installed"),
        ("from torch import nope", ModelError, ":1: expected 'bad' to import, got ImportError: cannot import name"),
    ],
)
def test_a_module_that_does_not_import_is_reported_with_its_line(
    user: Path, code: str, kind: type[AvcompressError], says: str
) -> None:
    (user / "nets" / "bad.py").write_text(code)

    assert says in complaint(kind, lambda: load(user, "bad:build"))


def test_without_torch_the_command_that_installs_it_is_given(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    text = complaint(MissingError, lambda: load(user))
    assert 'pip install "avcompress[train]"' in text


def test_importing_the_loader_does_not_import_torch() -> None:
    code = "import sys, avcompress.models.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the weights


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(
    prefix=st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "model."]),
    under=st.sampled_from([(), ("state_dict",), ("model",), ("model", "state_dict")]),
    suffix=st.sampled_from([".pth", ".pt", ".safetensors"]),
    width=st.integers(1, 5),
)
def test_weights_arrive_however_they_were_wrapped(
    user: Path, prefix: str, under: tuple[str, ...], suffix: str, width: int
) -> None:
    saved = build(width)
    state = {f"{prefix}{name}": value for name, value in saved.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state, user / f"w{suffix}")
    else:
        content: dict[str, object] = state
        for key in reversed(under):
            content = {key: content, "epoch": 3}
        torch.save(content, user / f"w{suffix}")

    loaded = load(user, weights=f"w{suffix}", args={"width": width})

    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_weights_of_the_time_before_batch_counters_load(user: Path) -> None:
    state = {name: value for name, value in build().state_dict().items() if "num_batches" not in name}
    torch.save(state, user / "w.pth")

    assert torch.equal(load(user, weights="w.pth")[0].weight, state["0.weight"])


def test_half_precision_weights_become_the_modules_own_type(user: Path) -> None:
    torch.save(build().half().state_dict(), user / "w.pth")

    assert load(user, weights="w.pth")[0].weight.dtype == torch.float32


def test_weights_of_another_network_are_counted_and_named(user: Path) -> None:
    state = build(width=5).state_dict()
    state.pop("1.bias")
    state.update({f"head.{i}": torch.zeros(1) for i in range(5)})
    torch.save(state, user / "w.pth")

    text = complaint(ModelError, lambda: load(user, weights="w.pth"))

    assert text.startswith(
        f"{user / 'w.pth'}: expected weights of the Sequential that the factory built (7 tensors), got "
    )
    assert "1 missing (1.bias)" in text
    assert "5 unexpected (head.0, head.1, head.2, ...)" in text
    assert "5 of another shape (0.weight (5, 3, 1, 1) instead of (4, 3, 1, 1), 0.bias " in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(user: Path, value: float) -> None:
    state = build().state_dict()
    state["1.running_var"][2] = value
    torch.save(state, user / "w.pth")

    text = complaint(ModelError, lambda: load(user, weights="w.pth"))
    assert "w.pth: expected finite weights, got 1 NaN or infinite of 4 in '1.running_var'" in text


def test_a_missing_file_is_named(user: Path) -> None:
    text = complaint(ModelError, lambda: load(user, weights="w.pth"))
    assert text.startswith(f"{user / 'w.pth'}: expected the network's weights, got no file")


class Runs:
    """What an attacker pickles."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("taken",)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_that_runs_code_is_refused_and_not_run(
    user: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[[object, Path], object]
) -> None:
    monkeypatch.chdir(user)
    writer({"state_dict": Runs()}, user / "w.pth")

    text = complaint(ModelError, lambda: load(user, weights="w.pth"))

    assert "expected tensors only, got a pickle that calls posix.mkdir when loaded" in text
    assert "convert it once: torch.save(torch.load(OLD, weights_only=False).state_dict(), NEW)" in text
    assert not (user / "taken").exists()


def test_a_pickled_module_is_refused(user: Path) -> None:
    torch.save(build(), user / "w.pth")

    text = complaint(ModelError, lambda: load(user, weights="w.pth"))
    assert "got a pickle that calls torch.nn.modules.container.Sequential when loaded" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(user: Path) -> None:
    torch.jit.save(torch.jit.script(build()), user / "w.pt")

    assert "got a TorchScript archive" in complaint(ModelError, lambda: load(user, weights="w.pt"))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"weights": {"a": 1}}, {1: torch.zeros(1)}, torch.zeros(3)])
def test_what_is_no_state_dict_is_refused(user: Path, content: object) -> None:
    torch.save(content, user / "w.pth")

    assert "w.pth: expected" in complaint(ModelError, lambda: load(user, weights="w.pth"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@example(kept=0.609375, kind="legacy")  # within a name that torch refuses because it is cut
@given(kept=st.floats(0, 0.99), kind=st.sampled_from(["zip", "legacy", "safetensors"]))
def test_a_truncated_file_is_one_line(user: Path, kept: float, kind: str) -> None:
    path = user / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(build().state_dict(), path)
    else:
        torch.save(build().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    text = complaint(ModelError, lambda: load(user, weights=path.name))
    assert "got a damaged one (" in text


def test_another_kind_of_file_is_one_line(user: Path) -> None:
    (user / "w.pth").write_text("<html>404</html>")

    assert "got a damaged one" in complaint(ModelError, lambda: load(user, weights="w.pth"))
