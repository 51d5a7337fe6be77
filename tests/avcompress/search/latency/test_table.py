import json
from pathlib import Path

import onnx
import pytest

from avcompress.search.latency.source import FromFile, Subject
from avcompress.search.latency.table import Conversion, PrecisionTable, load_table, network_structure, save_table
from avcompress.spec import DataError


def subject(formats, *precisions: str) -> Subject:
    made = formats(*precisions)
    return Subject(made.model, made.layout, made.choices, made.assigned)


def table(model: onnx.ModelProto) -> PrecisionTable:
    layers = {name: {"fp32": 2.0, "int8": 1.0} for name in ("first", "left", "right", "last")}
    conversions = (
        Conversion(of="fp32", to="int8", call_ms=0.5, million_ms=2.0),
        Conversion(of="int8", to="fp32", call_ms=0.0, million_ms=1.0),
    )
    return PrecisionTable(
        network=network_structure(model), estimate=False, machine="a board", backend="openvino", layers_ms=layers,
        others_ms=0.25, conversions=conversions,
    )  # fmt: skip


def test_a_table_that_was_written_is_read_back(formats, tmp_path: Path):
    asked = subject(formats, "int8")
    written = table(asked.model)
    save_table(written, tmp_path / "times.json")

    assert FromFile(tmp_path / "times.json").table(asked) == written
    assert written.says == "measured on openvino, a board"


def test_a_conversion_takes_a_call_and_its_values(formats):
    found = table(subject(formats, "int8").model)

    assert found.convert_ms("fp32", "int8", 3e6) == pytest.approx(0.5 + 6.0)
    assert found.convert_ms("int8", "int8", 3e6) == 0
    with pytest.raises(DataError, match="expected what converting fp16 to int8 takes, got nothing"):
        found.convert_ms("fp16", "int8", 1.0)


def test_a_table_of_another_network_is_refused_and_one_of_other_weights_is_not(formats, network, tmp_path: Path):
    asked = subject(formats, "int8")
    path = tmp_path / "times.json"
    save_table(table(asked.model), path)
    other = network()
    other.graph.node[1].op_type = "Sigmoid"

    with pytest.raises(DataError, match=r"of this network .* got one of another"):
        load_table(path, network_structure(other), asked.layout, ["int8"])

    retrained = onnx.ModelProto()
    retrained.CopyFrom(asked.model)
    retrained.graph.initializer[0].raw_data = bytes(len(retrained.graph.initializer[0].raw_data))
    assert load_table(path, network_structure(retrained), asked.layout, ["int8"]).others_ms == 0.25


def test_a_table_with_gaps_is_refused(formats, tmp_path: Path):
    asked = subject(formats, "int8")
    known, path = network_structure(asked.model), tmp_path / "times.json"
    whole = table(asked.model)
    save_table(whole, path)
    with pytest.raises(DataError, match="got none of precision fp16"):
        load_table(path, known, asked.layout, ["int8", "fp16"])

    save_table(whole.model_copy(update={"layers_ms": {"first": {"fp32": 1.0, "int8": 1.0}}}), path)
    with pytest.raises(DataError, match=r"got none of layer 'left' \(3 in all\)"):
        load_table(path, known, asked.layout, ["int8"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "got at version"),
        ({"others_ms": -1.0}, "got at others_ms"),
        ({"others_ms": None}, "got at others_ms"),
        ({"surprise": 1}, "got at surprise"),
        ({"layers_ms": {"first": {"int7": 1.0}}}, "got at layers_ms.first"),
    ],
)
def test_anything_else_than_a_table_is_refused_by_name(formats, tmp_path: Path, change, complaint):
    asked = subject(formats, "int8")
    path = tmp_path / "times.json"
    path.write_text(json.dumps({**json.loads(table(asked.model).model_dump_json()), **change}))

    with pytest.raises(DataError, match=complaint):
        load_table(path, network_structure(asked.model), asked.layout, ["int8"])


def test_a_file_that_is_missing_or_no_json_is_refused(formats, tmp_path: Path):
    asked = subject(formats, "int8")
    (tmp_path / "broken.json").write_text("{")

    for name in ("missing.json", "broken.json"):
        with pytest.raises(DataError, match=f"{name}: expected a latency table"):
            FromFile(tmp_path / name).table(asked)
