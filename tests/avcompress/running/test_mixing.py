"""`ptq` with `mixed`: what is chosen, what it is held to, and what cannot be kept, in one line."""

import json
import math
import shutil

import onnx
import pytest

from avcompress.running import mixing
from avcompress.running.judge import Judge
from avcompress.search.chosen import Chosen
from avcompress.search.pool import Processes
from avcompress.search.sensitivity.measure import measure_sensitivity
from avcompress.search.verify import Outcome

CONTRACT = {"accuracy": [{"metric": "mIoU", "min": 0.0}]}
ORT = {"target": {"engines": [{"backend": "ort"}]}}


def run(cli, tmp_path, job, mixed, *flags, **changes):
    stages = [{"kind": "ptq", "mixed": {"times": "macs", "images": 4, **mixed}}, {"kind": "correct_bias", "images": 4}]
    recipe = {**job, **ORT, "contract": CONTRACT, "stages": stages, **changes}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    code, out, complaint = cli("run", "recipe.yaml", "--out", "out", *flags)
    return code, " ".join((out + complaint).split())


def chosen(tmp_path):
    return Chosen.model_validate_json((tmp_path / "out" / "state" / "0-choose" / "chosen.json").read_bytes())


def quantized_layers(tmp_path):
    model = onnx.load(tmp_path / "out" / "model.onnx")
    made = {output: node for node in model.graph.node for output in node.output}
    weighted = [node for node in model.graph.node if node.op_type == "Conv"]
    return {node.name for node in weighted if node.input[1] in made}, {node.name for node in weighted}


def test_a_share_is_quantized_and_the_layers_that_lose_most_stay_float(cli, tmp_path, job):
    code, said = run(cli, tmp_path, job, {"min_macs": 0.6})

    assert code == 0, said
    found = chosen(tmp_path)
    assert 0.6 <= found.share < 1
    assert found.proven
    quantized, every = quantized_layers(tmp_path)
    assert quantized
    assert every - quantized == set(found.float_layers)
    assert "of the MACs quantized, chosen among" in json.dumps(
        json.loads((tmp_path / "out" / "report.json").read_text())
    )


def test_the_choice_is_a_step_that_a_resumed_run_takes_over(cli, tmp_path, job):
    run(cli, tmp_path, job, {"min_macs": 0.6})
    before = chosen(tmp_path)

    code, said = run(cli, tmp_path, job, {"min_macs": 0.6}, "--resume")

    assert code == 0
    assert "choose precisions (fisher, program): kept from the last run" in said
    assert chosen(tmp_path) == before


@pytest.fixture
def judged(monkeypatch):
    """A metric that falls by a hundredth for each quantized convolution, and a movement that says the same.

    On this machine INT8 is slower than float, as on a CPU that has to compute it in float.
    """

    def beside(self, before, made):
        convolutions = sum(layer.precision == "int8" for layer in made.layers)
        return Outcome(0.01 * convolutions, 10.0 + convolutions, float(convolutions))

    monkeypatch.setattr(Judge, "beside", beside)


@pytest.mark.usefixtures("judged")
def test_the_fastest_choice_that_keeps_the_floor_is_taken(cli, tmp_path, job):
    code, said = run(cli, tmp_path, job, {"metric": "mIoU", "max_drop_relative": 1.0})

    assert code == 0, said
    found = chosen(tmp_path)
    assert found.kept
    assert found.tried
    assert found.share == max(each.share for each in found.tried if each.kept)
    assert found.price == pytest.approx(0.01)


@pytest.mark.parametrize(("held_by", "kept"), [("movement", False), ("metric", True)])
def test_a_metric_that_chance_has_kept_counts_where_the_recipe_says_so(cli, tmp_path, job, monkeypatch, held_by, kept):
    def beside(self, before, made):
        convolutions = sum(layer.precision == "int8" for layer in made.layers)
        # All of it loses a tenth for each, but for one network that happens to lose nothing.
        return Outcome(0.0 if convolutions == 3 else 0.1 * convolutions, 10.0 - convolutions, float(convolutions))

    monkeypatch.setattr(Judge, "beside", beside)
    run(cli, tmp_path, job, {"metric": "mIoU", "max_drop_relative": 0.05, "held_by": held_by})

    found = chosen(tmp_path)
    assert any(each.share == 1.0 and each.drop == 0.0 for each in found.tried)
    assert (found.share == 1.0) == kept


