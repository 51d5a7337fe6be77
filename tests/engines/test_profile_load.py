"""Profile files, shipped and users' own: what is read, and how a mistake is told."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.spec import RecipeError
from engines.profile_check import complaints, covers, figures
from engines.profile_load import SHIPPED, all_profiles, load_profile, profile_names
from engines.profile_schema import profile_schema

OWN = """\
title: A board of ours
kind: gpu
compute_capability: "8.7"
platforms:
  ours-2:
    tensorrt: "10.3"
    dla: implicit
    source: our own build
  ours-1:
    tensorrt: "8.6"
    source: our own build
precisions: [fp32, fp16, int8]
dla:
  cores: 1
memory_gb: 8
bandwidth_gb_s: 68
peak: {int8: 20, fp16: 10}
sources: {memory_gb: data sheet, bandwidth_gb_s: data sheet, peak: data sheet, dla: data sheet}
unverified: [compute_capability, precisions]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ours.yaml").write_text(OWN)
    return tmp_path


def write(folder, name, text):
    (folder / f"{name}.yaml").write_text(text)
    return f"{folder}/{name}.yaml"


def message(name, folders=()):
    with pytest.raises(RecipeError) as caught:
        load_profile(str(name), folders)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- the shipped ones


def test_every_machine_that_was_promised_is_there():
    promised = {"orin-agx", "orin-nx", "orin-nano", "xavier-agx", "thor", "drive-orin", "drive-thor", "rtx-3090"}
    promised |= {"rtx-4090", "rtx-5090", "t4", "a100", "h100", "l4", "cpu", "arm-edge", "arm-mobile"}
    variants = {"orin-agx-32", "orin-nx-8", "orin-nano-4", "thor-t4000", "a100-80"}

    assert set(profile_names()) == promised | variants


def test_every_figure_of_a_shipped_profile_has_a_source_or_is_marked_unverified():
    for profile in all_profiles():
        assert list(complaints(profile)) == []
        own = {f"platforms.{platform.name}" for platform in profile.platforms if platform.source}
        for figure in figures(profile):
            said = [*profile.sources, *profile.unverified]
            assert figure in own or any(covers(name, figure) for name in said), (profile.name, figure)


def test_rates_that_are_half_of_a_published_sparse_one_say_so_and_add_up():
    agx = load_profile("orin-agx").profile
    assert agx.dla is not None
    assert 2 * (agx.peak["int8"] + agx.dla.peak["int8"]) == 275  # TOPS that NVIDIA prints for the module
    nx = load_profile("orin-nx").profile
    assert nx.dla is not None
    assert 2 * (nx.peak["int8"] + nx.dla.peak["int8"]) == 157
    small = load_profile("orin-nx-8").profile
    assert small.dla is not None
    assert 2 * (small.peak["int8"] + small.dla.peak["int8"]) == 117
    less = load_profile("orin-agx-32").profile
    assert less.dla is not None
    assert 2 * (less.peak["int8"] + less.dla.peak["int8"]) == 200
    for profile in (agx, nx, small, less):
        assert "sparse" in profile.derived["peak.int8"]


def test_platforms_are_listed_newest_first():
    for profile in all_profiles():
        versions = [tuple(map(int, each.tensorrt.split("."))) for each in profile.platforms if each.tensorrt]
        assert versions == sorted(versions, reverse=True), profile.name


def test_the_schema_that_ships_is_the_one_of_the_code():
    assert json.loads((SHIPPED / "profile.schema.json").read_text()) == profile_schema()


def test_shipped_files_use_only_keys_of_the_schema():
    schema = profile_schema()
    for path in SHIPPED.glob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        assert set(data) <= set(schema["properties"])
        for platform in data.get("platforms", {}).values():
            assert set(platform or {}) <= set(schema["$defs"]["Platform"]["properties"])


# --- one's own


def test_an_own_file_is_found_by_path_and_by_name_in_a_folder(folder):
    assert load_profile(f"{folder}/ours.yaml").name == "ours@ours-2"
    assert load_profile(f"{folder}/ours.yaml@ours-1").platform.tensorrt == "8.6"
    assert load_profile("ours", [folder]).profile.title == "A board of ours"
    assert "ours" in profile_names([folder])
    assert load_profile("ours@ours-1", [folder]).dialect() == "weak"


