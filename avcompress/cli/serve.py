"""The command that serves a bundle to the cameras of a vehicle: serve."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
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
    from ros_nodes.core.node import Node
    from ros_nodes.parameters import Told, Value

Say = Callable[[str, bool], None]
"""Prints a line of the node's; one that matters also with --quiet."""

# Windows has none.
_RELOAD = getattr(signal, "SIGHUP", None)


@app.command()
def serve(  # noqa: PLR0913, PLR0917 (the options of a command)
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder of the bundle to serve; or `bundle` in --params.")
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", help="NAME=TOPIC, once a camera; or `cameras` in --params.")
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option("--params", help="Parameters in ROS's YAML, all that the node has; options go before them."),
    ] = None,
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
        float | None,
        typer.Option("--max-age-ms", min=1e-6, help="Images that are older at their turn are dropped; default: 200."),
    ] = None,
    age_from: Annotated[
        Literal["stamp", "arrival"] | None,
        typer.Option("--age-from", help="Since when an image ages; default: stamp."),
    ] = None,
    reliable: Annotated[
        bool, typer.Option("--reliable", help="Want lost images sent again; hears no best-effort cameras then.")
    ] = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Images kept; each one more is latency; default: 1.")
    ] = None,
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
    down in order. SIGHUP swaps in the bundle that is in its place by then, or that --params names by then, while the
    node serves.

    Example: avcompress serve yolox.bundle --key release.pem.pub --camera front=/front/image_raw --autostart
    """
    from ros_nodes.connection import image_topics
    from ros_nodes.core.memory import keep_freed_memory
    from ros_nodes.wire.serving import serving
    from ros_nodes.wire.settings import Network
    from ros_nodes.wiring import Wiring

    topics = camera_topics(camera or [])
    options: dict[str, Value | None] = {
        "bundle": str(bundle) if bundle else None,
        "fallback": str(fallback) if fallback else None,
        "keys": list(map(str, key or ())) or None,
        "allow_unsigned": allow_unsigned or None,
        "cameras": list(topics) or None,
        "image_topics": list(topics.values()) or None,
        "deadline_ms": deadline_ms,
        "max_age_ms": max_age_ms,
        "age_from": age_from,
        "camera_qos.reliability": "reliable" if reliable else None,
        "camera_qos.depth": depth,
        "camera_qos.deadline_ms": camera_deadline_ms,
        "result_qos.lifespan_ms": lifespan_ms,
        "autostart": autostart or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    said = _told(given, params, node)
    connection = said.connection
    try:
        wiring = Wiring(
            node=node,
            topics=image_topics(connection, node, said.settings.cameras),
            camera_qos=connection.camera_qos,
            result_qos=connection.result_qos,
        )
        network = Network(domain=domain, interface=interface, peers=tuple(peer or ()), distro=distro)
    except ValidationError as error:
        raise RecipeError(_line(error, "--camera" if camera else "image_topics")) from None
    console, heard = open_console(), _signals()
    say = _speaker(console, node, quiet)
    keep_freed_memory()
    with serving(said.settings, wiring, network, _teller(say), connection.autostart) as running:
        while heard.get() == _RELOAD:
            _swap(running, lambda: _bundle_of(_told(given, params, node), said), say)
    _show(console, running.counts)
    raise typer.Exit(Exit.MET)


def _line(error: ValidationError, topics: str) -> str:
    """The first mistake, by the option that holds it; `topics`: where those of the images are from."""
    from avcompress.yaml_file import complaint

    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "topics"
    option = {"topics": topics, "peers": "--peer"}.get(name, f"--{name}")
    return f"{option}: {complaint(first)}"


def _told(given: Mapping[str, Value], params: Path | None, node: str) -> Told:
    """What the file says, and before that the options; raises RecipeError for what a node on the wire cannot do."""
    from ros_nodes.parameter_files import read
    from ros_nodes.parameters import told

    values = {**(read(params, node) if params else {}), **given}
    if "cameras" not in values:
        raise RecipeError("--camera: expected NAME=/TOPIC, or `cameras` in --params, got neither; name the cameras")
    if not values.get("bundle"):
        raise RecipeError("BUNDLE: expected its folder, or `bundle` in --params, got neither; name the bundle to serve")
    said = told(values)
    if said.connection.overlay_every_ms:
        raise RecipeError(
            f"overlay_every_ms: expected 0, got {said.connection.overlay_every_ms:g}; only the node of ROS draws"
        )
    return said


def _bundle_of(now: Told, before: Told) -> Path:
    """The bundle that is named now; raises RecipeError where something else is said than at the start, too."""
    ours = before.settings.model_copy(update={"bundle": now.settings.bundle})
    changed = [name for name, value in now.settings if value != getattr(ours, name)]
    changed += [name for name, value in now.connection if value != getattr(before.connection, name)]
    if changed:
        raise RecipeError(f"{changed[0]}: expected what it was at the start, got another value; start the node anew")
    return Path(now.settings.bundle)


def _swap(running: Node, bundle: Callable[[], Path], say: Say) -> None:
    from engines.session import one_line

    try:
        running.swap(bundle())
    except Exception as error:  # whatever is wrong with it, the node goes on with what it has
        say(f"not swapped: {one_line(error)}", True)
    else:
        say(running.snapshot().engines.swap, False)


def _signals() -> SimpleQueue[int]:
    """Every SIGHUP, and the first Ctrl-C or SIGTERM; the second one leaves at once."""
    heard: SimpleQueue[int] = SimpleQueue()
    stop = threading.Event()

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (Python's own signature)
        if number != _RELOAD:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()
        heard.put(number)

    for number in (signal.SIGINT, signal.SIGTERM, _RELOAD):
        if number is not None:
            signal.signal(number, receive)
    return heard


def _speaker(console: Console, node: str, quiet: bool) -> Say:
    def say(text: str, matters: bool) -> None:
        if matters or not quiet:
            console.print(f"{node}: {text}", soft_wrap=True, markup=False)

    return say


def _teller(say: Say) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        went_well = step.outcome == "success" and not step.reason
        say(step.state.label if went_well else f"{step.state.label}: {step.reason}", not went_well)

    return tell


def _show(console: Console, counts: Mapping[str, Counts]) -> None:
    for name, camera in counts.items():
        dropped = ", ".join(f"{number} {reason}" for reason, number in camera.dropped.items() if number)
        line = f"{name}: {camera.received} received, {camera.published} published, {dropped or '0'} dropped"
        console.print(line, soft_wrap=True, markup=False)
