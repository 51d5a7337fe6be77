"""What a profile must not say: figures without a source, and facts that contradict each other."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from avcompress.yaml_file import Location
from engines.capabilities import capabilities
from engines.profile import Platform, Profile, release

Complaint = tuple[Location, str]
"""Where, with a platform by its name; and what is wrong there."""


def figures(profile: Profile) -> tuple[str, ...]:
    """What needs a source, by dotted name: `memory_gb`, `peak.int8`, `dla.cores`, `platforms.jetpack-6.2`."""
    found = ["memory_gb", "bandwidth_gb_s", "precisions"]
    found += ["compute_capability"] if profile.compute_capability else []
    found += [f"peak.{key}" for key in profile.peak]
    found += [f"channel_alignment.{key}" for key in profile.channel_alignment]
    if profile.dla:
        found += ["dla.cores"]
        found += [f"dla.peak.{key}" for key in profile.dla.peak]
        found += [f"dla.channel_alignment.{key}" for key in profile.dla.channel_alignment]
    return (*found, *(f"platforms.{platform.name}" for platform in profile.platforms))


def covers(name: str, figure: str) -> bool:
    """Whether what is said of `name`, as `peak`, holds for a figure, as `peak.int8`."""
    return figure == name or figure.startswith(f"{name}.")


def complaints(profile: Profile) -> Iterator[Complaint]:
    """All that is missing or contradictory; nothing when the profile is sound."""
    yield from _kind(profile)
    yield from _precisions(profile)
    for platform in profile.platforms:
        yield from _platform(profile, platform)
    yield from _names(profile)
    yield from _sources(profile)


def _kind(profile: Profile) -> Iterator[Complaint]:
    if profile.kind == "gpu":
        if profile.compute_capability is None:
            yield ("compute_capability",), 'expected one of a gpu, got nothing; add it in quotes, as "8.7"'
        return
    if profile.compute_capability is not None:
        yield ("compute_capability",), f"expected none of a cpu, got {profile.compute_capability}; remove it"
    if profile.dla is not None:
        yield ("dla",), "expected none beside a cpu, got one; remove it, or write kind: gpu"


def _precisions(profile: Profile) -> Iterator[Complaint]:
    for key, rates in (("peak", profile.peak), ("channel_alignment", profile.channel_alignment)):
        for number in rates:
            if number not in profile.precisions:
                yield (key, number), f"expected one of precisions, got {number}; add it there, or remove it here"
    if profile.machine is None:
        return
    newest = capabilities("tensorrt-11")
    for number, first in (("fp8", newest.fp8_from), ("bf16", newest.bf16_from)):
        if number in profile.precisions and first is not None and profile.machine < first:
            yield (
                ("precisions",),
                f"expected no {number} below compute capability {first / 10}, got it with "
                f"{profile.compute_capability}; remove it, or mend compute_capability",
            )


def _platform(profile: Profile, platform: Platform) -> Iterator[Complaint]:
    place = ("platforms", platform.name)
    if platform.runtime == "tensorrt":
        yield from _tensorrt(platform, place)
    elif platform.tensorrt is not None:
        yield (
            (*place, "tensorrt"),
            f"expected none with runtime: {platform.runtime}, got {platform.tensorrt}; remove it",
        )
    if profile.kind == "cpu" and platform.runtime in {"tensorrt", "tensorrt-rtx"}:
        yield (
            (*place, "runtime"),
            f"expected openvino or onnxruntime on a cpu, got {platform.runtime}; write one, or kind: gpu",
        )
    if platform.dla is None:
        return
    if profile.dla is None:
        yield (*place, "dla"), f"expected none on a machine without a DLA, got {platform.dla}; add dla: to the profile"
    if platform.runtime != "tensorrt":
        yield (*place, "dla"), f"expected none with runtime: {platform.runtime}, got {platform.dla}; remove it"


def _tensorrt(platform: Platform, place: Location) -> Iterator[Complaint]:
    version = platform.tensorrt
    if version is None:
        yield (*place, "tensorrt"), 'expected a version, got nothing; add it in quotes, as "10.3"'
        return
    if release(version)[0] not in {8, 10, 11} or release(version) < (8, 5):
        yield (*place, "tensorrt"), f"expected 8.5 to 8.6, 10.x or 11.x, got {version}; mend it"
    elif platform.dla == "implicit" and release(version) > (10, 7):
        yield (*place, "dla"), f"expected none or strong, TensorRT {version} has no implicit quantization; mend it"
    elif platform.dla == "strong" and release(version) < (11, 4):
        yield (
            (*place, "dla"),
            f"expected none or implicit, only TensorRT from 11.4 on has strong, got {version}; mend it",
        )


def _names(profile: Profile) -> Iterator[Complaint]:
    """Figures that sources, derived and unverified speak of, and that are not there."""
    known = figures(profile)
    parents = {figure[:end] for figure in known for end, letter in enumerate(figure) if letter == "."}
    said = [("sources", name) for name in profile.sources] + [("derived", name) for name in profile.derived]
    for key, name in [*said, *(("unverified", name) for name in profile.unverified)]:
        if not any(covers(name, figure) for figure in known):
            close = difflib.get_close_matches(name, [*known, *parents], n=1, cutoff=0.5)
            mend = f"did you mean {close[0]}?" if close else "remove it"
            yield (key, name), f"expected a figure of this profile, got {name}; {mend}"


def _sources(profile: Profile) -> Iterator[Complaint]:
    own = {f"platforms.{platform.name}" for platform in profile.platforms if platform.source}
    said = [*profile.sources, *profile.unverified]
    for figure in figures(profile):
        if figure not in own and not any(covers(name, figure) for name in said):
            place: Location = (
                tuple(figure.split(".", 1)) if figure.startswith("platforms.") else tuple(figure.split("."))
            )
            where = "source: to it" if place[0] == "platforms" else f"sources.{figure}"
            yield place, f"expected to be told where this is from, got nothing; add {where}, or write it in unverified"
