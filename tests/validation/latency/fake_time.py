"""A clock that stands still unless somebody waits or works."""

from validation.latency import Time


class FakeTime:
    """Nanoseconds; `work(ms)` is a stage that takes so long."""

    def __init__(self):
        self.now = 5_000_000_000
        self.slept = []

    @property
    def time(self):
        return Time(lambda: self.now, self.sleep, 0)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    def work(self, *durations_ms):
        durations = iter(durations_ms)

        def run(item):
            self.now += round(1e6 * next(durations))
            return item

        return run