@pytest.mark.usefixtures("judged")
def test_a_floor_that_no_choice_keeps_is_told_and_the_nearest_is_taken(cli, tmp_path, job):
    code, _ = run(cli, tmp_path, job, {"metric": "mIoU", "max_drop_relative": 0.0, "min_macs": 0.6})

    found = chosen(tmp_path)
    assert not found.kept
    assert "none of" in found.lines[-1]
    assert "allow more tries" in found.lines[-1]
    assert code == 0  # the contract of this recipe is kept all the same


@pytest.mark.parametrize(
    ("mixed", "complaint"),
    [
        ({}, "expected metric, min_macs or speedup, got none"),
        ({"metric": "mIoU", "times": "measured", "speedup": 2}, "got both"),
        ({"speedup": 1.5}, "expected measured times with speedup"),
        ({"min_macs": 0.5, "sensitivity": "metric"}, "expected a metric for sensitivity: metric, got none"),
        ({"metric": "mIOU"}, "metrics, got 'mIOU'; the nearest are mIoU"),
        ({"min_macs": 0.5, "backend": "openvino"}, "stages[0].mixed.backend: expected openvino among target.engines"),
        ({"min_macs": 0.5, "times_file": "none.json"}, "stages[0].mixed.times_file: expected a file, got nothing"),
    ],
)
def test_what_cannot_be_chosen_by_is_one_line_before_any_work(cli, tmp_path, job, mixed, complaint):
    code, said = run(cli, tmp_path, job, mixed)

    assert code == 2
    assert complaint in said
    assert not (tmp_path / "out" / "state").exists()


def test_layers_are_named_or_chosen_but_not_both(cli, tmp_path, job):
    stage = {"kind": "ptq", "mixed": {"min_macs": 0.5, "times": "macs"}, "keep_float": {"head": True}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**job, "stages": [stage]}))

    code, _, complaint = cli("run", "recipe.yaml", "--out", "out")

    assert code == 2
    assert "expected keep_float or mixed, got both" in " ".join(complaint.split())


def test_selection_images_choose_and_validation_images_judge(cli, tmp_path, job):
    data = {**job["data"], "selection": {**job["data"]["validation"], "limit": 1}}

    code, said = run(cli, tmp_path, job, {"metric": "mIoU", "max_drop_relative": 1.0, "tries": 2}, data=data)

    assert code == 0, said
    assert chosen(tmp_path).kept


def test_by_evolution_every_network_is_measured(cli, tmp_path, job):
    pytest.importorskip("optuna", reason="optuna is not installed")

    code, said = run(cli, tmp_path, job, {"min_macs": 0.6, "method": "evolution", "generations": 1})

    assert code == 0, said
    found = chosen(tmp_path)
    assert 0.6 <= found.share <= 1
    assert not found.proven


def test_other_times_of_the_target_in_the_same_file_are_another_choice(cli, tmp_path, job):
    code, out, _ = cli("profile", "net.onnx", "--out", "times.json", "--backend", "ort", "--seconds", "0.1")
    assert code == 0, out
    goal = {"min_macs": 0.6, "times_file": "times.json"}
    run(cli, tmp_path, job, goal)
    table = json.loads((tmp_path / "times.json").read_text())
    table["machine"] = "another one"
    (tmp_path / "times.json").write_text(json.dumps(table))

    run(cli, tmp_path, job, goal, "--resume")

    assert "another one" in chosen(tmp_path).times


@pytest.mark.parametrize(
    "more", [{"sensitivity": "metric", "metric": "mIoU", "max_drop_relative": 1.0}, {"workers": 2}]
)
def test_sensitivity_by_the_metric_itself_and_by_several_processes(cli, tmp_path, job, more):
    code, said = run(cli, tmp_path, job, {"min_macs": 0.6, "sensitivity": "output", "tries": 1, **more})

    assert code == 0, said
    assert chosen(tmp_path).share >= 0.6


