"""The command line: parses arguments, shows progress and results, and turns every outcome into an exit code.

0 done and contract met, 1 contract not met, 2 bad input or usage, 3 something this machine lacks,
4 a defect of avcompress (with a traceback), 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from avcompress.cli import (
    analyze,
    bench,
    build,
    bundle,
    calibrate,
    compare,
    data,
    inspect,
    lint,
    profile,
    replay,
    run,
    search,
    serve,
    targets,
    update,
    validate,
)
from avcompress.cli.app import app
from avcompress.cli.process import main

__all__ = [
    "analyze",
    "app",
    "bench",
    "build",
    "bundle",
    "calibrate",
    "compare",
    "data",
    "inspect",
    "lint",
    "main",
    "profile",
    "replay",
    "run",
    "search",
    "serve",
    "targets",
    "update",
    "validate",
]