def test_a_path_may_hold_an_at_sign(tmp_path):
    folder = tmp_path / "a@b"
    folder.mkdir()
    (folder / "ours.yaml").write_text(OWN)

    assert load_profile(f"{folder}/ours.yaml").platform.name == "ours-2"
    assert load_profile(f"{folder}/ours.yaml@ours-1").platform.name == "ours-1"


def test_an_own_folder_goes_before_the_shipped_profiles(folder):
    write(folder, "thor", OWN)

    assert load_profile("thor", [folder]).profile.title == "A board of ours"


def test_extending_changes_what_is_given_and_keeps_the_rest(folder):
    write(folder, "more", 'extends: orin-agx\ntitle: With more\nmemory_gb: 96\nsources: {memory_gb: "measured here"}\n')

    more, base = load_profile("more", [folder]).profile, load_profile("orin-agx").profile

    changed = {"name": "more", "title": "With more", "memory_gb": 96.0}
    assert more.sources == {**base.sources, "memory_gb": "measured here"}
    assert more.model_copy(update={"sources": base.sources}) == base.model_copy(update=changed)


def test_a_changed_figure_does_not_keep_the_source_of_the_old_one(folder):
    path = write(folder, "slow", "extends: orin-agx\npeak: {int8: 40}\n")
    assert message(path) == (
        f"{path}:2: peak.int8: expected to be told where this is from, got nothing; add sources.peak.int8, or write it "
        "in unverified"
    )
    write(folder, "slow", "extends: orin-agx\npeak: {int8: 40}\nunverified: [peak.int8]\n")

    slow, base = load_profile(path).profile, load_profile("orin-agx").profile

    assert slow.peak == {**base.peak, "int8": 40}
    assert "peak.int8" in slow.unverified
    assert "peak.int8" not in slow.derived
    assert slow.derived["peak.fp16"] == base.derived["peak.fp16"]
    assert slow.sources["peak.fp16"] == base.sources["peak"]
    assert "peak" not in slow.sources


def test_a_new_platform_comes_first_and_null_removes_one(folder):
    text = "extends: orin-agx\nplatforms:\n  yocto-1:\n    tensorrt: '10.7'\n    dla: implicit\n    source: ours\n"
    write(folder, "yocto", f"{text}  jetpack-5.1:\n")

    names = [platform.name for platform in load_profile("yocto", [folder]).profile.platforms]

    assert names[0] == "yocto-1"
    assert names[1:] == [platform.name for platform in load_profile("orin-agx").profile.platforms[:-1]]


def test_a_changed_platform_stays_in_its_place_and_loses_its_source(folder):
    path = write(folder, "other", "extends: orin-agx\nplatforms:\n  jetpack-6.2:\n    tensorrt: '10.7'\n")
    assert f"{path}:3: platforms.jetpack-6.2: expected to be told where this is from" in message(path)
    write(folder, "other", "extends: orin-agx\nplatforms:\n  jetpack-6.2: {tensorrt: '10.7', source: ours}\n")

    other = load_profile(path).profile

    assert [each.name for each in other.platforms] == [each.name for each in load_profile("orin-agx").profile.platforms]
    assert load_profile(f"{path}@jetpack-6.2").platform.model_dump() == {
        "name": "jetpack-6.2",
        "runtime": "tensorrt",
        "tensorrt": "10.7",
        "cuda": "12.6",
        "dla": "implicit",
        "source": "ours",
    }


def test_a_profile_extends_a_neighbour_and_a_neighbour_s_parent(folder):
    write(folder, "child", "extends: ours\ntitle: Child\n")
    write(folder, "grandchild", "extends: child.yaml\ntitle: Grandchild\n")

    assert load_profile(f"{folder}/grandchild.yaml").profile.memory_gb == 8


def test_a_machine_that_loses_its_dla_loses_it_on_every_platform(folder):
    write(folder, "none", "extends: orin-agx\ndla:\n")

    profile = load_profile("none", [folder]).profile

    assert profile.dla is None
    assert [platform.dla for platform in profile.platforms] == [None] * 6
    assert not [name for name in [*profile.sources, *profile.derived] if name.startswith("dla")]


# --- mistakes


