"""Beginning and end of a node on the wire, beside whoever else leads it."""

import threading

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
