"""The process around a command: signals, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import TYPE_CHECKING

import typer

from avcompress import __version__
from avcompress.cli.app import Exit, app
from avcompress.spec import AvcompressError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


_AGAIN_S = 5.0
"""How long an interrupt may go unheeded; what cleans up behind itself takes less."""
_KEEPING = {"run": ["--resume"], "demo": ["--resume"], "update": ["--resume"], "search": ["--resume"], "analyze": []}
"""Commands that keep finished steps, and how they go on from there; all others write all or nothing."""


class Terminated(BaseException):
    """SIGTERM, raised so that what cleans up behind itself does; no Exception, so that nothing else catches it."""


def main() -> None:
    """Run the command line; every outcome leaves by an exit code of `Exit`."""
    _prepare_streams()
    # ONNX Runtime would report its use over the network, and complain where it cannot keep an identifier.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn their own developers; ours go through Watch.note
    # It complains where it cannot keep a cache of fonts, as in many containers.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.exit(_exit_code(sys.argv[1:]))


def _prepare_streams() -> None:
    """A closed stream swallows what is written to it, and a letter that a terminal lacks stops nobody."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Signals:
    """Turns the first Ctrl-C or SIGTERM into an exception, and leaves at once at the second."""

    def __init__(self) -> None:
        self.code: Exit | None = None

    def install(self) -> None:
        """Listen from now on, except to what our parent wants ignored."""
        sys.unraisablehook = self._lost
        signal.signal(signal.SIGALRM, self._raise)
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None:
            _complain("interrupted twice: left at once; --resume clears what was half done")
            os._exit(self.code)
        self.code = Exit(128 + number)
        # Whoever swallows the exception meets it again: a library's callback, say, that ignores whatever is raised.
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        self._raise(number, frame)

    def leave(self) -> None:
        """Raise nothing more: what was interrupted has been left."""
        if self.code is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _raise(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        raise KeyboardInterrupt if self.code == Exit.INTERRUPTED else Terminated

    def _lost(self, lost: UnraisableHookArgs) -> None:
        """Raise again, soon, what came while Python ran a destructor or the like, which ignores exceptions."""
        if issubclass(lost.exc_type, KeyboardInterrupt | Terminated):
            signal.setitimer(signal.ITIMER_REAL, 0.05, _AGAIN_S)
        else:
            sys.__unraisablehook__(lost)


def _exit_code(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    signals = _Signals()
    try:
        # Not standalone: click would turn Ctrl-C into exit code 1, which here means "contract not met".
        code = int(command.main(arguments, prog_name="avcompress", standalone_mode=False, obj=signals) or 0)
        # Typer turns Ctrl-C into this code before we can see it.
        return _interrupted(Exit.INTERRUPTED, arguments) if code == Exit.INTERRUPTED else code
    except (KeyboardInterrupt, Terminated):
        return _interrupted(signals.code or Exit.INTERRUPTED, arguments)
    except Exception as error:
        # An interrupt inside a library may come back as an error of the library's own.
        return _interrupted(signals.code, arguments) if signals.code else _failed(error)
    finally:
        signals.leave()


def _failed(error: Exception) -> int:
    """One line on what went wrong, and the exit code."""
    match error:
        case AvcompressError():
            _complain(f"error: {_one_line(str(error))}")
            return error.exit_code
        case OSError():
            where, reason = error.filename or "input or output", error.strerror or str(error)
            _complain(f"error: {where}: expected to read or write here, got {reason}; check permissions and free space")
            return Exit.MISSING
        case MemoryError():
            _complain(
                "error: memory: expected enough for this network, got none left; close programs or use smaller images"
            )
            return Exit.MISSING
        case _:
            return _usage_or_defect(error)


def _usage_or_defect(error: Exception) -> int:
    name = type(error).__name__
    if name == "NoArgsIsHelpError":
        print(str(error), file=sys.stderr)
        return Exit.BAD_INPUT
    if hasattr(error, "format_message"):
        _complain(f"error: {_one_line(error.format_message()).rstrip('.')}; see avcompress --help")
        return Exit.BAD_INPUT
    traceback.print_exc()
    _complain(f"error: {name}: a defect of avcompress {__version__}; please report it with the lines above")
    return Exit.DEFECT


def _interrupted(code: Exit, arguments: list[str]) -> int:
    command = ["avcompress", *arguments]
    further = _KEEPING.get(arguments[0]) if arguments else None
    if further is None:
        _complain(f"interrupted: nothing was written; start again with: {shlex.join(command)}")
        return code
    again = shlex.join([*command, *(option for option in further if option not in arguments)])
    _complain(f"interrupted: finished steps are kept; go on with: {again}")
    return code


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, but the exit code tells
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split())
