"""What a node is told: one closed model, whose schema is that of the parameters of every transport."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from avcompress.frozen import Model
from avcompress.spec import RecipeError
from engines.manifest import Manifest
from ros_nodes.core.names import CameraName
from ros_nodes.core.watch import Limits

MS = 1_000_000
"""Nanoseconds of a millisecond."""
_LEAST_HANG_MS = 2000.0


class Settings(Model):
    """What a node serves, to which cameras, and what it does when the contract is missed."""

    bundle: str = Field(description="folder of the bundle to serve")
    fallback: str | None = Field(
        None, description="folder of the bundle to fall back to, of the same classes: smaller, or of lower precision"
    )
    keys: tuple[str, ...] = Field((), description="files of public keys; a signature by one of them is enough")
    allow_unsigned: bool = Field(
        False, description="serve a bundle that nobody signed: whoever writes it runs code here"
    )
    bundle_name: str | None = Field(None, description="serve only the bundle of this recipe")
    min_revision: NonNegativeInt = Field(0, description="serve no earlier revision")
    cameras: tuple[CameraName, ...] = Field(("camera",), min_length=1, description="one name a camera")
    max_batch: PositiveInt | None = Field(
        None, description="images in one inference at most; default: one a camera, where the engine takes several"
    )
    batch_window_ms: NonNegativeFloat = Field(
        0.0, description="how long the first image waits for those of the other cameras; less than max_age_ms"
    )
    max_age_ms: PositiveFloat = Field(200.0, description="images that are older when their turn comes are dropped")
    age_from: Literal["stamp", "arrival"] = Field(
        "stamp", description="since when an image ages: its stamp, if camera and computer agree on the time, or arrival"
    )
    camera_timeout_ms: PositiveFloat = Field(1000.0, description="without an image for so long, a camera is waited for")
    deadline_ms: PositiveFloat | None = Field(
        None, description="from an image's arrival to its published result; default: the contract's least deadline"
    )
    max_consecutive_delay_ms: PositiveFloat = Field(
        1000.0, description="once the deadline is missed for so long, the diagnostic is an error"
    )
    fall_back_after: PositiveInt = Field(5, description="misses in a row that lead to the fallback")
    return_after: PositiveInt = Field(100, description="inferences in a row with room to spare that lead back")
    return_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="the share of the deadline that they may take"
    )
    hang_ms: PositiveFloat | None = Field(
        None,
        description="an inference that takes longer hangs: the node is deactivated; more than the deadline, default: "
        "four times it, 2000 at least",
    )
    max_failures: PositiveInt = Field(1, description="failed inferences in a row that deactivate the node")
    report_every_ms: PositiveFloat = Field(500.0, description="between two diagnostics")
    warmup: PositiveInt = Field(5, description="inferences of each batch size before a bundle is served")
    probation: PositiveInt = Field(
        50, description="inferences that a bundle swapped in must survive before the one before it is freed"
    )

    drift_every: NonNegativeInt = Field(
        10, description="every so many images of a camera are compared with those of calibration; 0: none"
    )
    drift_tolerance: PositiveFloat = Field(
        0.1, description="how far a figure may leave the band it had in calibration, in widths of the band"
    )
    drift_after: PositiveInt = Field(
        10, description="compared images in a row that are outside before that is a warning, and inside to end it"
    )
    drift_samples: str | None = Field(None, description="folder for images that are outside; default: none are kept")
    drift_sample_every_ms: PositiveFloat = Field(10_000.0, description="between two images of a camera that are kept")
    drift_max_samples: PositiveInt = Field(100, description="images in that folder at most")
    drift_max_mb: PositiveFloat = Field(500.0, description="megabytes in that folder at most")

    @model_validator(mode="after")
    def _names_each_camera_once(self) -> Settings:
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: expected names that differ, got {', '.join(self.cameras)}; name each once")
        return self

    @model_validator(mode="after")
    def _waits_for_no_image_until_it_is_stale(self) -> Settings:
        if self.batch_window_ms >= self.max_age_ms:
            raise ValueError(
                f"batch_window_ms: expected less than max_age_ms, {self.max_age_ms:g}, got {self.batch_window_ms:g}; "
                "lower the one or raise the other, or every image is stale when its turn comes"
            )
        return self


def limits(settings: Settings, manifest: Manifest) -> Limits:
    """The deadline, by the settings or else by the contract that travels with the engine, and what its misses do.

    Raises RecipeError where neither names one, or an inference would hang before it is late.
    """
    deadline_ms = _deadline_ms(settings, manifest)
    hang_ms = max(4 * deadline_ms, _LEAST_HANG_MS) if settings.hang_ms is None else settings.hang_ms
    if hang_ms <= deadline_ms:
        raise RecipeError(
            f"hang_ms: expected more than the deadline, {deadline_ms:g}, got {hang_ms:g}; raise hang_ms: an "
            "inference that is in time would be given up"
        )
    return Limits(
        deadline_ns=round(deadline_ms * MS),
        hang_ns=hang_ms * MS,
        fall_back_after=settings.fall_back_after,
        return_after=settings.return_after,
        return_share=settings.return_share,
        has_fallback=settings.fallback is not None,
    )


def _deadline_ms(settings: Settings, manifest: Manifest) -> float:
    if settings.deadline_ms is not None:
        return settings.deadline_ms
    terms = manifest.contract.latency
    # A deadline on another engine says less, but more than none.
    own = [term.deadline_ms for term in terms if term.engine == manifest.backend]
    found = own or [term.deadline_ms for term in terms]
    if not found:
        raise RecipeError(
            f"deadline_ms: expected one, or a contract with a latency term, got none of {manifest.name!r}; "
            "set deadline_ms: nothing could be watched without"
        )
    return min(found)
