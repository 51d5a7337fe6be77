"""Post-training quantization by this suite and by its peers, on the same material, in one run.

    python benchmarks/ptq_vs_peers.py --data-root DATA [--out OUT] [--recipe FILE]... [--only NAME]... [--repeats N]

The peers are ONNX Runtime's quantize_static, NVIDIA ModelOpt and NNCF, each in a virtual environment of its own that
this script makes under --work (1.5 GB for ModelOpt, which wants torch) and finds again at the next run. Everybody gets
the same float ONNX and the same calibration images in the same order, runs alone in a child process with 2 threads, and
is judged by the same code: accuracy by ONNX Runtime with graph optimizations off, TensorRT-RTX ahead of time for what
TensorRT accepts. Peers read images that are preprocessed already; ours and the FP32 pass decode theirs.

Writes table.md, results.json and plot.png into OUT; the quantized networks stay in WORK/RECIPE. Runs any recipe without
training: by default the two that are shipped.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peers.peer_environment import InstallError, peer_python
from peers.peer_rows import FLOAT, Comparison, Cost, Row, markdown
from peers.timed_child import Ended, run_child

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).resolve().parent / "peers"
RECIPES = (ROOT / "recipes" / "yolox_nano_coco.yaml", ROOT / "recipes" / "espnet_camvid.yaml")


@dataclass(frozen=True)
class Contestant:
    """One tool in one setting: run_TOOL.py with `setting`, in the environment of its peer; None: in this one."""

    name: str
    title: str
    script: str
    setting: str
    peer: str | None = None


CONTESTANTS = (
    Contestant(FLOAT, "FP32, one pass", "run_float.py", "-"),
    Contestant("ours-recipe", "ours, recipe", "run_ours.py", "recipe"),
    Contestant("ours-every-conv", "ours, every conv but predictions", "run_ours.py", "every-conv"),
    Contestant("onnxruntime-minmax", "ONNX Runtime, min-max", "run_onnxruntime.py", "minmax", "onnxruntime"),
    Contestant("onnxruntime-percentile", "ONNX Runtime, percentile", "run_onnxruntime.py", "percentile", "onnxruntime"),
    Contestant("onnxruntime-entropy", "ONNX Runtime, entropy", "run_onnxruntime.py", "entropy", "onnxruntime"),
    Contestant("modelopt-max", "ModelOpt 0.47, max", "run_modelopt.py", "max", "modelopt"),
    Contestant("modelopt-entropy", "ModelOpt 0.47, entropy", "run_modelopt.py", "entropy", "modelopt"),
    Contestant("nncf-performance", "NNCF 3.4, performance", "run_nncf.py", "performance", "nncf"),
    Contestant("nncf-mixed", "NNCF 3.4, mixed", "run_nncf.py", "mixed", "nncf"),
)


def main() -> None:
    arguments = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # children inherit it, whatever threads they ask for
    # The float network always runs: ratios and the plot stand on it.
    chosen = [c for c in CONTESTANTS if c.name == FLOAT or wanted(c.name, arguments.only)]
    pythons = install(chosen, arguments.work / "environments")
    comparisons = []
    for recipe in arguments.recipe or RECIPES:
        comparison = compare(recipe.resolve(), chosen, pythons, arguments)
        if comparison:
            comparisons.append(comparison)
            print(f"\n{markdown(comparison)}", flush=True)
            write(comparisons, arguments.out)  # after each: a run takes long, and may be stopped
    plot(comparisons, arguments.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(contestant.name for contestant in CONTESTANTS)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--out", type=Path, default=Path("out/ptq_vs_peers"), help="table, JSON and plot")
    parser.add_argument("--work", type=Path, help="environments, material, networks; default: OUT's neighbour OUT_work")
    parser.add_argument("--recipe", type=Path, action="append", help="repeatable; default: the two shipped ones")
    parser.add_argument("--only", action="append", help=f"repeatable; a name or its beginning, of: {names}")
    parser.add_argument("--repeats", type=int, default=1, help="quantize so many times; the median time counts")
    parser.add_argument("--timeout-s", type=float, default=1800, help="a child that takes longer is killed")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    if not all(any(wanted(c.name, [name]) for c in CONTESTANTS) for name in arguments.only or ()):
        parser.error(f"--only: expected the beginning of one of {names}")
    arguments.data_root, arguments.out = Path(arguments.data_root).resolve(), arguments.out.resolve()
    arguments.work = (arguments.work or arguments.out.with_name(f"{arguments.out.name}_work")).resolve()
    return arguments


def wanted(name: str, only: Sequence[str] | None) -> bool:
    return not only or any(name == part or name.startswith(f"{part}-") for part in only)


def install(chosen: Sequence[Contestant], work: Path) -> dict[str | None, Path | InstallError]:
    """The interpreter of every peer among the chosen, or why there is none."""
    pythons: dict[str | None, Path | InstallError] = {None: Path(sys.executable)}
    for peer in dict.fromkeys(contestant.peer for contestant in chosen if contestant.peer):
        print(f"environment of {peer} ...", flush=True)
        try:
            pythons[peer] = peer_python(peer, work)
        except InstallError as error:
            pythons[peer] = error
    return pythons


def compare(
    recipe: Path,
    chosen: Sequence[Contestant],
    pythons: dict[str | None, Path | InstallError],
    arguments: argparse.Namespace,
) -> Comparison | None:
    """Run everyone chosen on one recipe; None where the recipe itself cannot be read."""
    folder = arguments.work / recipe.stem
    folder.mkdir(parents=True, exist_ok=True)
    run = partial(run_child, timeout_s=arguments.timeout_s)
    given = (recipe, arguments.data_root, folder)
    prepared = run([sys.executable, SCRIPTS / "prepare_material.py", *given], folder / "prepare.log")
    if prepared.code:
        print(f"{recipe}: {prepared.last}", file=sys.stderr)
        return None
    material = json.loads((folder / "material.json").read_text())
    rows = []
    for contestant in chosen:
        print(f"{recipe.stem}: {contestant.title} ...", flush=True)
        rows.append(measure(contestant, pythons[contestant.peer], given, run, arguments.repeats))
    return Comparison(
        recipe=material["name"],
        images=material["images"],
        shape=tuple(material["input"]),
        metrics=tuple(material["metrics"]),
        layers=len(material["layers"]),
        rows=tuple(rows),
    )


def measure(
    contestant: Contestant,
    python: Path | InstallError,
    given: tuple[Path, Path, Path],
    run: Callable[..., Ended],
    repeats: int,
) -> Row:
    """Quantize in a child process, judge in another."""
    if isinstance(python, InstallError):
        return Row(contestant.name, contestant.title, failure=f"not installed: {python}")
    folder = given[2]
    network = folder / f"{contestant.name}.onnx"
    network.unlink(missing_ok=True)
    material = peer_material(folder, network) if contestant.peer else given
    command = [python, SCRIPTS / contestant.script, *material, contestant.setting, network]
    ends = [run(command, network.with_suffix(".log")) for _ in range(repeats)]
    failed = next((end for end in ends if end.code), None)
    if failed:
        return Row(contestant.name, contestant.title, failure=f"exit code {failed.code}: {failed.last}")
    judged = judge(folder / "float.onnx" if contestant.name == FLOAT else network, network, given, run)
    return Row(contestant.name, contestant.title, cost_of(ends, network), judged)


def peer_material(folder: Path, network: Path) -> tuple[Path, Path]:
    """The float network and the images for a peer's script; the network is a copy, since ModelOpt writes to it."""
    own = network.with_suffix(".float.onnx")
    shutil.copyfile(folder / "float.onnx", own)
    return own, folder / "calibration"


