"""Commands on another machine: a real server of SSH on this one, and a stand-in for `avcompress` behind it."""

import asyncio
import contextlib
import gc
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from avcompress import __version__
from avcompress.remote import Remote, require_remote, run_remotely
from avcompress.spec import AvcompressError, EngineError, MissingError, OutputError

asyncssh = pytest.importorskip("asyncssh", reason="the extra `dev` has it")
pytestmark = [
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh is installed"),
    pytest.mark.filterwarnings("ignore"),  # the server's own, of pipes that it closes late
]


@dataclass
class Server:
    """A machine behind SSH, whose temporary folder is `home`."""

    home: Path
    remote: Remote
    drop: Callable[[], None]

    def command(self, body: str) -> Remote:
        """With an `avcompress` that answers `--version` and else does this, in sh."""
        tool = self.home.parent / "avcompress tool"
        tool.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "avcompress {__version__}" && exit 0\n{body}\n')
        tool.chmod(0o755)
        return replace(self.remote, command=f"'{tool}'")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves until the test ends."""
    home = tmp_path / "there"
    home.mkdir()
    monkeypatch.setenv("TMPDIR", str(home))  # the shells of the server inherit it
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    connections: list[asyncssh.SSHServerConnection] = []
    host_key = _keys(tmp_path)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(_listen(tmp_path, host_key, connections), loop).result(30)

    def drop() -> None:
        for connection in connections:
            loop.call_soon_threadsafe(connection.abort)

    config = _configure(tmp_path, listening.get_port(), host_key)
    yield Server(home, Remote("vehicle", limit_s=60, options=("-F", str(config))), drop)
    drop()
    asyncio.run_coroutine_threadsafe(_close(listening), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    gc.collect()  # what the server has left complains in this test, which lets it, and in no other


def _keys(folder: Path) -> asyncssh.SSHKey:
    """The client's key, and whom the server lets in; the server's own."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    (folder / "key").chmod(0o600)
    key.write_public_key(str(folder / "authorized"))
    return asyncssh.generate_private_key("ssh-ed25519")


async def _listen(folder: Path, host_key: asyncssh.SSHKey, connections: list[Any]) -> asyncssh.SSHAcceptor:
    async def handle(process: asyncssh.SSHServerProcess) -> None:
        connections.append(process.get_extra_info("connection"))
        shell = await asyncio.create_subprocess_shell(process.command, stdin=-1, stdout=-1, stderr=-1)
        feeding = asyncio.create_task(_feed(process, shell))
        await process.redirect(stdout=shell.stdout, stderr=shell.stderr, send_eof=True)
        code = await shell.wait()
        feeding.cancel()
        await process.stderr.drain()
        await process.stdout.drain()
        process.exit(code)

    return await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[host_key], authorized_client_keys=str(folder / "authorized"),
        process_factory=handle, encoding=None,
    )  # fmt: skip


async def _feed(process: asyncssh.SSHServerProcess, shell: asyncio.subprocess.Process) -> None:
    """What comes goes to the shell; asyncssh's own way ends the connection where the shell has ended before."""
    assert shell.stdin is not None
    with contextlib.suppress(ConnectionError, asyncssh.Error):
        while data := await process.stdin.read(1 << 16):
            shell.stdin.write(data)
            await shell.stdin.drain()
    shell.stdin.close()


def _configure(folder: Path, port: int, host_key: asyncssh.SSHKey) -> Path:
    """The configuration of ssh for the host `vehicle`."""
    known = folder / "known"
    known.write_text(f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}")
    config = folder / "config"
    config.write_text(
        f"Host vehicle\n HostName 127.0.0.1\n Port {port}\n User me\n IdentityFile {folder}/key\n"
        f" IdentitiesOnly yes\n IdentityAgent none\n StrictHostKeyChecking yes\n UserKnownHostsFile {known}\n"
        " GlobalKnownHostsFile /dev/null\n"
    )
    return config


async def _close(listening: asyncssh.SSHAcceptor) -> None:
    """Ends the server, and whatever still runs in its loop: what is left there would complain in another test."""
    listening.close()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(listening.wait_closed(), 5)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def empty(folder: Path) -> bool:
    """Whether nothing is left there, soon."""
    for _ in range(100):
        if not list(folder.iterdir()):
            return True
        time.sleep(0.05)
    return False


def given(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "engine" / "deep").mkdir(parents=True)
    (tmp_path / "engine" / "deep" / "net.onnx").write_bytes(bytes(range(256)) * 1000)
    return {"engine": tmp_path / "engine"}


