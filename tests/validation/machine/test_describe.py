import pytest

from validation.machine import describe_machine, library_versions


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (
            "processor\t: 0\nmodel\t\t: 106\nmodel name\t: Example CPU @ 2.0GHz\n\nprocessor : 1\n",
            "Example CPU @ 2.0GHz",
        ),
        ("processor : 0\nCPU implementer : 0x41\nModel\t: Example Board Rev 1.4\n", "Example Board Rev 1.4"),
    ],
)
def test_the_processor_is_read_from_the_kernel(tmp_path, text, model):
    (tmp_path / "cpuinfo").write_text(text)
    assert describe_machine(tmp_path / "cpuinfo").cpu == model


def test_a_machine_without_cpuinfo_has_a_name_all_the_same(tmp_path):
    machine = describe_machine(tmp_path / "missing")
    assert machine.cpu
    assert machine.cores >= 1


def test_versions_are_those_of_what_is_installed():
    versions = library_versions()
    assert {"numpy", "onnx"} <= set(versions)
    assert all(version[0].isdigit() for version in versions.values())