def test_several_processes_measure_the_metric_to_the_same_numbers(cli, tmp_path, job, monkeypatch):
    asked: list[int] = []
    results = Processes.results

    def counted(self, work, tasks):
        asked.append(len(tasks))
        return results(self, work, tasks)

    monkeypatch.setattr(Processes, "results", counted)
    mixed = {"min_macs": 0.6, "sensitivity": "metric", "metric": "mIoU", "max_drop_relative": 1.0, "tries": 1}
    made = []
    for workers in (1, 2):
        code, said = run(cli, tmp_path, job, mixed | {"workers": workers})
        assert code == 0, said
        made.append(chosen(tmp_path))

    assert sum(asked) > 1
    assert made[0].loss == made[1].loss
    assert made[0].float_layers == made[1].float_layers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_what_layers_lose_is_measured_on_a_cluster_as_it_is_here(cli, tmp_path, job):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    mixed = {"min_macs": 0.6, "sensitivity": "output"}
    run(cli, tmp_path, job, mixed)
    here = chosen(tmp_path)
    shutil.rmtree(tmp_path / "out")
    code, said = run(cli, tmp_path, job, mixed, "--ray", "local")

    assert code == 0, said
    assert chosen(tmp_path) == here


def test_a_cluster_without_work_for_it_is_refused(cli, tmp_path, job):
    code, said = run(cli, tmp_path, job, {"metric": "mIoU", "sensitivity": "metric"}, "--ray", "local")

    assert code == 2
    assert "--ray: expected a recipe with `ptq` and mixed, whose sensitivity is no metric" in said


CAST = {"kind": "cast", "format": "fp16"}


def run_stages(cli, tmp_path, job, mixed, *after, **changes):
    stages = [{"kind": "ptq", "mixed": {"images": 4, **mixed}}, *after]
    (tmp_path / "recipe.yaml").write_text(json.dumps({**job, **ORT, "contract": CONTRACT, "stages": stages, **changes}))
    code, out, complaint = cli("run", "recipe.yaml", "--out", "out")
    return code, " ".join((out + complaint).split())


def precisions(tmp_path):
    layers = json.loads((tmp_path / "out" / "report.json").read_text())["layers"]
    return {layer["name"]: layer["precision"] for layer in layers}


def test_beside_int8_a_cast_is_chosen_for_and_what_loses_most_stays_fp32(cli, tmp_path, job):
    mixed = {"times": "roofline", "machine": "orin-agx", "speedup": 1.5, "min_macs": 0.1}
    code, said = run_stages(cli, tmp_path, job, mixed, {"kind": "correct_bias", "images": 4}, CAST)

    assert code == 0, said
    found, layers = chosen(tmp_path), precisions(tmp_path)
    assert found.format == "int8"
    assert "estimated for orin-agx" in found.times
    assert {name for name, each in layers.items() if each == "float"} == set(found.fp32_layers)
    assert {name for name, each in layers.items() if each != "int8"} == set(found.float_layers)
    assert set(layers.values()) >= {"int8", "fp16"}


def test_a_cast_without_a_need_for_speed_keeps_every_layer_in_fp32(cli, tmp_path, job):
    code, said = run_stages(cli, tmp_path, job, {"times": "macs", "min_macs": 0.3}, CAST)

    assert code == 0, said
    assert "fp16" not in precisions(tmp_path).values()


@pytest.mark.parametrize(
    ("formats", "expected"), [(["fp8"], "fp8"), (["int8", "fp8"], "int8"), (["int8 weights"], "int8 weights")]
)
def test_of_several_formats_the_network_gets_the_one_that_loses_less(cli, tmp_path, job, formats, expected):
    # INT8 has three bits more for values of one size than FP8; weights alone lose nothing of activations.
    goal = {"speedup": 1.05, "times_file": "times.json"} if expected == "int8 weights" else {"min_macs": 0.6}
    if "times_file" in goal:
        profile = ["profile", "net.onnx", "--out", "times.json", "--backend", "ort", "--precision", "int8 weights"]
        assert cli(*profile, "--seconds", "0.1")[0] == 0
        table = json.loads((tmp_path / "times.json").read_text())
        for own in table["layers_ms"].values():
            own |= {"fp32": 1.0, "int8 weights": 0.5}
        (tmp_path / "times.json").write_text(json.dumps({**table, "others_ms": 0.0, "conversions": FREE}))
    code, said = run_stages(cli, tmp_path, job, {"times": "macs", "formats": formats, **goal})

    assert code == 0, said
    assert chosen(tmp_path).format == expected
    assert set(precisions(tmp_path).values()) - {"float"} == {expected}


