"""Every attribute and call of TensorRT in our code, held against the genuine bindings of the versions that it is for.

The code is read, not run, once for each version: types flow from `trt` through the bindings' own signatures, and
`hasattr` is answered by them. So what the code touches is found without a list of it, and what a version never reaches
is not asked of it.
"""

import ast
import functools
import importlib
import json
import sys
from pathlib import Path
from typing import get_args

import pytest

from avcompress.recipe import RtxEngine
from engines import tensorrt
from engines.tensorrt import configure, tensors

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
PACKAGE = Path(tensorrt.__file__).parent
VERSIONS = ("8.6", "10.3", "10.7", "10.13", "11.4", "rtx")


def beside(name):
    """A module of the folder beside this file."""
    sys.path.insert(0, str(HERE / "parity"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(HERE / "parity"))


genuine = beside("genuine")
Reader = beside("touched").Reader


@functools.cache
def code():
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py"))}


@functools.cache
def read(version):
    """Our code, as one version would run it; the reason instead where the version cannot be had."""
    try:
        if version == "rtx":
            pytest.importorskip("tensorrt_rtx")
        api = genuine.rtx_api() if version == "rtx" else genuine.api_of(version)
    except genuine.UnavailableError as error:
        return str(error)
    return Reader(code(), api).read()


def reader_of(version):
    found = read(version)
    if isinstance(found, str):
        pytest.skip(f"bindings of {version}: {found}")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_attribute_and_call_that_a_version_reaches_exists_in_it(version):
    reader = reader_of(version)

    assert reader.problems == []
    assert {"Builder.build_serialized_network", "IExecutionContext.execute_async_v3"} <= reader.touched


def test_no_use_of_tensorrt_in_our_code_goes_unread():
    seen = set().union(*(reader_of(version).seen for version in VERSIONS))

    unread = [
        f"{file}:{node.lineno}: {ast.unparse(node)}"
        for file, text in code().items()
        for node in uses_of_tensorrt(ast.parse(text))
        if (file, node.lineno, node.col_offset, node.attr) not in seen
    ]

    assert unread == []


def uses_of_tensorrt(tree):
    """Attributes of `trt`, and of what functions take beside it without saying its type."""
    if not any("trt" in {getattr(node, "id", ""), getattr(node, "arg", "")} for node in ast.walk(tree)):
        return
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        untyped = {each.arg for each in function.args.args if getattr(each.annotation, "id", "") == "Any"}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in {"trt", *untyped}:
                yield node


def test_whatever_is_asked_for_exists_in_some_version():
    readers = [reader_of(version) for version in VERSIONS]

    unknown = {path for reader in readers for path in reader.touched if not any(path in each.api for each in readers)}

    assert unknown == set()


def test_names_that_are_chosen_at_run_time_exist_where_they_are_used():
    members = {version: reader_of(version).api for version in VERSIONS}
    targets = get_args(get_args(RtxEngine.model_fields["compute_capabilities"].annotation)[0])
    somewhere = set().union(*members.values())

    assert set().union(*(reader_of(version).dynamic for version in VERSIONS)) == {
        "BuilderFlag",
        "ComputeCapability",
        "DataType",
    }
    assert {f"BuilderFlag.{name}" for name in configure._FLAGS.values()} <= set(members["10.3"])
    assert all({f"DataType.{name}" for name in configure._PRECISIONS.values()} <= set(api) for api in members.values())
    assert {f"DataType.{name}" for name in (*tensors._DTYPES, *tensors._ML_DTYPES)} <= somewhere
    assert targets
    assert {f"ComputeCapability.{name.upper()}" for name in targets} <= set(members["rtx"])


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("file", "ours", "wrong", "problem"),
    [
        ("configure.py", "layer.num_outputs", "layer.outputs", "ILayer.outputs does not exist"),
        ("worker.py", "loaded.create_engine_inspector()", "loaded.inspect()", "ICudaEngine.inspect does not exist"),
        ("session.py", ".execute_async_v3(self._stream)", ".enqueue_v3(self._stream)", "enqueue_v3 does not exist"),
        ("configure.py", "set_timing_cache(cache, False)", "set_timing_cache(cache)", "takes (cache, ignore_mismatch)"),
    ],
)
def test_a_wrong_attribute_in_our_code_would_be_found(file, ours, wrong, problem):
    pytest.importorskip("tensorrt_rtx")
    api = genuine.rtx_api() | {"BuilderFlag.OBEY_PRECISION_CONSTRAINTS": {"kind": "value", "returns": "BuilderFlag"}}
    text = code()[file]
    assert ours in text

    problems = Reader(code() | {file: text.replace(ours, wrong)}, api).read().problems

    assert any(line.startswith(file) and problem in line for line in problems)


FAKES = {"IBuilderConfig": "Config", "ICudaEngine": "Engine", "INetworkDefinition": "Network", "ILayer": "Layer"}


