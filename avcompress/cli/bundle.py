"""Commands around bundles: create, keygen, sign, verify, show, rebuild, pack, unpack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from avcompress.cli.app import Exit, JsonFile, Profiles, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json
from avcompress.cli.trust import AllowUnsigned, PublicKeys, bundle_trust
from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from engines.bundle import Trust
    from engines.manifest import Manifest

bundle = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="An engine with its network, contract and provenance in one folder, hashed and signed.",
)
app.add_typer(bundle, name="bundle")

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")]
NewFolder = Annotated[Path, typer.Option("--out", help="New folder for the bundle.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File that holds the private key's passphrase, in one line.")
]


@bundle.command()
def create(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished `avcompress run`.")],
    out: NewFolder,
    engine: Annotated[str | None, typer.Option("--engine", help="Which of the run's engines: its backend.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="In place of --engine: the machine that builds its engine itself, by `avcompress bundle rebuild`; as "
            "`avcompress targets` lists them.",
        ),
    ] = None,
    profiles: Profiles = None,
    dla: Annotated[int | None, typer.Option("--dla", min=0, help="With --target: the DLA core to build for.")] = None,
    dla_fallback: Annotated[
        Literal["refuse", "list"],
        typer.Option(
            "--dla-fallback", help="With --dla: layers that it cannot run: refuse, or list and run on the GPU."
        ),
    ] = "refuse",
    ranges: Annotated[
        Path | None, typer.Option("--ranges", help="With --dla: file of `avcompress calibrate --ranges-out`.")
    ] = None,
    revision: Annotated[int, typer.Option("--revision", min=0, help="Number that grows with every release.")] = 0,
    allow_unmet: Annotated[bool, typer.Option("--allow-unmet", help="Also of a run that missed its contract.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Make a bundle of a run's engine, or of its network for a machine that is to build its own; sign it next.

    Example: avcompress bundle create out/yolox --engine openvino --out yolox.bundle

    Example: avcompress bundle create out/yolox --target orin-agx@jetpack-6.2 --out yolox.bundle
    """
    from avcompress.bundling import ForDevice, create_bundle

    context.obj.install()
    console = open_console()
    check_json(json_file, out, ())
    wanted: str | ForDevice
    if target is not None and engine is None:
        wanted = ForDevice(target, tuple(profiles or ()), dla, dla_fallback, ranges)
    elif engine is not None and target is None:
        wanted = engine
    else:
        got = "none" if engine is None else "both"
        raise RecipeError(f"--engine: expected it, or --target for a device that builds its own, got {got}; give one")
    manifest = create_bundle(run, wanted, out, revision, allow_unmet)
    yet = f", to be built on {manifest.target}" if target else ""
    _say(console, f"bundle of {len(manifest.files)} files{yet}, not signed yet: {out}")
    _write(json_file, manifest)


@bundle.command()
def keygen(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="New file for the private key; the public one gets .pub.")],
    passphrase_file: PassphraseFile = None,
    ask: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase that the key is locked with.")
    ] = False,
) -> None:
    """Make a pair of Ed25519 keys: the private one stays where bundles are signed, the public one goes to the vehicles.

    Example: avcompress bundle keygen --out keys/release.pem --passphrase
    """
    from engines.signing import generate_key

    context.obj.install()
    passphrase = _passphrase(passphrase_file, ask, confirm=True)
    public, identity = generate_key(out, passphrase)
    _say(open_console(), f"private key: {out}", f"public key: {public}", f"id: {identity}")


