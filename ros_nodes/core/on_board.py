"""The engines of a node, and which of them serves: by the deadline, by failures, and by a swap on trial.

No clock and no lock: the node has both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from avcompress.spec import EngineError
from engines.session import one_line
from ros_nodes.core.diagnostics import EngineView
from ros_nodes.core.loading import Pair, refuse_other_classes, refuse_other_kind
from ros_nodes.core.served import Served
from ros_nodes.core.settings import Settings, limits
from ros_nodes.core.watch import Limits, Watch, anew, finish, miss, observe, resume


class OnBoard:
    """Loaded engines.

    Attributes:
        watch: what has been seen of the deadline.
        is_new: whether subscribers have yet to hear of the primary.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._primary: Served | None = None
        self._fallback: Served | None = None
        self._next: Served | None = None
        # The one before, while the primary is on trial for `_trial` more inferences, and what was seen of it.
        self._old: Served | None = None
        self._trial, self._before = 0, Watch()
        self._retired: list[Served] = []
        self._failures = 0
        self._swap_note, self._swap_failed = "", False
        self._not_closed = ""
        self.watch = Watch()
        self.is_new = False

    # --- what serves

    @property
    def primary(self) -> Served | None:
        """The engine that is meant to serve; None before one is loaded."""
        return self._primary

    @property
    def active(self) -> Served | None:
        """The engine that the next frame goes to."""
        return self._fallback if self.watch.on_fallback and self._fallback is not None else self._primary

    @property
    def limits(self) -> Limits | None:
        """What the primary has to keep; None before one is loaded."""
        if self._primary is None:
            return None
        found = limits(self._settings, self._primary.manifest)
        # On trial there is a better engine than the fallback: the one before.
        return found if self._old is None else replace(found, has_fallback=False)

    def board(self, pair: Pair) -> None:
        """Take a primary and its fallback, in place of nothing."""
        self._primary, self._fallback = pair
        self.watch = Watch()
        self._swap_note, self._swap_failed, self._not_closed = "", False, ""

    def begin(self) -> None:
        """Forget what was seen, as a node does that is activated, or that has another engine; counts go on."""
        self.watch, self._before, self._failures, self.is_new = anew(self.watch), Watch(), 0, True

    # --- what is seen

    def served(self, now_ns: int, took_ns: int, counted: bool) -> None:
        """After an inference that went well; `counted`: it is known as a miss already."""
        found = self.limits
        if found is None:
            return
        self._failures = 0
        see = finish(self.watch, now_ns, took_ns) if counted else observe(self.watch, found, now_ns, took_ns)
        self._see(see)
        if self._old is not None:
            self._trial -= 1
            if self._trial <= 0:
                self._keep()
                self._swap_note, self._swap_failed = f"swap: {_name(self._primary)} has passed its trial", False

    def missed(self, now_ns: int) -> None:
        """After a deadline that passed while an inference is still under way."""
        found = self.limits
        if found is not None:
            self._see(miss(self.watch, found, now_ns))

    def _see(self, watch: Watch) -> None:
        self.watch = watch
        if self._old is not None and watch.misses >= self._settings.fall_back_after:
            self._roll_back("it missed the deadline too often")

    def failed(self, reason: str) -> bool:
        """After an inference that failed; whether the node has to stop."""
        self._failures += 1
        if self._old is not None:
            self._roll_back(reason)
            return False
        return self._failures >= self._settings.max_failures

    def hung(self, served: Served, reason: str) -> bool:
        """After an inference that was given up as hanging; whether the node has to stop."""
        if self._old is not None:
            self._roll_back(reason)
        stops = served is self._primary or served is self._fallback
        if stops and self._next is not None:
            # Nothing leads on from here but other engines: one that waited for a pause between two frames goes, too.
            self._retired.append(self._next)
            self._next = None
            self.refuse(reason)
        return stops

    # --- swap

    def offer(self, new: Served) -> None:
        """Let an engine take the primary's place soon; one offered before that has not had its turn goes.

        Raises EngineError where its results would mean something else, RecipeError where it has no deadline.
        """
        limits(self._settings, new.manifest)
        if self._primary is None:
            raise EngineError("swap: expected a node with a bundle, got one cleaned up; configure it first")
        refuse_other_kind("swap", self._primary, new)
        if self._fallback is not None:
            refuse_other_classes("swap", self._fallback, new)
        if self._next is not None:
            self._retired.append(self._next)
        self._next = new
        self._swap_note, self._swap_failed = f"swap: {new.name} is to take over", False

    def refuse(self, reason: str) -> None:
        """Note why a swap did not come about."""
        self._swap_note, self._swap_failed = f"swap: refused: {reason}", True

    @property
    def has_next(self) -> bool:
        """Whether an engine waits to take over."""
        return self._next is not None

    def swap(self) -> None:
        """Let the engine that waits take over, on trial; without effect where none does."""
        if self._next is None or self._primary is None:
            return
        self._keep()
        self._old, self._primary, self._next = self._primary, self._next, None
        self._trial = self._settings.probation
        self._swap_note, self._swap_failed = f"swap: {self._primary.name} is on trial", False
        before = self.watch
        self.begin()
        self._before = before

    def _keep(self) -> None:
        """There is no way back to the engine before any more."""
        if self._old is not None:
            self._retired.append(self._old)
        self._old, self._trial = None, 0

    def _roll_back(self, reason: str) -> None:
        if self._old is None or self._primary is None:
            return
        self._retired.append(self._primary)
        self._primary, self._old, self._trial = self._old, None, 0
        self._swap_note, self._swap_failed = f"swap: rolled back: {reason}", True
        back = resume(self.watch, self._before)
        self.begin()
        self.watch = back

    # --- the end

    def retire_all(self) -> None:
        """Let every engine go; what was counted stays until others are boarded."""
        if self._next is not None or self._old is not None:
            self._swap_note, self._swap_failed = "", False
        self._retired += [e for e in (self._primary, self._fallback, self._next, self._old) if e is not None]
        self._primary = self._fallback = self._next = self._old = None
        self._trial, self.watch = 0, anew(self.watch)

    def take_retired(self, busy: Collection[Served]) -> list[Served]:
        """Hand over what has left, to be closed; what is still at work stays until the next call."""
        free = [served for served in self._retired if served not in busy]
        self._retired = [served for served in self._retired if served in busy]
        return free

    def not_closed(self, reasons: Iterable[str]) -> None:
        """Note why engines could not be closed; the last one stays until another bundle is loaded."""
        for reason in reasons:
            self._not_closed = reason

    def view(self, fault: str, transport_error: str) -> EngineView:
        """What diagnostics say of the engines."""
        return EngineView(
            active=_name(self.active),
            primary=_name(self._primary),
            fallback=_name(self._fallback),
            fault=fault,
            swap=self._swap_note,
            swap_failed=self._swap_failed,
            not_closed=self._not_closed,
            transport_error=transport_error,
        )


def close_all(served: Iterable[Served]) -> list[str]:
    """Close engines, each whatever the others raise; hands back what they raised, one line each."""
    return [reason for one in served if (reason := _close(one))]


def _close(served: Served) -> str:
    try:
        served.session.close()
    except Exception as error:  # a runtime may raise anything, and the node needs nothing more of it
        return f"{served.name}: not closed: {one_line(error)}"
    return ""


def _name(served: Served | None) -> str:
    return served.name if served else ""