@pytest.mark.parametrize("version", ["8.6", "10.3", "11.4"])
def test_the_fake_tensorrt_of_the_other_tests_answers_like_the_genuine_one_of_its_version(version):
    reader = reader_of(version)
    environment = {"FAKE_TENSORRT": json.dumps({"version": f"{version}.0"})}
    fake = genuine.dump(HERE / "fake", "tensorrt", environment)

    def in_fake(path):
        owner, dot, rest = path.partition(".")
        return f"{FAKES.get(owner, owner)}{dot}{rest}" in fake

    asked = reader.asked | {f"BuilderFlag.{name}" for name in configure._FLAGS.values()}
    assert {path: in_fake(path) for path in asked} == {path: path in reader.api for path in asked}


# --- the reader itself, on a TensorRT of a few lines


def method(*parameters, returns="None"):
    return {"kind": "method", "signatures": [{"parameters": list(parameters), "returns": returns}]}


SELF = ["self", False]
SMALL = {
    "Builder": {"kind": "class", "signatures": [{"parameters": [SELF, ["logger", False]], "returns": "None"}]},
    "Builder.make": method(SELF, ["flags", True], returns="Network"),
    "Builder.strange": method(SELF, returns="nvinfer1::INothing"),
    "Network": {"kind": "class", "signatures": []},
    "Network.name": {"kind": "property", "returns": "str", "writable": True},
    "Network.size": {"kind": "property", "returns": "int", "writable": False},
    "Network.layer": method(SELF, ["index", False], returns="Layer"),
    "Layer": {"kind": "class", "signatures": []},
    "Layer.name": {"kind": "property", "returns": "str", "writable": True},
    "Kind": {"kind": "class", "signatures": []},
    "Kind.ONE": {"kind": "value", "returns": "Kind"},
    "ILogger": {"kind": "class", "signatures": []},
    "ILogger.log": method(SELF, ["severity", False], ["msg", False]),
    "ILogger.Severity": {"kind": "class", "signatures": []},
}
START = "import importlib\n\ndef go(name):\n    trt = importlib.import_module(name)\n    builder = trt.Builder(None)\n"


def problems(body, rest=""):
    """What the reader says about a few lines; their numbers start with 1."""
    text = START + "".join(f"    {line}\n" for line in body.splitlines()) + rest
    found = Reader({"snippet.py": text}, SMALL).read().problems
    offset = START.count("\n")
    return [f"{int(line.split(':')[1]) - offset}:{line.split(':', 2)[2]}" for line in found]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("trt.Nothing", "1: Nothing does not exist"),
        ("trt.Kind.TWO", "1: Kind.TWO does not exist"),
        ("builder.make().depth", "1: Network.depth does not exist"),
        ("net = builder.make()\nnet.depth = 3", "2: Network.depth does not exist"),
        ("net = builder.make()\nnet.size = 3", "2: Network.size cannot be set"),
        ("net = builder.make()\nnet.layer(0).kind", "2: Layer.kind does not exist"),
        ("[each.label for each in (builder.make().layer(i) for i in range(3))]", "1: Layer.label does not exist"),
        ("for _, each in zip('ab', [builder.make()]):\n    each.label", "2: Network.label does not exist"),
        ("builder.make(1, 2)", "1: Builder.make takes (flags), not (builder.make(1, 2))"),
        ("builder.make(kind=2)", "1: Builder.make takes (flags), not (builder.make(kind=2))"),
        ("builder.make().layer()", "1: Network.layer takes (index), not (builder.make().layer())"),
        ("trt.Builder()", "1: Builder takes (logger), not (trt.Builder())"),
        ("hasattr(builder, 'more') or builder.more()", "1: Builder.more does not exist"),
        ("if not hasattr(builder, 'more'):\n    builder.more()", "2: Builder.more does not exist"),
        ("getattr(builder, 'more')", "1: Builder.more does not exist"),
        (
            "class Log(trt.ILogger):\n    def log(self, msg):\n        pass\nLog()",
            "2: ILogger.log is called with (self, severity, msg)",
        ),
        ("builder.strange().run()", "1: .run of what Builder.strange gives, of which the bindings tell no class"),
    ],
)  # fmt: skip
def test_what_a_version_lacks_is_found(body, problem):
    assert problems(body) == [problem]


@pytest.mark.parametrize(
    "body",
    [
        "builder.make(flags=1).name = 'x'",
        "if hasattr(builder, 'more'):\n    builder.more()",
        "hasattr(builder, 'more') and builder.more()",
        "more = hasattr(builder, 'more')\nif more and name:\n    builder.more()",
        "if name and not hasattr(trt, 'More'):\n    raise ValueError\nif hasattr(trt, 'More'):\n    trt.More(builder)",
        "more = builder.more() if hasattr(builder, 'more') else None\nif more is not None:\n    builder.much",
        "getattr(builder, 'more', None)",
        "name.anything.at_all",
    ],
)
def test_what_a_version_never_reaches_is_not_held_against_it(body):
    assert problems(body) == []


def test_types_follow_values_into_functions_and_objects():
    rest = (
        "\nclass Held:\n    def __init__(self, network):\n        self.network = network\n"
        "    def use(self):\n        return self.network.label\n"
        "\ndef first(network):\n    return network.layer(0)\n"
    )

    found = problems("Held(builder.make())\nfirst(builder.make()).label", rest)

    assert [line.partition(": ")[2] for line in found] == ["Network.label does not exist", "Layer.label does not exist"]
