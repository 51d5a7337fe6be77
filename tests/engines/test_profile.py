"""What a chosen machine says to the builder: dialect, DLA, formats."""

import pytest

from avcompress.spec import RecipeError
from engines.capabilities import TARGETS
from engines.lint import takes
from engines.profile import Chosen
from engines.profile_load import all_profiles, load_profile


@pytest.mark.parametrize(
    ("name", "dla", "dialect"),
    [
        ("orin-agx@jetpack-6.2", False, "strong"),
        ("orin-agx@jetpack-6.2", True, "dla-implicit"),
        ("orin-agx@jetpack-6.0", False, "weak"),
        ("orin-agx@jetpack-5.1", True, "dla-implicit"),
        ("orin-agx@jetpack-7.2", False, "strong"),
        ("orin-agx@jetpack-7.2.2", True, "strong"),
        ("xavier-agx", False, "weak"),
        ("drive-orin", False, "weak"),
        ("drive-orin", True, "dla-implicit"),
        ("drive-thor", False, "strong"),
        ("thor", False, "strong"),
        ("rtx-4090", False, "strong"),
        ("t4@tensorrt-8.6", False, "weak"),
        ("cpu", False, "strong"),
    ],
)
def test_the_dialect_follows_the_platform(name, dla, dialect):
    assert load_profile(name).dialect(dla=dla) == dialect


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("thor", "thor@jetpack-7.2.2: expected a DLA, Jetson Thor T5000 has none; build for the GPU or CPU"),
        ("drive-thor@drive-os-7.2.5", "expected a DLA, DRIVE AGX Thor has none"),
        ("cpu", "has none"),
        ("orin-nano@jetpack-6.2", "Jetson Orin Nano 8GB (MAXN_SUPER) has none"),
        ("orin-agx@jetpack-7.2", "TensorRT 10.16 of jetpack-7.2 does not; use orin-agx@jetpack-7.2.2, or build for"),
        ("orin-nx@jetpack-7.2.2", "TensorRT 11.4 of jetpack-7.2.2 does not; use orin-nx@jetpack-6.2, or build for"),
    ],
)
def test_a_dla_that_is_not_there_is_refused_in_one_line(name, words):
    with pytest.raises(RecipeError) as caught:
        load_profile(name).dialect(dla=True)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("orin-agx@jetpack-5.1", "tensorrt-8"),
        ("orin-agx@jetpack-6.2", "tensorrt-10"),
        ("orin-agx@jetpack-7.2.2", "tensorrt-11"),
        ("rtx-5090@tensorrt-rtx-1.7", "tensorrt-rtx"),
        ("cpu", "openvino"),
        ("cpu@onnxruntime", "onnxruntime"),
        ("arm-mobile", "onnxruntime"),
    ],
)
def test_a_platform_has_the_capabilities_of_its_runtime(name, target):
    assert load_profile(name).capabilities == target


def test_every_shipped_platform_has_a_dialect_and_known_capabilities():
    every = [Chosen(profile, platform) for profile in all_profiles() for platform in profile.platforms]

    assert len(every) > 60
    for chosen in every:
        assert chosen.capabilities in TARGETS
        assert (chosen.dialect() == "weak") == (chosen.capabilities == "tensorrt-8")
        assert load_profile(chosen.name) == chosen


def test_what_a_dla_takes_follows_from_the_version_of_tensorrt():
    for profile in all_profiles():
        for platform in profile.platforms:
            version = tuple(map(int, (platform.tensorrt or "0").split(".")))
            if profile.dla and version[0]:
                expected = "implicit" if version < (10, 8) else platform.dla
                assert platform.dla == expected, (profile.name, platform.name)
            else:
                assert platform.dla is None
            # Only AGX Orin got its DLA back.
            if platform.dla == "strong":
                assert profile.name.startswith("orin-agx")
                assert version >= (11, 4)


def test_a_machine_narrows_what_its_tensorrt_takes():
    chosen = load_profile("orin-agx@jetpack-6.2")

    formats = takes(chosen.capabilities, chosen.profile.machine).formats

    assert formats.title == "TensorRT 10 on sm87"
    assert (formats.fp8_from, formats.bf16_from) == (None, 0)
    assert takes("tensorrt-10").formats.fp8_from == 89
    assert takes("tensorrt-10", 75).formats.bf16_from is None
    assert takes("tensorrt-10", 89).formats.fp8_from == 0
