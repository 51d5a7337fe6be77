"""What TensorRT refuses, changes without a word, or answers with None or -1: each ends in our error, finding or repair.

One line a case, provoked for real on TensorRT-RTX, ahead of time. A network goes through `avcompress build` three
times: as it is, where lint stops what would be refused or changed; with --as-is, where the builder itself answers; and
after lint's repair.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from avcompress.building import BuildJob, run_build
from avcompress.spec import EngineBuildError, EngineError, MissingError, QuantParams
from engines.dialects import DialectSettings, express
from engines.lint import fix, lint
from engines.onnx_graph import infer_shapes, name_nodes
from engines.precision import cast_network
from engines.qdq import insert_qdq
from engines.tensorrt.build import build_tensorrt
from engines.tensorrt.configure import RefusedError
from engines.tensorrt.load import Loaded
from engines.tensorrt.optimization import parse_profile
from engines.tensorrt.session import TrtSettings, open_trt
from engines.tensorrt.settings import BuildSettings
from engines.tensorrt.worker import compile_network

pytestmark = pytest.mark.rtx
TARGET = "tensorrt-rtx"
LINT = Path(__file__).parents[1] / "lint"
INT8, FP32, HALF = {"c1": "int8"}, {"c1": "fp32"}, {"c1": "fp16", "c2": "fp16"}
BOTH = {"c1": "int8", "c2": "int8"}


def load(path):
    """A module of the tests of lint, whose networks are these."""
    spec = importlib.util.spec_from_file_location(f"lint_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Net = load(LINT / "conftest.py").Net
cases = load(LINT / "test_check.py")


@dataclass(frozen=True)
class Fact:
    """A network, and what becomes of it.

    Attributes:
        make: the network, from Net and the fixture two_convs.
        refused: where the builder refuses it, and words of the error: TensorRT's own, and what to do.
        runs: what its layers run in, where it is built.
        rule: what lint says: rule and severity.
        repaired: what its layers run in after the repair; None: lint repairs nothing here.
        options: of the build.
    """

    make: Callable
    refused: tuple[str, ...] = ()
    runs: Mapping[str, str] = field(default_factory=dict)
    rule: tuple[str, str] | None = None
    repaired: Mapping[str, str] | None = None
    options: Mapping = field(default_factory=dict)


def known(case, *refused, **more):
    """A fact about a network that lint has a case for."""
    rule, severity, make, outcome = cases.CASES[case]
    runs = outcome if isinstance(outcome, dict) and not refused else {}
    return Fact(lambda net, _: make(net), refused, runs, (rule, severity), **more)


def plain(make, runs, **more):
    return Fact(lambda net, _: make(net), runs=runs, **more)


def typed(kind):
    return lambda _, convs: cast_network(infer_shapes(convs), kind, {})[0]


def mixed_with(kind):
    """INT8 layers, everything else in another type."""

    def make(_, convs):
        settings = DialectSettings(dialect="strong", float_type=kind, newest_opset=23)
        return express(quantized(convs), settings).model

    return make


def quantized(convs, opset=17):
    params = QuantParams((0.05,), (0,), "int8")
    weights = {name: QuantParams((0.01,) * 32, (0,) * 32, "int8", axis=0) for name in ("w1", "w2")}
    edges = [("c1", 0), ("c1", 1), ("c2", 0), ("c2", 1)]
    model = onnx.ModelProto.FromString(convs.SerializeToString())
    model.opset_import[0].version = opset  # these operators are the same in all of them
    return infer_shapes(insert_qdq(model, edges, {"x": params, "ar": params, **weights}))


def at_opset(number):
    return lambda _, convs: quantized(convs, number)


def weights_quantized_in_the_graph(net):
    n = net()
    weight = n.floats(32, 16, 3, 3)
    grid = [n.constant(np.full(32, 0.01, np.float32)), n.constant(np.zeros(32, np.int8))]
    made = n.op("DequantizeLinear", n.op("QuantizeLinear", weight, *grid, axis=0), *grid, axis=0)
    return n.model(n.conv("x", weight=made))


def fp8(_, convs):
    params = QuantParams((0.01,), (0,), "float8e4m3fn")
    return insert_qdq(convs, [("c1", 0), ("c1", 1)], {"x": params, "w1": params})


def deform_conv(net, _):
    n = net(opset=19)
    return n.model(n.op("DeformConv", "x", n.floats(8, 16, 3, 3), n.constant(np.zeros((1, 18, 14, 14), np.float32))))


def weight_infinite(net):
    n = net()
    return n.model(n.op("Conv", "x", n.constant(np.full((32, 16, 3, 3), np.inf, np.float32)), name="c1"))


def quantized_by_onnxruntime(**options):
    """What its own tool makes of two convolutions."""

    class Noise(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": np.random.default_rng(0).normal(0, 1, (1, 16, 16, 16)).astype(np.float32)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    def make(_, convs, folder):
        onnx.save(convs, folder / "float.onnx")
        quantize_static(folder / "float.onnx", folder / "quantized.onnx", Noise(), QuantFormat.QDQ, **options)
        return name_nodes(onnx.load(folder / "quantized.onnx"))

    return make


SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
ORT_SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True}
NO_ZERO_POINT = "Non-zero zero point is not supported"
NOT_UINT8 = ("parse", "got uint8, which TensorRT takes for int8", "quantize symmetrically to int8")

FACTS = {
    # Precision
    "FP32": Fact(lambda _, convs: convs, runs={"c1": "fp32", "c2": "fp32"}),
    "FP16": Fact(typed("fp16"), runs=HALF),
    "BF16": Fact(typed("bf16"), runs={"c1": "bf16", "c2": "bf16"}),
    "BF16 for SM75": Fact(typed("bf16"), ("build", "Cannot compile for target(s) sm75", "leave out the compute cap"),
                          options={"compute_capabilities": ("sm75", "sm89")}),
    "INT8 for SM75, not said on any page": Fact(
        at_opset(17), runs={"c1": "fp32", "c2": "fp32"}, options={"compute_capabilities": ("sm75", "sm86")}),
    "INT8, opset 13": Fact(at_opset(13), runs=BOTH),
    "INT8, opset 23": Fact(at_opset(23), runs=BOTH),
    "INT8, one scale for a weight": plain(cases.CLEAN["tensor-wise weight"], INT8),
    "INT8, weights quantized in the graph": plain(weights_quantized_in_the_graph, INT8),
    "INT8 and FP16": Fact(mixed_with("fp16"), runs=BOTH),
    "INT8 and BF16": Fact(mixed_with("bf16"), runs=BOTH),
    "INT8 and FP16 scales at opset 17, no ONNX": known("half scale, opset 17"),
    "FP8 for SM89": Fact(fp8, runs={"c1": "fp8", "c2": "fp32"}, rule=("fp8", "note"),
                         options={"compute_capabilities": ("sm89", "sm120")}),
    "FP8 for SM86": known("fp8", "build", "Cannot compile for target(s) sm86", "leave out the compute capabilities"),
    "asymmetric activation": known("zero point", "parse", NO_ZERO_POINT, "quantize symmetrically", repaired=INT8),
    "asymmetric weight": known("zero point of a weight", "parse", NO_ZERO_POINT, "quantize symmetr", repaired=INT8),
    "uint8 activation": known("uint8", *NOT_UINT8, repaired=INT8),
    "no zero point": known("no zero point", *NOT_UINT8, repaired=INT8),
    "uint8 weight": known("uint8 weight", "parse", "unsupported input type of UINT8", "quantize to int8",
                          repaired=INT8),
    "int16": known("int16", "parse", "Found unsupported datatype (5) when importing initializer", "quantize to int8"),
    "uint16": known("uint16", "parse", "Found unsupported datatype (4) when importing", "quantize to int8"),
    "INT32 bias": known("int32 bias", "parse", "input has type Int32 but must have type", "leave biases in float",
                        repaired=INT8),
    "activation per channel": known("per channel"),
    "activation per channel, a list of one": known("scale in a list", repaired=INT8),
    "weight only": known("weight only"),
    "scale 0": known("scale 0", "parse", "Scale coefficients must all be positive", "every scale must be above zero"),
    "scale negative": known("scale -1", "parse", "Scale coefficients must all be positive", "calibrate again"),
    "scale NaN": known("scale NaN", "parse", "Scale coefficients must all be positive", "calibrate again"),
    "scales too few": known("scales too few", "parse", "number of scales is not equal to", "give one scale, or one"),
    "FP32 and FP16 in one operator": known("float16 and float", "parse", "must have same input types", "cast both"),
    "DOUBLE": known("double"),
    "NaN weights": known("NaN"),
    "infinite weights": plain(weight_infinite, FP32, rule=("not_finite", "changed")),
    # Operators
    "ConvTranspose": known("transposed", repaired=FP32),
    "AveragePool": known("behind AveragePool"),
    "depthwise": known("depthwise"),
    "NonMaxSuppression": known("NMS", "build", "has no runners that implement it", "cut the graph before"),
    "EfficientNMS_TRT": known("no such operator", "parse", "Plugin not found", "replace the plugin's operator"),
    "DeformConv": Fact(deform_conv, ("parse", "Plugin not found", "replace the plugin's operator"),
                       rule=("unsupported_operator", "refused")),
    "TopK of 3841": known("TopK 3841", "build", "K exceeds the maximum value allowed (3840)", "lower k"),
    "TopK of 3840": plain(cases.CLEAN["TopK"], {}),
    # Quantisers
    "ONNX Runtime's default": Fact(quantized_by_onnxruntime(), ("parse", "input has type Int32"),
                                   rule=("zero_point", "refused"), repaired=BOTH),
    "ONNX Runtime's, symmetric but the bias": Fact(
        quantized_by_onnxruntime(**ORT_SIGNED, extra_options={**SYMMETRIC, "QuantizeBias": True}),
        ("parse", "input has type Int32", "leave biases in float"), rule=("int32_bias", "refused"), repaired=BOTH),
    "ONNX Runtime's, as TensorRT wants it": Fact(
        quantized_by_onnxruntime(**ORT_SIGNED, extra_options=SYMMETRIC), runs=BOTH),
    # Bad input
    "no nodes": known("empty", "parse", "got 0 nodes and 0 outputs", "export it again"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def rtx(in_process):
    pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def built(tmp_path):
    """`avcompress build` of a network."""

    def run(model, as_is=False, **options):
        return outcome(model, as_is, options).built

    def outcome(model, as_is, options):
        options = {"compute_capabilities": ("sm86",)} | options
        onnx.save(model, tmp_path / "net.onnx")
        return run_build(
            BuildJob(tmp_path / "net.onnx", tmp_path / "out", backend="trt_rtx", options=options, as_is=as_is)
        )

    run.outcome = outcome
    return run


@pytest.fixture
def network_of(two_convs, tmp_path):
    def make(fact):
        takes_folder = fact.make.__code__.co_argcount == 3
        return fact.make(Net, two_convs, tmp_path) if takes_folder else fact.make(Net, two_convs)

    return make


def assert_refused(error, stage, *words):
    assert error.stage == stage
    assert "\n" not in str(error)
    assert "catchCudaError" not in str(error)
    for each in words:
        assert each in str(error)


@pytest.mark.parametrize("case", FACTS)
def test_the_builder_s_answer_is_one_error_or_a_map_of_what_runs_in_what(case, network_of, built):
    fact = FACTS[case]

    if fact.refused:
        with pytest.raises(EngineBuildError) as caught:
            built(network_of(fact), as_is=True, **fact.options)
        assert_refused(caught.value, *fact.refused)
    else:
        assert built(network_of(fact), as_is=True, **fact.options).precisions == fact.runs


WRITTEN_ANEW = {"INT32 bias", "ONNX Runtime's, symmetric but the bias"}
"""No number changes: the strong dialect has such biases in float, without asking."""


@pytest.mark.parametrize("case", [case for case, fact in FACTS.items() if fact.rule is not None])
def test_what_is_refused_or_changed_is_found_before_it_is_built(case, network_of, built):
    fact = FACTS[case]
    model = network_of(fact)

    said = {(finding.rule, finding.severity): finding for finding in lint(model, TARGET)}

    assert fact.rule in said
    if case in WRITTEN_ANEW:
        assert built(model, **fact.options).precisions == fact.repaired
    elif fact.rule[1] in {"refused", "changed"}:
        with pytest.raises(EngineBuildError) as caught:
            built(model, **fact.options)
        assert_refused(caught.value, "check", "--as-is builds all the same")


@pytest.mark.parametrize("case", [case for case, fact in FACTS.items() if fact.repaired is not None])
def test_what_can_be_repaired_runs_as_it_was_meant_to(case, network_of, built):
    fact = FACTS[case]

    repaired = fix(network_of(fact), TARGET).model

    assert built(repaired).precisions == fact.repaired


@pytest.mark.parametrize(
    "case",
    [
        "activation per channel",
        "activation per channel, a list of one",
        "ConvTranspose",
        "INT8 for SM75, not said on any page",
    ],
)
def test_what_silently_runs_in_float_is_no_engine_as_planned(case, network_of, built):
    fact = FACTS[case]

    mismatches = built.outcome(network_of(fact), True, fact.options).mismatches

    assert {each.name: (each.planned, each.got) for each in mismatches} == dict.fromkeys(fact.runs, ("int8", "fp32"))


def test_every_refusal_of_the_builder_is_foreseen():
    """What has no rule in lint must be a matter of the target GPU, which lint is not told."""
    unforeseen = {case for case, fact in FACTS.items() if fact.refused and fact.rule is None}

    assert unforeseen == {"BF16 for SM75"}
    assert len(FACTS) >= 30


# --- settings


def settings(**options):
    return BuildSettings(module="tensorrt_rtx", **({"compute_capabilities": ("sm86",)} | options))


REFUSED_SETTINGS = {
    "SM87, which RTX has not": ({"compute_capabilities": ("sm87",)}, "configure", "no compute capability sm87"),
    "SM90, which RTX has not": ({"compute_capabilities": ("sm90",)}, "configure", "no compute capability sm90"),
    "this machine's GPU, where there is none": (
        {"compute_capabilities": ("current",)}, "build", "name compute capabilities"),
    "hardware compatibility, ignored": ({"hardware_compatible": True}, "configure", "name the compute capabilities"),
    "version compatibility without its library": ({"version_compatible": True}, "build", "leave out the version-comp"),
    "a workspace of 1 MiB": ({"workspace_mb": 1}, "build", "raise the workspace"),
    "DLA, silently the GPU": ({"dla_core": 0}, "configure", "leave DLA out"),
    "the flags of weak types": ({"dialect": "weak", "flags": ("fp16",)}, "configure", "export for the strong dialect"),
    "implicit quantization": ({"dialect": "dla-implicit"}, "configure", "export for the strong dialect"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_SETTINGS)
def test_a_setting_that_is_refused_or_ignored_is_one_error(case, built):
    options, stage, words = REFUSED_SETTINGS[case]

    with pytest.raises(EngineBuildError) as caught:
        built(cases.activation()(Net), **options)

    assert_refused(caught.value, stage, words)


def test_the_timing_cache_that_does_nothing_is_told(built, tmp_path):
    notes = built(cases.activation()(Net), timing_cache=str(tmp_path / "timings")).notes

    assert "timing cache: TensorRT-RTX has none, it compiles without timing" in notes


@pytest.mark.parametrize("target", ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_every_compute_capability_builds_without_its_gpu(built, target):
    precisions = built(cases.activation()(Net), compute_capabilities=(target,)).precisions

    assert precisions == (FP32 if target == "sm75" else INT8)


def compiled(model, folder, asked):
    """The builder itself, without our checks before it: its events, or its refusal."""
    onnx.save(model, folder / "net.onnx")
    events = []
    compile_network(folder / "net.onnx", folder, asked, [].append, events.append)
    return events


def test_the_monitor_hears_of_phases_and_steps(tmp_path):
    events = compiled(cases.activation()(Net), tmp_path, settings())

    assert {event.split("\t")[0] for event in events} == {"start", "step", "finish"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("name", ["build.log", "progress.tsv", "model.engine"])
def test_an_exception_in_logger_or_monitor_is_not_called_a_build_that_its_user_cancelled(tmp_path, two_convs, name):
    onnx.save(two_convs, tmp_path / "net.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to("/dev/full")

    with pytest.raises(EngineBuildError) as caught:
        build_tensorrt(tmp_path / "net.onnx", tmp_path / "out", settings())

    assert_refused(caught.value, "build", "No space left on device", "free space there, or build in another folder")


# --- shapes


def test_a_profile_that_is_not_added_is_an_error_of_its_stage(tmp_path):
    shapes = parse_profile("x:4x16x16x16,x:2x16x16x16,x:8x16x16x16")

    with pytest.raises(RefusedError) as caught:
        compiled(cases.activation(x=("n", 16, 16, 16))(Net), tmp_path, settings(profiles=(shapes,)))

    assert caught.value.stage == "profile"


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ((), "expected shapes for the dynamic inputs x"),
        (("x:4x16x16x16,x:2x16x16x16,x:8x16x16x16",), "expected smallest <= optimum <= largest"),
        (("x:1x8x16x16",), "expected a shape that fits"),
        (("y:1x16x16x16",), "expected inputs of the graph (x), got 'y'"),
    ],
    ids=["none", "not in order", "other dimensions", "another input"],
)
def test_a_bad_profile_is_refused_before_the_builder_answers_none_or_minus_1(built, shapes, words):
    with pytest.raises(EngineBuildError) as caught:
        built(cases.activation(x=("n", 16, 16, 16))(Net), profiles=tuple(map(parse_profile, shapes)))

    assert_refused(caught.value, "profile", words)


@pytest.mark.parametrize("count", [1, 2])
def test_dynamic_shapes_build_with_their_profiles(built, count):
    profiles = (parse_profile("x:1x16x16x16,x:2x16x16x16,x:8x16x16x16"), parse_profile("x:1x16x16x16"))

    assert built(cases.activation(x=("n", 16, 16, 16))(Net), profiles=profiles[:count]).precisions == INT8


# --- files


@pytest.mark.parametrize("content", [b"", b"plain text", b"\x08\x07"], ids=["empty", "text", "no graph"])
def test_a_file_that_the_parser_takes_for_an_empty_network_is_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    (tmp_path / "out").mkdir()

    with pytest.raises(EngineBuildError) as caught:
        build_tensorrt(tmp_path / "net.onnx", tmp_path / "out", settings())

    assert_refused(caught.value, "parse", "net.onnx: expected", "export it again")


def test_weights_in_another_file_are_found(tmp_path, two_convs):
    model = onnx.ModelProto.FromString(two_convs.SerializeToString())
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=16)
    (tmp_path / "out").mkdir()

    built = build_tensorrt(tmp_path / "net.onnx", tmp_path / "out", settings())

    assert built.precisions == {"c1": "fp32", "c2": "fp32"}


# --- engines


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("plan")
    compiled(cases.activation()(Net), folder, settings())
    return (folder / "model.engine").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda plan: plan[: len(plan) // 2], "it is truncated"),
        (lambda plan: plan + b"more", "it is truncated, or more was written behind it"),
        (lambda plan: b"no engine" + plan[9:], "it is no engine of this TensorRT"),
        (lambda _: b"", "it is empty"),
        (lambda plan: plan, "this TensorRT needs a GPU"),
    ],
    ids=["truncated", "longer", "bad magic", "empty", "whole, no GPU"],
)
def test_an_engine_that_comes_back_as_none_is_one_error(plan, spoil, words):
    trt = pytest.importorskip("tensorrt_rtx")

    with pytest.raises(EngineError) as caught:
        Loaded(trt, spoil(plan), TrtSettings(graphs=False), "net.engine")

    assert "net.engine: expected an engine that TensorRT" in str(caught.value)
    assert words in str(caught.value)
    assert "catchCudaError" not in str(caught.value)


def test_an_engine_is_not_touched_where_there_is_no_gpu(tmp_path, plan):
    (tmp_path / "model.engine").write_bytes(plan)

    with pytest.raises(MissingError, match="CUDA device"):
        open_trt(tmp_path / "model.engine", package="tensorrt_rtx")
