"""A command of ours on another machine by SSH: files go there, it runs, what it measured comes back.

The system's own `ssh` does it, so that `~/.ssh/config`, keys, agents and jump hosts count as they do for its user. One
connection carries all: a script there takes a tar archive from its input, runs the command, and prints the file that
this wrote. Its folder is removed however it ends; when its input ends, as when the connection is lost, so does it.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar

from avcompress import __version__
from avcompress.frozen import Model
from avcompress.spec import AvcompressError, EngineError, LateError, MissingError, OutputError

M = TypeVar("M", bound=Model)
RESULT = "result.json"
CONNECT_S, SILENCE_S = 15, 15
"""To a connection; and how often a silent machine is asked whether it is there: it may be silent three times."""
_ANSWER_S = 120.0
"""For the question whether it is there: Python may start slowly on a small machine."""
_LOST, _NO_COMMAND = 255, (126, 127)
_NO_ROOM, _OTHER_VERSION = 91, 93
# Of one line for `sh -c`. 3 is its input: the archive, then nothing, until this side goes away.
_SCRIPT = """
umask 077; exec 3<&0 </dev/null
found=$({command} --version) || exit $?
[ "$found" = "avcompress {version}" ] || {{ echo "error: $found" >&2; exit 93; }}
d=$(mktemp -d "${{TMPDIR:-/tmp}}/avcompress-XXXXXX") || exit 91
trap 'rm -rf "$d"' EXIT; trap 'exit 92' HUP INT TERM PIPE
head -c {size} <&3 | tar -x -f - -C "$d" || exit 91
cd "$d" || exit 91
{command} {arguments} 3<&- >&2 & job=$!
(cat <&3 >/dev/null 2>&1; kill -TERM $job) >/dev/null 2>&1 & watch=$!
wait $job; code=$?
kill $watch 2>/dev/null
[ ! -f {result} ] || cat {result} || exit 92
exit $code
"""


@dataclass(frozen=True)
class Remote:
    """A machine that `ssh` reaches.

    Attributes:
        host: as ssh takes it: a name of `~/.ssh/config`, user@host, ssh://user@host:port.
        command: what starts avcompress there.
        limit_s: that a command may take, copying included.
        options: further ones of ssh.
    """

    host: str
    command: str = "avcompress"
    limit_s: float = 3600.0
    options: tuple[str, ...] = ()


def run_remotely(remote: Remote, arguments: Sequence[str], files: Mapping[str, Path]) -> bytes:
    """Run a command there that ends with 0 or 1, and writes its facts to `RESULT`; what is in that file.

    Args:
        remote: the machine.
        arguments: of avcompress, with paths as they are there, below the folder that it runs in.
        files: files and folders to be copied, by their names there.

    Raises MissingError, LateError after the limit, OutputError for a full disk, and EngineError for what the command
    there refuses.
    """
    code, found, lines = _run(remote, arguments, files)
    if code in (0, 1) and found:
        return found
    raise _error(remote, code, lines)


def require_remote(remote: Remote) -> None:
    """Raise MissingError unless the machine answers, and has this version of avcompress."""
    code, _, lines = _run(replace(remote, limit_s=_ANSWER_S), ["--version"], {})
    if code != 0:
        raise _error(remote, code, lines)


def _run(
    remote: Remote, arguments: Sequence[str], files: Mapping[str, Path]
) -> tuple[int | None, bytes, Sequence[str]]:
    """The exit code there, None after the limit, the result, and the lines that were said."""
    with tempfile.TemporaryFile() as archive, tempfile.TemporaryFile() as said:
        size = _pack(files, archive)
        script = _script(remote, arguments, size)
        code, found = _talk(remote, script, archive, said)
        said.seek(0)
        lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return code, found, lines


def facts_from(remote: Remote, kind: type[M], result: bytes) -> M:
    """What a command there has written, read as facts; raises MissingError for anything else."""
    try:
        return kind.model_validate_json(result)
    except ValueError as error:
        raise MissingError(
            f"--on {remote.host}: expected the facts of avcompress {__version__}, got others; reinstall it there"
        ) from error


def _pack(files: Mapping[str, Path], archive: IO[bytes]) -> int:
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for name, path in files.items():
            tar.add(path, name)
    size = archive.seek(0, io.SEEK_END)
    archive.seek(0)
    return size


def _script(remote: Remote, arguments: Sequence[str], size: int) -> str:
    # One line first: what the command and its arguments hold stays as it is.
    line = "; ".join(_SCRIPT.strip().splitlines()).replace("&; ", "& ")
    return line.format(
        command=remote.command, version=__version__, size=size, arguments=shlex.join(arguments), result=RESULT
    )


def _talk(remote: Remote, script: str, archive: IO[bytes], said: IO[bytes]) -> tuple[int | None, bytes]:
    """The exit code of ssh, None after the limit, and what came; nothing of it outlives the call."""
    options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}", f"ServerAliveInterval={SILENCE_S}", "ForwardX11=no"]
    named = [part for option in options for part in ("-o", option)]
    command = ["ssh", *remote.options, *named, "-T", "--", remote.host, f"sh -c {shlex.quote(script)}"]
    try:
        # A session of its own: Ctrl-C reaches this process only, which then ends that one.
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
    except FileNotFoundError as error:
        raise MissingError("--on: expected the program ssh, got none installed; apt install openssh-client") from error
    feeder = threading.Thread(target=_feed, args=(archive, child.stdin), daemon=True)
    late = threading.Timer(remote.limit_s, child.kill)
    timed_out = False
    try:
        feeder.start()
        late.start()
        found = child.stdout.read() if child.stdout else b""
        code = child.wait()
        timed_out = not late.is_alive() and code == -signal.SIGKILL
    finally:
        late.cancel()
        child.kill()
        child.wait()
        feeder.join()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    return (None if timed_out else code), found


def _feed(archive: IO[bytes], stream: IO[bytes] | None) -> None:
    """Send all, and keep the line open: its end would end the command."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):  # what went wrong there is told by ssh
            while chunk := archive.read(1 << 20):
                stream.write(chunk)
            stream.flush()


def _error(remote: Remote, code: int | None, lines: Sequence[str]) -> AvcompressError:
    where = f"--on {remote.host}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    message = (errors or lines or ["it said nothing"])[-1]
    if code is None:
        return LateError(f"{where}: expected an answer within {remote.limit_s:g} s, got none; look at the machine")
    if code == _LOST or code < 0:
        return MissingError(f"{where}: expected a connection by SSH, got: {message}; try: ssh {remote.host} true")
    if code in _NO_COMMAND:
        return MissingError(
            f"{where}: expected avcompress {__version__} there, got: {message}; install it, or say by --remote-command "
            "what starts it"
        )
    if code == _OTHER_VERSION:
        return MissingError(f"{where}: expected avcompress {__version__} as here, got {message}; install it there")
    if code == _NO_ROOM:
        return OutputError(f"{where}: expected room for the files there, got: {[*lines, message][0]}; free some space")
    kind = EngineError if code == EngineError.exit_code else MissingError
    return kind(f"{remote.host}: {message}" if code in (2, 3) else f"{remote.host}: exit code {code}: {message}")
