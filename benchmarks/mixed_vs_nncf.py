"""Mixed precision chosen by this suite and by NNCF's accuracy control: the same floor, the same images, one run.

    python benchmarks/mixed_vs_nncf.py --data-root DATA [--out OUT] [--recipe FILE] [--arms ours,nncf]

Both get the float network of the recipe, its calibration images, and its selection images with the same metric and the
same floor: `mixed.max_drop_relative`, by the metric alone. What they make is judged on the recipe's validation images,
which neither has seen, and timed on OpenVINO in turns with the float network: one thread, time of the processor. NNCF
runs in a virtual environment of its own, which is made once; it works on OpenVINO's networks, with weights of half of
INT8's range, as CPUs without VNNI need them. It goes back from all of it in INT8, one network after the other, which
takes hours: `--spare GroupConvolution` tells it beforehand what our search has to find, and `--subset` lets it rank
layers by fewer images.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import yaml

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"
sys.path[:0] = [str(ROOT)]

from peers.peer_environment import peer_python  # noqa: E402

from avcompress.judging.measuring import accuracy  # noqa: E402
from avcompress.recipe import OpenVinoEngine, Ptq, Recipe  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.recipe_mixed import Mixed  # noqa: E402
from avcompress.search.chosen import Chosen  # noqa: E402
from avcompress.trial import Trial, trial_of  # noqa: E402
from calibration.preprocess import preprocess  # noqa: E402
from calibration.sample import Source  # noqa: E402
from calibration.source import open_source  # noqa: E402
from engines.build import open_engine  # noqa: E402
from engines.onnx_load import load_onnx  # noqa: E402
from engines.turns import ENGINE, Turns, built, engines_ms, random_inputs  # noqa: E402
from validation.truth import read_truth  # noqa: E402

ASK = "judge "
"""What the peer's script begins a question with."""
TURNS = Turns(seconds=8.0)
FLOAT = "float"
TRIES = 16
"""Networks that our search may measure; NNCF has no end to it."""