FREE = [
    {"of": of, "to": to, "call_ms": 0.0, "million_ms": 0.0}
    for of, to in (("fp32", "int8 weights"), ("int8 weights", "fp32"))
]


def test_what_overflows_in_16_bits_is_no_choice(cli, tmp_path, job, monkeypatch):
    def measured(*given):
        found = measure_sensitivity(*given)
        for own in found.losses.values():
            if "fp16" in own:
                own["fp16"] = math.nan
        return found

    monkeypatch.setattr(mixing, "measure_sensitivity", measured)
    mixed = {"times": "roofline", "machine": "orin-agx", "speedup": 1.2}
    code, said = run_stages(cli, tmp_path, job, mixed, CAST)

    assert code == 0, said
    assert "fp16" not in precisions(tmp_path).values()


@pytest.mark.usefixtures("judged")
def test_what_is_tried_goes_through_the_cast_too(cli, tmp_path, job, monkeypatch):
    seen = []

    def beside(self, before, made):
        seen.append({layer.precision for layer in made.layers})
        return Outcome(0.0, float(sum(layer.precision == "float" for layer in made.layers)), 1.0)

    monkeypatch.setattr(Judge, "beside", beside)
    mixed = {"times": "roofline", "machine": "orin-agx", "metric": "mIoU", "max_drop_relative": 1.0}
    code, said = run_stages(cli, tmp_path, job, mixed, CAST)

    assert code == 0, said
    assert any("fp16" in precisions for precisions in seen) or all(precisions == {"int8"} for precisions in seen)
    assert set(precisions(tmp_path).values()) in seen


@pytest.mark.parametrize(
    ("mixed", "after", "changes", "complaint"),
    [
        (
            {"times": "roofline", "machine": "orin-agx", "formats": ["fp8"], "speedup": 2},
            (),
            {},
            "stages[0].mixed.machine: expected one whose rate in fp8 is known, of orin-agx@jetpack-7.2.2 it is in",
        ),
        (
            {"times": "roofline", "machine": "orin-agz", "speedup": 2},
            (),
            {},
            "stages[0].mixed.machine: target: expected a name or a YAML file, got 'orin-agz'",
        ),
        (
            {"times": "roofline", "machine": "orin-nano", "speedup": 2},
            (),
            {},
            "stages[0].mixed.machine: expected one whose rate in fp32 is known, of orin-nano",
        ),
        (
            {"times": "macs", "min_macs": 0.3, "formats": ["int8 weights"]},
            (),
            {},
            "expected times and no min_macs for int8 weights, which compute in float, got macs to count",
        ),
        ({"times": "roofline", "speedup": 2}, (), {}, "expected times: roofline and machine, got one of them"),
        (
            {"times": "measured", "speedup": 2, "formats": ["int8", "int8 weights"]},
            ({"kind": "correct_bias", "images": 4},),
            {},
            "stages[0].mixed.formats: expected int8 or fp8 before `correct_bias`, got int8 weights",
        ),
        (
            {"times": "macs", "min_macs": 0.5, "formats": ["int8", "fp8"]},
            (),
            {"target": {"engines": [{"backend": "ort"}, {"backend": "trt", "target": "orin-agx", "required": False}]}},
            "stages[0].mixed.formats: expected GPUs from sm89 on, sm87 has no FP8",
        ),
    ],
)
def test_what_no_stage_or_machine_takes_is_one_line_before_any_work(
    cli, tmp_path, job, mixed, after, changes, complaint
):
    code, said = run_stages(cli, tmp_path, job, mixed, *after, **changes)

    assert (code, complaint in said) == (2, True), said
    assert not (tmp_path / "out" / "state").exists()