def test_files_go_there_the_command_runs_and_its_result_comes_back(server: Server, tmp_path: Path) -> None:
    remote = server.command('echo noise; echo "$1|$2|$(pwd)|$(cksum < engine/deep/net.onnx)" > result.json; exit 1')
    files = given(tmp_path)
    found = run_remotely(remote, ["bench", "a b'c $HOME"], files).decode().split("|")

    assert found[:2] == ["bench", "a b'c $HOME"]
    assert found[2].startswith(str(server.home))
    assert found[3].split()[1] == "256000"
    assert empty(server.home)


@pytest.mark.parametrize("argument", ["two\nlines\n\nand a third", "a &; b &; c", "{command} {0}"])
def test_an_argument_arrives_as_it_was(server: Server, argument: str) -> None:
    remote = server.command('printf %s "$2" > result.json')

    assert run_remotely(remote, ["bench", argument], {}).decode() == argument


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("echo 'error: engine: mend it' >&2; exit 2", EngineError, "^vehicle: engine: mend it$"),
        ("echo 'error: no GPU' >&2; exit 3", MissingError, "^vehicle: no GPU$"),
        ("echo 'Traceback' >&2; exit 4", MissingError, "^vehicle: exit code 4: Traceback$"),
        ("exit 0", MissingError, "^vehicle: exit code 0: it said nothing$"),
        ("kill -9 $$", MissingError, "^vehicle: exit code 137: "),
    ],
)
def test_what_the_command_complains_of_is_told_here(
    server: Server, body: str, error: type[AvcompressError], message: str
) -> None:
    with pytest.raises(error, match=message) as found:
        run_remotely(server.command(body), [], {})

    assert found.type is error
    assert empty(server.home)


def test_a_machine_without_avcompress_or_with_another_version_is_told(server: Server) -> None:
    with pytest.raises(MissingError, match=rf"expected avcompress {__version__} there.*--remote-command"):
        run_remotely(replace(server.remote, command="no-such-avcompress"), [], {})
    with pytest.raises(MissingError, match=rf"expected avcompress {__version__} as here, got avcompress 0\.0\.1"):
        run_remotely(replace(server.remote, command="echo avcompress 0.0.1; true"), [], {})


def test_whether_a_machine_is_there_is_asked_without_a_file(server: Server) -> None:
    require_remote(server.command("exit 9"))  # anything but its version would be refused

    assert empty(server.home)
    with pytest.raises(MissingError, match=rf"expected avcompress {__version__} there.*--remote-command"):
        require_remote(replace(server.remote, command="no-such-avcompress"))
    with pytest.raises(MissingError, match=r"expected a connection by SSH, got: .*nowhere\.invalid"):
        require_remote(replace(server.remote, host="nowhere.invalid"))


def test_a_full_disk_there_is_told_and_nothing_stays(server: Server, tmp_path: Path, tiny_disk: Path) -> None:
    remote = server.command("exit 0")
    shutil.rmtree(server.home)
    server.home.symlink_to(tiny_disk)

    with pytest.raises(
        OutputError, match=r"--on vehicle: expected room for the files there, got: .*(No space left|Wrote only)"
    ):
        run_remotely(remote, [], given(tmp_path))
    assert empty(tiny_disk)


def test_a_host_that_is_unknown_or_that_nobody_knows_the_key_of_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"expected a connection by SSH, got: .*nowhere\.invalid.*; try: ssh"):
        run_remotely(replace(server.remote, host="nowhere.invalid"), [], {})
    (tmp_path / "known").write_text("")
    with pytest.raises(MissingError, match="got: Host key verification failed"):
        run_remotely(server.remote, [], {})


def test_a_connection_that_is_lost_ends_the_command_there_and_is_told(server: Server, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    remote = server.command(f"trap 'echo ended > {tmp_path}/ended; exit 143' TERM; touch {begun}; sleep 60 & wait")

    def drop() -> None:
        while not begun.exists():
            time.sleep(0.05)
        server.drop()

    threading.Thread(target=drop, daemon=True).start()
    with pytest.raises(MissingError, match="--on vehicle: expected a connection by SSH"):
        run_remotely(remote, [], given(tmp_path))
    assert empty(server.home)
    assert (tmp_path / "ended").exists()


def test_a_command_that_hangs_there_is_ended_after_the_limit(server: Server) -> None:
    with pytest.raises(MissingError, match="expected an answer within 3 s"):
        run_remotely(replace(server.command("sleep 60 & wait"), limit_s=3), [], {})
    assert empty(server.home)


def test_an_interrupt_here_ends_it_there(server: Server, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_remotely(server.command(f"touch {begun}; sleep 60 & wait"), [], {})
    assert empty(server.home)
