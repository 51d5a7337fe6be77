"""Files and folders are there completely or not at all, whatever goes wrong on the way."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avcompress.files import atomic_folder, make_folder, private_folder, refuse_full, sha256_file, write_atomically
from avcompress.spec import OutputError


def fail_with(code: int):
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(content=st.binary(max_size=200) | st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_was_written_is_read_back(tmp_path: Path, content: bytes | str) -> None:
    write_atomically(tmp_path / "a.bin", content)

    written = (tmp_path / "a.bin").read_bytes()
    assert written == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_folder_of_a_new_file_is_made_and_an_old_file_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomically(path, "old")
    write_atomically(path, "new")

    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["c.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_atomically(Path("/dev/null"), "x")

    assert Path("/dev/null").is_char_device()


def test_the_longest_file_name_is_possible(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 255), "x")

    assert (tmp_path / ("x" * 255)).read_text() == "x"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "mend"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "you may write to"), (errno.EROFS, "read-only"), (999, "give")],
)
def test_a_failed_write_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, mend: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, step, fail_with(code))

    with pytest.raises(OutputError, match=mend) as caught:
        write_atomically(path, "new")

    assert str(caught.value).startswith(f"{path}: expected to write here, got ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", "new")

    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way_of_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="a: expected to write here, got Is a directory; give the path of a file"):
        write_atomically(tmp_path / "a", "x")


def test_a_file_in_the_way_of_a_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("keep")
    with pytest.raises(OutputError, match="a part of this path is a file"):
        write_atomically(tmp_path / "a" / "b.txt", "x")
    with pytest.raises(OutputError, match="a part of this path is a file"), atomic_folder(tmp_path / "a"):
        pass

    assert (tmp_path / "a").read_text() == "keep"


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "x" / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "x" / "out").exists()
        assert folder.parent == tmp_path / "x"

    assert (tmp_path / "x" / "out" / "a").read_text() == "1"
    assert os.listdir(tmp_path / "x") == ["out"]


def test_a_new_folder_replaces_all_of_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("0")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("1")

    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_a_failed_block_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("0")

    def block() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "new").write_text("1")
            raise error

    with pytest.raises(error):
        block()

    assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_inside_the_block_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device; free some space"), atomic_folder(tmp_path / "out"):
        fail_with(errno.ENOSPC)()

    assert os.listdir(tmp_path) == []


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("0")
    replace, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            fail_with(errno.EACCES)()
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OutputError, match="may write to"), atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("1")

    assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8200  # more than one chunk
    (tmp_path / "a").write_bytes(content)

    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_really_full_disk_is_one_line_and_leaves_the_old_file(tiny_disk: Path) -> None:
    write_atomically(tiny_disk / "a", b"old")
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        write_atomically(tiny_disk / "a", bytes(1 << 20))
    with pytest.raises(OutputError, match="No space left on device"), atomic_folder(tiny_disk / "out") as folder:
        (folder / "b").write_bytes(bytes(1 << 20))

    assert (tiny_disk / "a").read_bytes() == b"old"
    assert os.listdir(tiny_disk) == ["a"]


def test_a_pipe_behind_dev_stdout_is_written_to(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from avcompress.files import write_atomically as w; w(Path('/dev/stdout'), 'facts')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "facts"


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        make_folder(tmp_path / "file" / "b")


def test_a_full_disk_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_full(tmp_path, 100)
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(OutputError, match="No space left"):
        refuse_full(tmp_path, 100)
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_folder_in_the_making_names_the_folder_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(OutputError) as caught, atomic_folder(tmp_path / "step") as folder:
        write_atomically(folder / "net.onnx", b"1")

    assert str(caught.value).startswith(f"{tmp_path / 'step' / 'net.onnx'}: expected to write here, got No space left")


def test_a_file_s_mode_holds_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real = os.fsync

    def look(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(tmp_path / "key", b"1", 0o600)

    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_private_folder_is_gone_after_the_block_whatever_happens_in_it(tmp_path: Path) -> None:
    def block() -> None:
        with private_folder(tmp_path) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "a").write_text("1")
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block"):
        block()
    assert os.listdir(tmp_path) == []


def test_a_private_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    message = "none: expected to write here, got No such file"
    with pytest.raises(OutputError, match=message), private_folder(tmp_path / "none"):
        pass