def cost_of(ends: Sequence[Ended], network: Path) -> Cost:
    """The run of median wall time."""
    middle = statistics.median_low([end.seconds for end in ends])
    end = next(end for end in ends if end.seconds == middle)
    imports = json.loads(network.with_suffix(".imports.json").read_text())
    return Cost(end.seconds, end.cpu_seconds, end.peak_mb, imports["import_s"])


def judge(network: Path, beside: Path, given: tuple[Path, Path, Path], run: Callable[..., Ended]) -> dict[str, Any]:
    found = beside.with_suffix(".judged.json")
    found.unlink(missing_ok=True)
    ended = run(
        [sys.executable, SCRIPTS / "judge_network.py", *given, network, found], beside.with_suffix(".judge.log")
    )
    if ended.code:
        return {"accuracy_error": f"exit code {ended.code}: {ended.last}"}
    judged: dict[str, Any] = json.loads(found.read_text())
    return judged


def write(comparisons: Sequence[Comparison], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join(markdown(comparison) for comparison in comparisons))
    (out / "results.json").write_text(json.dumps([asdict(comparison) for comparison in comparisons], indent=1) + "\n")


def plot(comparisons: Sequence[Comparison], out: Path) -> None:
    from peers.peer_figure import draw  # matplotlib last: what a child's peak starts at is this process

    drawn = [out / "plot.png"] if draw(comparisons, out / "plot.png") else []
    print(*(path for path in (out / "table.md", out / "results.json", *drawn) if path.exists()), sep="\n")


if __name__ == "__main__":
    main()
