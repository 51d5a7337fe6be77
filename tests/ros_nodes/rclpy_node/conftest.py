import pytest


@pytest.fixture
def ros(world, bench):
    """Start a world around engines of a test."""
    from contextlib import ExitStack

    with ExitStack() as worlds:

        def start(engines=None, **parameters):
            b = bench()
            b.engines |= engines or {}
            given = {"bundle": "main", "allow_unsigned": True, "cameras": ["front"], "age_from": "arrival"}
            made = worlds.enter_context(world(b.load, **{**given, **parameters}))
            made.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
            made.bench = b
            return made

        yield start