@bundle.command()
def sign(
    context: typer.Context,
    folder: Folder,
    key: Annotated[Path, typer.Option("--key", help="Private key, of `avcompress bundle keygen`.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Check every file of a bundle, and sign its manifest.

    Example: avcompress bundle sign yolox.bundle --key keys/release.pem
    """
    from engines.bundle import sign_bundle
    from engines.signing import is_encrypted, load_private_key

    context.obj.install()
    passphrase = _passphrase(passphrase_file, is_encrypted(key), confirm=False)
    found = sign_bundle(folder, load_private_key(key, passphrase))
    _say(open_console(), f"signed by {found.signed_by}: {folder}", f"sha256 of the manifest: {found.sha256}")


@bundle.command()
def verify(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    folder: Folder,
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    name: Annotated[str | None, typer.Option("--name", help="Refuse the bundle of another recipe.")] = None,
    min_revision: Annotated[int, typer.Option("--min-revision", min=0, help="Refuse earlier revisions.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Hold a bundle against its signature, and every file against the manifest; the first that differs is named.

    Example: avcompress bundle verify yolox.bundle --key keys/release.pem.pub
    """
    from dataclasses import replace

    from engines.bundle import verify_bundle

    context.obj.install()
    console = open_console()
    check_json(json_file, folder, ())
    found = verify_bundle(folder, replace(_trust(key, allow_unsigned), name=name, min_revision=min_revision))
    signed = f"signed by {found.signed_by}" if found.signed_by else "NOT signed by a key that was given"
    manifest = found.manifest
    _say(
        console,
        f"whole, {signed}: {manifest.name}, {manifest.backend}, revision {manifest.revision}",
        f"sha256 of the manifest: {found.sha256}",
    )
    _write(json_file, manifest)


@bundle.command()
def show(context: typer.Context, folder: Folder, json_file: JsonFile = None) -> None:
    """Show what a bundle's manifest says, without holding anything against it.

    Example: avcompress bundle show yolox.bundle
    """
    from engines.manifest import read_manifest

    context.obj.install()
    console = open_console()
    check_json(json_file, folder, ())
    manifest = read_manifest(folder, verify=False)
    _say(console, *_facts(folder, manifest))
    _write(json_file, manifest)


@bundle.command()
def rebuild(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    folder: Folder,
    out: NewFolder,
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    profiles: Profiles = None,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Verify a bundle, and build its engine for this machine, from the bundle's own network and settings.

    Exit code 1: a layer does not run as the network says, or the engine does not tell.

    Example: avcompress bundle rebuild yolox.bundle --key keys/release.pem.pub --out yolox.here.bundle
    """
    from avcompress.rebuilding import rebuild_bundle

    context.obj.install()
    console = open_console()
    check_json(json_file, out, ())
    trust = _trust(key, allow_unsigned)
    watch = open_watch(console, quiet)
    watch.begin(1)
    with watch.step(f"rebuild {folder.name}", reused=False) as track:
        found = rebuild_bundle(folder, trust, out, profiles=tuple(profiles or ()), track=track)
    _say(console, *(f"mismatch: {mismatch.message}" for mismatch in found.mismatches or ()))
    _say(console, f"rebuilt for this machine, not measured, not signed yet: {out}")
    _write(json_file, found.manifest)
    raise typer.Exit(Exit.NOT_MET if found.mismatches else Exit.MET)


@bundle.command()
def pack(context: typer.Context, folder: Folder, out: Annotated[Path, typer.Option("--out", help="New file.")]) -> None:
    """Write a bundle to one file, to carry it.

    Example: avcompress bundle pack yolox.bundle --out yolox.zip
    """
    from engines.bundle_pack import pack_bundle

    context.obj.install()
    pack_bundle(folder, out)
    _say(open_console(), f"packed: {out}")


@bundle.command()
def unpack(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File of `avcompress bundle pack`.")],
    out: NewFolder,
) -> None:
    """Write what a packed bundle holds into a folder; verify it next.

    Example: avcompress bundle unpack yolox.zip --out yolox.bundle
    """
    from engines.bundle_pack import unpack_bundle

    context.obj.install()
    manifest = unpack_bundle(file, out)
    _say(open_console(), f"bundle of {len(manifest.files)} files, signature not checked yet: {out}")


# --- what the commands share


def _trust(keys: list[Path] | None, allow_unsigned: bool) -> Trust:
    if not keys and not allow_unsigned:
        raise RecipeError("--key: expected a public key to verify by, got none; give the key of who signs your bundles")
    return bundle_trust(keys, allow_unsigned)


def _passphrase(path: Path | None, ask: bool, confirm: bool) -> bytes | None:
    """The passphrase in a file, or typed in where it is asked for; None where there is none."""
    if path is not None:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise RecipeError(f"--passphrase-file: expected a file, got {error.strerror}: {path}; mend it") from error
        return _refuse_empty(text.removesuffix(b"\n").removesuffix(b"\r"))
    if not ask:
        return None
    if not sys.stdin.isatty():
        raise RecipeError("passphrase: expected a terminal to ask at, got none; give --passphrase-file")
    typed: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return _refuse_empty(typed.encode())


def _refuse_empty(passphrase: bytes) -> bytes:
    if not passphrase or b"\n" in passphrase:
        got = "several" if passphrase else "none"
        raise RecipeError(f"passphrase: expected one line, got {got}; give one")
    return passphrase


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        # What a manifest says may be a stranger's, and hold what a terminal obeys.
        shown = "".join(letter if letter.isprintable() else "?" for letter in line)
        console.print(shown, soft_wrap=True, markup=False)


def _write(json_file: Path | None, manifest: Manifest) -> None:
    if json_file:
        write_json(json_file, manifest.model_dump(mode="json"))


def _facts(folder: Path, manifest: Manifest) -> list[str]:
    from engines.bundle import has_engine

    measured, calibration = manifest.measured, manifest.calibration
    signed = "yes, not checked here" if (folder / "manifest.sig").exists() else "no"
    size = sum(entry.size_bytes for entry in manifest.files.values())
    built = has_engine(manifest)
    yet = "" if built else f", yet to be built on {manifest.target}"
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    lines = [
        f"{manifest.name}, revision {manifest.revision}: {manifest.task.kind}, {len(manifest.classes)} classes",
        f"engine: {manifest.backend}{yet}, {versions}",
        f"{'built' if built else 'made'} on: {manifest.platform}{f', {manifest.gpu.name}' if manifest.gpu else ''}",
        f"files: {len(manifest.files)}, {size / 1e6:.1f} MB",
        f"signature: {signed}",
        f"calibrated on: {calibration.images} images, ranges {calibration.ranges}" if calibration else "not calibrated",
    ]
    if calibration:
        lines += [f"  of the drive {each.bag}: {len(each.stamps_ns)}, {each.topic}" for each in calibration.drives]
    if manifest.updated_from:
        lines.append(f"an update of the network with sha256 {manifest.updated_from}")
    if manifest.rebuilt_from:
        lines.append(f"rebuilt from the bundle whose manifest has sha256 {manifest.rebuilt_from}")
    if measured is None:
        return [*lines, "measured: nothing"]
    verdict = "met" if measured.passed else "NOT met"
    return [
        *lines,
        f"contract: {verdict}, {len(measured.contract)} checks, on {measured.machine.get('cpu', 'an unknown machine')}",
        *(
            f"  {line.name}: {'not measured' if line.measured is None else f'{line.measured:.4g}'} {line.unit}".rstrip()
            + f" ({line.sense} {line.limit:.4g})"
            for line in measured.contract
        ),
    ]
