"""Beginning and end of a node on the wire, beside whoever else leads it."""

import os
import threading
from pathlib import Path

import pytest

from ros_nodes.core.lifecycle import State

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")


@pytest.fixture(scope="module")
def serving():
    from ros_nodes.wire import serving

    return serving


def test_a_node_that_starts_itself_gives_way_to_a_manager_who_asks_at_the_same_time(bench, serving):
    b = bench()
    load = b.node._load

    def load_while_asked(*args):  # while the bundle loads, somebody asks for the same
        serving.start(b.node)
        return load(*args)

    b.node._load = load_while_asked
    b.node.transition("configure")
    assert b.node.state == State.INACTIVE


def test_a_node_that_stops_by_itself_at_the_end_is_shut_down_nevertheless(bench, serving):
    b = bench().start()
    unsubscribe, begun = b.port.unsubscribe, threading.Event()
    release = threading.Timer(0.2, begun.set)
    entered = threading.Event()
    b.port.unsubscribe = lambda: (entered.set(), begun.wait(10), unsubscribe())
    stopping = threading.Thread(target=b.node.transition, args=("deactivate",))
    stopping.start()
    assert entered.wait(10)
    release.start()
    serving.bring_down(b.node)
    stopping.join(10)
    assert b.node.state == State.FINALIZED
    assert not b.engines["main"].is_open


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc, where Linux lists threads")
def test_a_node_that_has_ended_leaves_no_thread_and_no_descriptor_and_others_see_it_go(bench, wire_rig, serving):
    from ros_nodes.wiring import Wiring

    def held():
        return [len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd")]

    network, wiring = wire_rig.lonely(), Wiring(node="vision", topics={"front": "/front/image_raw"})
    listener = wire_rig.Listener(network, wire_rig.node_topics(("front",)))
    before = held()
    for _ in range(3):
        b = bench()
        with serving.node_on_wire(b.settings, wiring, network, load=b.load) as (node, _):
            node.transition("configure")
            node.transition("activate")
            listener.await_results(("front",))
        wire_rig.until(lambda: not listener.readers["/diagnostics"].get_matched_publications(), "its end")
        listener.heard.clear()
    assert held() == before
    listener.close()
