import pytest

from ros_nodes.qos import Events
from ros_nodes.wire import events

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")


class Reader:
    """One that has met an endpoint, whose handle Cyclone's binding gives with a sign."""

    def __init__(self, handle):
        self.handle = handle

    def get_matched_publications(self):
        return [self.handle if self.handle < 2**63 else self.handle - 2**64]


@pytest.mark.parametrize("handle", [5, 2**63 + 5])
def test_an_endpoint_that_was_met_is_known_by_its_handle_whatever_its_first_bit(monkeypatch, handle):
    seen, readers = Events(), {Reader(handle): "/image"}
    seen.add("/image", "incompatible_qos", 1, "a publisher offers less: reliability")
    there = {handle}
    monkeypatch.setattr(events, "_present", lambda *_: there)

    assert events.unmatched(None, readers, {}, seen) == set()
    there.add(7)
    assert events.unmatched(None, readers, {}, seen) == {"/image"}