def test_an_unknown_name_gets_the_nearest_one(folder):
    assert message("orin-agz") == "target: expected a name or a YAML file, got 'orin-agz'; did you mean orin-agx?"
    assert message("our", [folder]).endswith("did you mean ours?")
    assert "there are a100, a100-80, arm-edge" in message("zzz")
    assert message("orin-agx@jetpack-6.3") == (
        "orin-agx@jetpack-6.3: expected a platform of orin-agx, got 'jetpack-6.3'; did you mean jetpack-6.2?"
    )
    assert "expected a platform of thor, got ''" in message("thor@")
    assert "got ''" in message("")


def test_a_file_or_folder_that_is_not_there_is_named(tmp_path):
    assert f"{tmp_path}/none.yaml: expected a profile file, got nothing there" in message(tmp_path / "none.yaml")
    assert "--profiles: expected a folder of profiles" in message("thor", [tmp_path / "none"])


MISTAKES = {
    "no mapping": ("- a\n", "expected a mapping of keys at the top level, got sequence; see docs/targets.md"),
    "broken": ("title: [a\nkind: gpu\n", ":2: expected YAML, got"),
    "empty": ("", "got an empty file"),
    "twice": (OWN + "title: again\n", ":20: title: expected each key once, got it twice"),
    "unknown key": (OWN + "colour: red\n", ":20: colour: unknown key"),
    "misspelt": (OWN.replace("memory_gb: 8", "memory_gbs: 8"), "memory_gbs: unknown key; did you mean memory_gb?"),
    "misspelt in a platform": (OWN.replace("    dla: imp", "    dlas: imp"), ":7: platforms.ours-2.dlas: unknown key"),
    "missing": (OWN.replace("bandwidth_gb_s: 68\n", ""), ":1: bandwidth_gb_s: expected this key, got nothing; add it"),
    "a float": (
        OWN.replace('"10.3"', "10.3"),
        ":6: platforms.ours-2.tensorrt: expected text, got 10.3; put it in quotes",
    ),
    "a number's name": (OWN.replace("fp16: 10", "fp17: 10"), ":17: peak.fp17: expected"),
    "negative": (OWN.replace("memory_gb: 8", "memory_gb: -8"), ":15: memory_gb: expected greater than 0, got -8"),
    "infinite": (OWN.replace("memory_gb: 8", "memory_gb: .inf"), ":15: memory_gb: expected a finite number"),
    "kind": (OWN.replace("kind: gpu", "kind: tpu"), ":2: kind: expected 'gpu' or 'cpu', got 'tpu'"),
    "no platforms": (
        OWN.replace(OWN[OWN.index("platforms") : OWN.index("precisions")], "platforms: {}\n"),
        ":4: platforms",
    ),
    "a list of platforms": (
        OWN.replace(OWN[OWN.index("platforms") : OWN.index("precisions")], "platforms: [a]\n"),
        ":4: platforms: expected platforms by name, got no mapping",
    ),
    "a platform that is text": (
        OWN.replace("  ours-1:\n", "  ours-0: '8.6'\n  ours-1:\n"),
        ":9: platforms.ours-0: expected",
    ),
    "a name": (OWN + "name: other\n", ":20: name: unknown key; the file has the name, remove this one"),
    "no compute capability": (
        OWN.replace('compute_capability: "8.7"\n', ""),
        "compute_capability: expected one of a gpu, got nothing",
    ),
    "a CPU with a GPU's": (OWN.replace("kind: gpu", "kind: cpu"), ":3: compute_capability: expected none of a cpu"),
    "a rate without its precision": (
        OWN.replace("fp16: 10", "bf16: 10"),
        ":17: peak.bf16: expected one of precisions, got bf16",
    ),
    "FP8 on Ampere": (
        OWN.replace("[fp32,", "[fp8, fp32,"),
        ":12: precisions: expected no fp8 below compute capability 8.9, got it with 8.7",
    ),
    "a DLA that its TensorRT lacks": (
        OWN.replace('"10.3"', '"10.8"'),
        ":7: platforms.ours-2.dla: expected none or strong, TensorRT 10.8 has no implicit quantization",
    ),
    "a DLA too early": (
        OWN.replace("dla: implicit", "dla: strong"),
        ":7: platforms.ours-2.dla: expected none or implicit, only TensorRT from 11.4 on has strong, got 10.3",
    ),
    "a platform's DLA on a machine without": (
        OWN.replace("dla:\n  cores: 1\n", "").replace(", dla: data sheet", ""),
        ":7: platforms.ours-2.dla: expected none on a machine without a DLA",
    ),
    "TensorRT 9": (
        OWN.replace('"8.6"', '"9.3"'),
        ":10: platforms.ours-1.tensorrt: expected 8.5 to 8.6, 10.x or 11.x, got 9.3",
    ),
    "TensorRT 7": (OWN.replace('"8.6"', '"7.1"'), "expected 8.5 to 8.6, 10.x or 11.x, got 7.1"),
    "no version": (OWN.replace('    tensorrt: "8.6"\n', ""), ":9: platforms.ours-1.tensorrt: expected a version"),
    "a version of another runtime": (
        OWN.replace('    tensorrt: "8.6"', '    runtime: openvino\n    tensorrt: "8.6"'),
        ":11: platforms.ours-1.tensorrt: expected none with runtime: openvino",
    ),
    "no source": (OWN.replace("memory_gb: data sheet, ", ""), ":15: memory_gb: expected to be told where this is from"),
    "no source of a platform": (
        OWN.replace('"8.6"\n    source: our own build', '"8.6"'),
        ":9: platforms.ours-1: expected to be told where this is from, got nothing; add source: to it",
    ),
    "a source of nothing": (
        OWN.replace("peak: data sheet", "peaks: data sheet, peak: data sheet"),
        ":18: sources.peaks: expected a figure of this profile, got peaks; did you mean peak?",
    ),
    "sources that are none": (OWN.replace(OWN[OWN.index("sources:") :], "sources: here\n"), ":18: sources: expected"),
    "an alias to itself": ("peak: &a {int8: *a}\n", "expected plain values, got an alias to itself"),
    "extends nothing": (
        "extends: orin-agz\n",
        ":1: extends: target: expected a name or a YAML file, got 'orin-agz'; did you",
    ),
    "extends a number": ("title: x\nextends: 5\n", ":2: extends: expected the name of a profile, got 5"),
    "extends itself": ("extends: mistake\n", ":1: extends: expected an end, got a circle, mistake > mistake"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_file_line_and_key(tmp_path, case):
    text, words = MISTAKES[case]
    path = write(tmp_path, "mistake", text)

    said = message(path)

    assert said.startswith(path)
    assert words in said


def test_a_circle_of_two_is_named(tmp_path):
    write(tmp_path, "one", "extends: two\n")
    write(tmp_path, "two", "title: x\nextends: one\n")

    assert "got a circle, one > two > one" in message(tmp_path / "one.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")

    assert "expected YAML, got bytes that are not UTF-8; give the path of a profile" in message(tmp_path / "bytes.yaml")


def test_a_mistake_in_the_extended_file_names_that_file(folder):
    write(folder, "ours", OWN.replace("memory_gb: 8", "memory_gb: -8"))
    path = write(folder, "child", "extends: ours\ntitle: Child\n")

    assert message(path).startswith(f"{folder}/ours.yaml:15: memory_gb: expected greater than 0")


def test_what_only_both_files_together_say_is_for_the_own_file_to_mend(folder):
    path = write(folder, "child", "extends: orin-agx\ncompute_capability: '7.2'\nunverified: [compute_capability]\n")

    assert message(path).startswith(
        f"{path}:1: precisions, inherited from orin-agx.yaml:34: expected no bf16 below compute capability 8.0"
    )


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["orin-agx", "peak", "8.7", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["int8", "cores", "peak", "jetpack-6.2", "tensorrt", "dla"]), inner, max_size=2
        )
    ),
    max_leaves=6,
)
_KEYS = ["title", "kind", "platforms", "precisions", "dla", "memory_gb", "peak", "sources", "derived", "unverified"]


@settings(max_examples=150, deadline=None)
@given(data=st.dictionaries(st.sampled_from([*_KEYS, "compute_capability", "x"]), _VALUES, max_size=4))
def test_whatever_a_file_says_it_is_read_or_refused_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_text(yaml.safe_dump({"extends": "orin-agx", **data}))
    try:
        profile = load_profile(str(path)).profile
    except RecipeError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(str(path))
    else:
        assert list(complaints(profile)) == []
