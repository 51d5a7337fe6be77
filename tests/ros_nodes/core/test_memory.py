"""Memory of images that are gone: a process of its own, and what the kernel says it holds."""

import subprocess
import sys

import pytest

from ros_nodes.core import memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no mallopt")
IMAGE = 1920 * 1080 * 3
HELD = """
import re
from pathlib import Path
import numpy as np
from ros_nodes.core.memory import keep_freed_memory

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

if {keeps}:
    assert keep_freed_memory()
before = resident()
images = [np.ones({size}, np.uint8) for _ in range(4)]
full = resident()
del images
print((resident() - before) / (full - before))
"""


def held(size, keeps):
    """What share of the memory of four blocks a process still has when they are gone."""
    script = HELD.format(size=size, keeps=keeps)
    return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@LINUX
def test_the_next_image_lies_where_an_earlier_one_did():
    assert held(IMAGE, keeps=False) < 0.1
    assert held(IMAGE, keeps=True) > 0.9


@LINUX
def test_blocks_of_more_than_32_mib_still_go_back():
    assert held(33 << 20, keeps=True) < 0.1


def test_without_such_a_c_library_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed_memory()
