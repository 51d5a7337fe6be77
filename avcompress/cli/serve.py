"""The command that serves a bundle to the cameras of a vehicle: serve."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from avcompress.cli.app import Exit, Quiet, app
from avcompress.cli.cameras import camera_topics
from avcompress.cli.terminal import open_console
from avcompress.cli.trust import AllowUnsigned, PublicKeys
from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from types import FrameType

    from ros_nodes.core.counts import Counts
    from ros_nodes.core.lifecycle import Step


@app.command()
def serve(  # noqa: PLR0913, PLR0917 (the options of a command)
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle to serve.")],
    camera: Annotated[list[str], typer.Option("--camera", help="NAME=TOPIC, once a camera.")],
    transport: Annotated[  # noqa: ARG001 (there is one so far; who names it will get no other)
        Literal["wire"], typer.Option("--transport", help="wire: ROS 2's own, without a ROS installation.")
    ] = "wire",
    autostart: Annotated[
        bool, typer.Option("--autostart", help="Configure and activate at once; else wait for `ros2 lifecycle`.")
    ] = False,
    fallback: Annotated[Path | None, typer.Option("--fallback", help="Bundle to fall back to.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option("--deadline-ms", min=1e-6, help="To watch; default: the contract's.")
    ] = None,
    max_age_ms: Annotated[
        float, typer.Option("--max-age-ms", min=1e-6, help="Images that are older when their turn comes are dropped.")
    ] = 200.0,
    age_from: Annotated[
        Literal["stamp", "arrival"], typer.Option("--age-from", help="Since when an image ages.")
    ] = "stamp",
    reliable: Annotated[
        bool, typer.Option("--reliable", help="Want lost images sent again; hears no best-effort cameras then.")
    ] = False,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Images kept; each one more than 1 is latency.")] = 1,
    camera_deadline_ms: Annotated[
        float | None,
        typer.Option("--camera-deadline-ms", min=1e-6, help="Between two images; hears only cameras that promise it."),
    ] = None,
    lifespan_ms: Annotated[
        float | None, typer.Option("--lifespan-ms", min=1e-6, help="Results that are older are not delivered any more.")
    ] = None,
    node: Annotated[str, typer.Option("--node", help="The node's name, with which its topics begin.")] = "avcompress",
    domain: Annotated[
        int, typer.Option("--domain", min=0, max=230, envvar="ROS_DOMAIN_ID", help="Number of the ROS 2 domain.")
    ] = 0,
    interface: Annotated[
        str | None, typer.Option("--interface", help="Network interface; lo: only this machine, without multicast.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="Address to look for nodes at, where multicast does not reach.")
    ] = None,
    distro: Annotated[
        Literal["humble", "jazzy"], typer.Option("--distro", help="ROS 2 release of the other nodes.")
    ] = "jazzy",
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    quiet: Quiet = False,
) -> None:
    """Serve a bundle to cameras as a managed ROS 2 node, until Ctrl-C or SIGTERM shuts it down.

    The node stays where its bundle is refused, and says why in its diagnostics; the exit code is 0 once it was shut
    down in order.

    Example: avcompress serve yolox.bundle --key release.pem.pub --camera front=/front/image_raw --autostart
    """
    from ros_nodes.core.settings import Settings
    from ros_nodes.qos import Qos
    from ros_nodes.wire.serving import serve as run
    from ros_nodes.wire.settings import Network
    from ros_nodes.wiring import Wiring

    topics = camera_topics(camera)
    try:
        settings = Settings(
            bundle=str(bundle),
            fallback=str(fallback) if fallback else None,
            keys=tuple(map(str, key or ())),
            allow_unsigned=allow_unsigned,
            cameras=tuple(topics),
            deadline_ms=deadline_ms,
            max_age_ms=max_age_ms,
            age_from=age_from,
        )
        wiring = Wiring(
            node=node,
            topics=topics,
            camera_qos=Qos(
                reliability="reliable" if reliable else "best_effort", depth=depth, deadline_ms=camera_deadline_ms
            ),
            result_qos=Qos(reliability="reliable", lifespan_ms=lifespan_ms),
        )
        network = Network(domain=domain, interface=interface, peers=tuple(peer or ()), distro=distro)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{where}: {first['msg']}, got {first['input']!r}; see avcompress serve --help") from error
    console = open_console()
    counts = run(settings, wiring, network, _stop_on_signal(), _teller(console, node, quiet), autostart)
    _show(console, counts)
    raise typer.Exit(Exit.MET)


def _stop_on_signal() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; the second one leaves at once."""
    stop = threading.Event()

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (Python's own signature)
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, receive)
    return stop


def _teller(console: Console, node: str, quiet: bool) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        if step.outcome != "success" or step.reason:
            console.print(f"{node}: {step.state.label}: {step.reason}", soft_wrap=True, markup=False)
        elif not quiet:
            console.print(f"{node}: {step.state.label}", soft_wrap=True, markup=False)

    return tell


def _show(console: Console, counts: Mapping[str, Counts]) -> None:
    for name, camera in counts.items():
        dropped = ", ".join(f"{number} {reason}" for reason, number in camera.dropped.items() if number)
        line = f"{name}: {camera.received} received, {camera.published} published, {dropped or '0'} dropped"
        console.print(line, soft_wrap=True, markup=False)