def main() -> None:
    """Print one line for each network: quantized MACs, the metric on both sets of images, milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--out", type=Path, default=Path("out/mixed_vs_nncf"))
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "yolox_nano_mixed_cpu.yaml")
    parser.add_argument("--subset", type=int, help="images that rank NNCF's layers; default: as the recipe's `images`")
    parser.add_argument(
        "--spare", default="-", help="what NNCF leaves float from the start: kinds and names of operators"
    )
    parser.add_argument("--networks", type=int, default=sys.maxsize, help="that NNCF may try; default: no end")
    parser.add_argument("--arms", default="ours,nncf", help="which are made anew; others are taken from OUT, if there")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    bench = Bench(load_recipe(arguments.recipe), arguments.recipe, Path(arguments.data_root).resolve(), arguments.out)
    arguments.out.mkdir(parents=True, exist_ok=True)
    arms = arguments.arms.split(",")
    seconds = {}
    make_nncf = partial(bench.make_nncf, arguments.subset or bench.mixed.images, arguments.spare, arguments.networks)
    for name, make in (("ours", bench.make_ours), ("nncf", make_nncf)):
        if name in arms:
            start = time.monotonic()
            make()
            seconds[name] = time.monotonic() - start
    places = bench.places()
    taken = engines_ms(list(places.values()), bench.engine, [random_inputs(bench.network)] * len(places), TURNS)
    metric = bench.mixed.metric or ""
    print(f"| | {metric}, images that chose | {metric}, others | ms | times as fast | s to make |")
    print("|---|---|---|---|---|---|")
    for (name, place), ms in zip(places.items(), taken, strict=True):
        chose, others = (bench.score(place, source) for source in (bench.selection, bench.validation))
        spent = f"{seconds[name]:.0f}" if name in seconds else ""
        print(f"| {name} | {chose:.4f} | {others:.4f} | {ms:.2f} | {taken[0] / ms:.3f} | {spent} |", flush=True)
    print(f"\nours: {100 * bench.chosen.share:.1f} % of the MACs in INT8\n" + "\n".join(bench.chosen.lines))


@dataclass(frozen=True)
class Bench:
    """What both get."""

    recipe: Recipe
    path: Path
    data_root: Path
    out: Path

    @property
    def mixed(self) -> Mixed:
        """Of the recipe's `ptq`."""
        found = next(stage.mixed for stage in self.recipe.stages if isinstance(stage, Ptq))
        if found is None or found.metric is None:
            raise SystemExit(f"{self.path}: expected a `ptq` with mixed and a metric, got none")
        return found

    @property
    def engine(self) -> OpenVinoEngine:
        """One thread: the processor's time then counts."""
        return OpenVinoEngine(backend="openvino", threads=1)

    @property
    def network(self) -> onnx.ModelProto:
        """The float one."""
        return load_onnx((self.data_root / self.recipe.model.onnx).resolve(), self.recipe.preprocess.size)

    @property
    def selection(self) -> Source:
        """Labelled images that both choose by."""
        return open_source(self.recipe.data.selection, self.data_root, self.recipe.classes)

    @property
    def validation(self) -> Source:
        """Labelled images that neither sees."""
        return open_source(self.recipe.data.validation, self.data_root, self.recipe.classes)

    @property
    def chosen(self) -> Chosen:
        """What our run has chosen."""
        (file,) = (self.out / "ours" / "state").glob("*-choose/chosen.json")
        return Chosen.model_validate_json(file.read_bytes())

    def make_ours(self) -> None:
        """Run the recipe, held to the metric alone, as NNCF is; whether its contract holds is not asked here."""
        recipe = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        mixed = next(stage["mixed"] for stage in recipe["stages"] if "mixed" in stage)
        mixed |= {"held_by": "metric", "tries": TRIES}
        (self.out / "ours.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        run = [sys.executable, "-m", "avcompress", "run", self.out / "ours.yaml", "--data-root", self.data_root]
        shutil.rmtree(self.out / "ours", ignore_errors=True)
        ended = subprocess.run([*run, "--out", self.out / "ours"], cwd=ROOT, check=False)
        if ended.returncode not in (0, 1):
            raise SystemExit(f"ours: exit code {ended.returncode}")

    def make_nncf(self, subset: int, spared: str, networks: int) -> None:
        """Let NNCF quantize, and tell it the metric of whatever it asks about."""
        python = peer_python("nncf-openvino", self.out / "environments")
        onnx.save(self.network, self.out / "float.onnx")
        calibration = open_source(self.recipe.data.calibration, self.data_root, self.recipe.classes)
        folders = [
            self._write(source, name) for source, name in ((calibration, "calibration"), (self.selection, "judged"))
        ]
        settings = [str(self.mixed.max_drop_relative), str(subset), spared, str(networks)]
        script = [python, PEERS / "run_nncf_accuracy.py", self.out / "float.onnx", *folders, *settings]
        (self.out / "nncf").mkdir(exist_ok=True)
        judge = Answers(self.trial(self.selection))
        with (
            (self.out / "nncf.log").open("w") as log,
            subprocess.Popen(
                [str(part) for part in (*script, self.out / "nncf" / "model.xml")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as peer,
        ):
            for line in peer.stdout or ():
                log.write(line)
                if line.startswith(ASK) and peer.stdin is not None:
                    metric = judge(Path(line.removeprefix(ASK).strip()), self.mixed.metric or "")
                    if metric:
                        print(f"nncf: asked, {metric:.5f}", flush=True)
                    peer.stdin.write(f"{metric!r}\n")
                    peer.stdin.flush()
        if peer.returncode:
            raise SystemExit(f"nncf: exit code {peer.returncode}; see {self.out / 'nncf.log'}")

    def _write(self, source: Source, name: str) -> Path:
        folder = self.out / name
        folder.mkdir(exist_ok=True)
        for number, sample in enumerate(source):
            np.save(folder / f"{number:05d}.npy", preprocess(sample.image, self.recipe.preprocess)[0])
        return folder

    def places(self) -> Mapping[str, Path]:
        """Folders of OpenVINO's networks: the float one, ours, NNCF's."""
        shutil.rmtree(self.out / "timed", ignore_errors=True)
        (self.out / "timed").mkdir()
        found = {FLOAT: built(self.network, self.out / "timed" / FLOAT, self.engine) / ENGINE}
        if (self.out / "ours" / "model.onnx").exists():
            ours = onnx.load(self.out / "ours" / "model.onnx")
            found["ours"] = built(ours, self.out / "timed" / "ours", self.engine) / ENGINE
        if (self.out / "nncf" / "model.xml").exists():
            found["nncf"] = self.out / "nncf"
        return found

    def trial(self, source: Source) -> Trial:
        """What images and labels say of a network."""
        return trial_of(self.recipe, self.recipe.classes or source.classes, source)

    def score(self, place: Path, source: Source) -> float:
        """The metric on OpenVINO."""
        with open_engine(place, self.engine) as session:
            return accuracy(self.trial(source), session, source, read_truth(source))[self.mixed.metric or ""]


class Answers:
    """Judges answers that lie in a file, in the order of a trial's images."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.truth = trial, read_truth(trial.source)

    def __call__(self, path: Path, metric: str) -> float:
        """The metric of them; 0 of a part, by which NNCF only learns what form it has."""
        answers = np.load(path)
        if len(answers) < len(self.trial.source):
            return 0.0
        return accuracy(self.trial, _Given(answers, self.trial), self.trial.source, self.truth)[metric]


class _Given:
    """A session that has its answers already."""

    outputs = ("output",)

    def __init__(self, answers: np.ndarray, trial: Trial) -> None:
        self.inputs = {"images": (1, 3, *trial.preprocess.size)}
        self._answers = iter(answers)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:  # noqa: ARG002
        """The next one."""
        return {"output": next(self._answers)[None]}


if __name__ == "__main__":
    main()
