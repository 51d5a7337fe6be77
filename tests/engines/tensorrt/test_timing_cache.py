import json
from dataclasses import replace

import pytest

from engines.tensorrt.device import Device
from engines.tensorrt.timing_cache import cache_key, cache_path, read_cache, write_cache

ORIN = Device("NVIDIA Orin (nvgpu)", "8.7", "CUDA 12.6")
KEY = cache_key(ORIN, "10.3.0")


@pytest.fixture
def path(tmp_path):
    return cache_path(tmp_path / "timings", KEY)


def test_what_was_written_is_read(path):
    write_cache(path, KEY, b"a\nb\0")

    assert read_cache(path, KEY) == (b"a\nb\0", f"timing cache: used ({path.name}, 4 bytes)")


def test_a_missing_cache_is_new(path):
    assert read_cache(path, KEY) == (b"", f"timing cache: new ({path.name})")


def test_the_name_tells_gpu_and_version_and_every_key_has_its_own(tmp_path):
    others = [
        cache_key(replace(ORIN, name="NVIDIA Thor"), "10.3.0"),
        cache_key(replace(ORIN, compute_capability="8.9"), "10.3.0"),
        cache_key(replace(ORIN, driver="CUDA 12.8"), "10.3.0"),
        cache_key(ORIN, "10.7.0"),
    ]

    assert cache_path(tmp_path, KEY).name.startswith("nvidia-orin-nvgpu-trt10-3-0-")
    assert len({cache_path(tmp_path, key) for key in (KEY, *others)}) == 5


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[:-1], "altered or cut off"),
        (lambda content: content.replace(b"timings", b"timinga"), "altered or cut off"),
        (lambda _: b"", "no timing cache of ours"),
        (lambda _: b"\0\1\2", "no timing cache of ours"),
        (lambda _: b"[]\n", "no timing cache of ours"),
    ],
    ids=["cut off", "altered", "empty", "foreign", "list"],
)
def test_a_cache_that_is_not_whole_is_ignored_with_the_reason(path, spoil, reason):
    write_cache(path, KEY, b"timings")
    path.write_bytes(spoil(path.read_bytes()))

    content, note = read_cache(path, KEY)

    assert content == b""
    assert reason in note
    assert note.endswith("timed anew")


def test_a_cache_of_another_key_is_ignored_though_its_name_says_otherwise(path):
    write_cache(path, cache_key(ORIN, "8.6.1"), b"timings")

    content, note = read_cache(path, KEY)

    assert content == b""
    assert "made for" in note
    assert "8.6.1" in note


def test_a_cache_that_cannot_be_read_is_ignored(path):
    path.mkdir(parents=True)

    assert "ignored (Is a directory)" in read_cache(path, KEY)[1]


def test_the_header_is_one_line_of_json(path):
    write_cache(path, KEY, b"timings")

    assert json.loads(path.read_bytes().partition(b"\n")[0])["key"] == KEY
