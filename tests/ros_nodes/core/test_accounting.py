"""Whatever happens, in whatever order, and while an inference lasts: every frame is accounted for, exactly once."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.spec import EngineError
from ros_nodes.core.counts import REASONS
from ros_nodes.core.lifecycle import LifecycleError, State

CAMERAS = ("front", "left", "right")
ENDS = (("deactivate",), ("deactivate", "cleanup"))
BEGINS = (("configure", "activate"), ("configure", "activate"), ("activate",), ("activate",), ("configure",))


def fails(inputs):
    raise EngineError("ort: expected an answer, got a broken one; mend it")


sends = st.tuples(st.just("send"), st.sampled_from(CAMERAS))
passes = st.tuples(st.just("pass"), st.integers(0, 60))
others = st.one_of(
    st.tuples(st.just("old"), st.sampled_from(CAMERAS)),
    st.tuples(st.just("broken"), st.sampled_from(CAMERAS), st.sampled_from(["bayer", "jpeg"])),
    st.just(("watch",)),
    st.just(("report",)),
    st.tuples(st.just("transport"), st.booleans()),
    st.tuples(st.just("swap"), st.sampled_from(["2", "3", "absent"])),
    st.tuples(st.just("ask"), st.sampled_from(ENDS)),
)
outside = st.one_of(sends, sends, passes, others)
begins = st.tuples(st.just("ask"), st.sampled_from(BEGINS))
ends = st.tuples(st.just("ask"), st.sampled_from(ENDS))
inside = st.one_of(sends, passes, others, st.just(("hang",)), begins, ends)
serves = st.tuples(
    st.just("serve"),
    st.sets(st.sampled_from(CAMERAS)).map(sorted),
    st.sampled_from(["well", "well", "well", "fails"]),
    st.lists(st.tuples(st.sampled_from(["inference", "publish"]), inside), max_size=4),
)
events = st.lists(st.one_of(sends, serves, serves, serves, begins, outside), min_size=15, max_size=60)


class Story:
    """Events on a bench; after every one of them the books must balance."""

    def __init__(self, bench, engine, batch):
        self.bench = bench(
            fallback=True,
            cameras=CAMERAS,
            max_age_ms=100,
            batch_window_ms=5,
            fall_back_after=2,
            return_after=3,
            probation=3,
            hang_ms=50,
            max_failures=2,
        )
        self.engine = engine
        self.late, self.error = 0, None
        self.bench.engines |= {name: engine(revision=int(name)) for name in ("2", "3")}
        for made in self.bench.engines.values():
            made.batch = batch
        self.sent = dict.fromkeys(CAMERAS, 0)
        self.depth = 0
        self.bench.start()

    def tell(self, event):
        kind, *details = event
        getattr(self, f"_{kind}")(*details)
        self.check()

    def check(self):
        node = self.bench.node
        assert self.bench.is_exact()
        assert not any(engine.misused for engine in self.bench.engines.values())
        assert not self.late, "published by a node that was not active"
        for camera, counts in node.counts.items():
            assert counts.received == self.sent[camera]
            assert counts.pending >= 0
            assert set(counts.dropped) == set(REASONS)
            assert sum(counts.stale_ages.values()) == counts.dropped["stale"]
            # What was published is what the transport took, and nothing twice.
            found = [r.header.stamp_ns for r in self.bench.port.published if r.camera == camera]
            assert counts.published == len(found)
            assert found == sorted(set(found))

    def _send(self, camera):
        self.bench.time.now += 1  # no two frames of one stamp
        self.sent[camera] += 1
        self.bench.send(camera, height=4, width=4)

    def _old(self, camera):
        self.sent[camera] += 1
        self.bench.send(camera, stamp_ns=self.bench.time.now - 10**9, height=4, width=4)

    def _broken(self, camera, encoding):
        self.sent[camera] += 1
        self.bench.send_broken(camera, encoding)

    def _pass(self, ms):
        self.bench.time.pass_ms(ms)

    def _watch(self):
        self.bench.node.watch()

    def _report(self):
        self.bench.node.report()

    def _transport(self, works):
        self.bench.port.broken = None if works else OSError("no buffer space")

    def _swap(self, name):
        with contextlib.suppress(EngineError):
            self.bench.node.swap(name)

    def _hang(self):
        self.bench.time.pass_ms(51)
        self.bench.node.watch()

    def _ask(self, transitions):
        for transition in transitions:
            with contextlib.suppress(LifecycleError):
                self.bench.node.transition(transition)

    def _serve(self, cameras, how, inner):
        self._ask(("configure", "activate"))
        for camera in cameras:
            self._send(camera)

        well = self.engine().run

        def run(inputs):
            self._tell_all(inner, "inference")
            return fails(inputs) if how == "fails" else well(inputs)

        for engine in self.bench.engines.values():
            engine.run = run

        def on_publish(result):
            self.late += self.bench.node.state != State.ACTIVE
            self._tell_all(inner, "publish")

        self.bench.port.on_publish = on_publish
        self.bench.time.pass_ms(5)  # what waits is due
        self.bench.node.step()
        if self.error is not None:
            raise self.error
        for engine in self.bench.engines.values():
            engine.run = well

    def _tell_all(self, inner, when):
        if self.depth:  # no deeper: an engine is warmed up while another one runs
            return
        self.depth += 1
        try:
            for moment, event in inner:
                if moment == when:
                    self.tell(event)
        except Exception as error:  # the node would survive it, this test shall not
            self.error = error
        finally:
            self.depth -= 1


@settings(max_examples=200)
@given(events=events, batch=st.sampled_from([1, -1]))
def test_received_is_published_plus_dropped_plus_pending_whatever_happens(bench, engine, events, batch):
    story = Story(bench, engine, batch)
    for event in events:
        story.tell(event)
    story.bench.port.broken = None
    for _ in range(len(CAMERAS)):
        story.tell(("pass", 5))
        story.tell(("serve", [], "well", []))
    node = story.bench.node
    assert node.pending == 0, "what waits is served or dropped in the end"
    assert node.state in {State.UNCONFIGURED, State.INACTIVE, State.ACTIVE}
    node.transition("shutdown")
    story.check()
    assert not any(engine.is_open for engine in story.bench.engines.values()), "nothing stays open"
    assert node.snapshot().state == State.FINALIZED


def test_the_story_meets_every_reason(bench, engine):
    """Or the property above would prove less than it says."""
    story = Story(bench, engine, -1)
    for event in [
        ("send", "front"),
        ("send", "front"),  # superseded
        ("old", "left"),  # stale
        ("broken", "left", "bayer"),  # rejected
        ("pass", 5),
        ("serve", [], "well", []),
        ("send", "front"),
        ("pass", 5),
        ("serve", [], "fails", []),  # failed
        ("transport", False),
        ("send", "front"),
        ("pass", 5),
        ("serve", [], "well", []),  # unpublished
        ("transport", True),
        ("send", "front"),
        ("ask", ("deactivate", "activate")),  # inactive
        ("send", "front"),
        ("pass", 5),
        ("serve", [], "well", [("inference", ("hang",))]),  # hung
    ]:
        story.tell(event)
    cameras = story.bench.node.counts.values()
    dropped = {reason: sum(counts.dropped[reason] for counts in cameras) for reason in REASONS}
    assert all(dropped.values()), dropped
    assert story.bench.node.counts["front"].published == 1
