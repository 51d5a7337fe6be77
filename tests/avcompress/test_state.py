from pathlib import Path

import pytest

from avcompress.state import State, step_key


def test_a_finished_step_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute(folder: Path) -> None:
        calls.append("x")
        (folder / "result.txt").write_text("42")

    for _ in range(2):
        folder = State(tmp_path).step("ptq", "key", compute)

    assert (folder / "result.txt").read_text() == "42"
    assert calls == ["x"]


def test_another_key_computes_the_step_again(tmp_path: Path) -> None:
    State(tmp_path).step("ptq", "one", lambda folder: (folder / "a").touch())
    folder = State(tmp_path).step("ptq", "two", lambda folder: (folder / "b").touch())

    assert [path.name for path in sorted(folder.iterdir())] == ["b", "step.json"]


def test_a_finished_step_is_whole_with_any_key_until_a_file_of_it_changes(tmp_path: Path) -> None:
    state = State(tmp_path)
    folder = state.step("ptq", "key", lambda folder: (folder / "a").touch())

    assert (state.is_whole("ptq"), state.is_whole("qat")) == (True, False)
    (folder / "a").write_text("changed")
    assert not state.is_whole("ptq")


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def compute(folder: Path) -> None:
        (folder / "half").touch()
        raise failure

    with pytest.raises(failure):
        State(tmp_path / "state").step("ptq", "key", compute)

    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert State(tmp_path / "state").seconds("ptq", "key") is None


def test_a_damaged_record_means_not_finished(tmp_path: Path) -> None:
    folder = State(tmp_path).step("ptq", "key", lambda _: None)
    (folder / "step.json").write_text('{"key": "k')

    assert State(tmp_path).seconds("ptq", "key") is None


@pytest.mark.parametrize("record", ["[1]", '{"key": "key"}', "null", '{"key": "key", "seconds": 0.0, "files": []}'])
def test_a_record_of_another_form_means_not_finished(tmp_path: Path, record: str) -> None:
    folder = State(tmp_path).step("ptq", "key", lambda _: None)
    (folder / "step.json").write_text(record)

    assert State(tmp_path).seconds("ptq", "key") is None


@pytest.mark.parametrize("damage", ["alter", "cut", "remove", "add"])
def test_a_step_whose_files_changed_since_is_not_finished(tmp_path: Path, damage: str) -> None:
    def compute(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "net").write_bytes(b"12345678")

    file = State(tmp_path).step("ptq", "key", compute) / "sub" / "net"
    assert State(tmp_path).seconds("ptq", "key") is not None
    match damage:
        case "alter":
            file.write_bytes(b"12345679")
        case "cut":
            file.write_bytes(b"1234")
        case "remove":
            file.unlink()
        case "add":
            file.with_name("more").touch()

    assert State(tmp_path).seconds("ptq", "key") is None
    assert State(tmp_path).step("ptq", "key", compute).joinpath("sub", "net").read_bytes() == b"12345678"


def test_keys_differ_by_every_part_and_not_by_the_order_of_a_mapping() -> None:
    assert step_key("a", {"x": 1, "y": 2}) == step_key("a", {"y": 2, "x": 1})
    assert len({step_key("a"), step_key("b"), step_key("a", None), step_key("a", {"x": 1})}) == 4
