"""The report's part on accuracy: figures, intervals, slices, and what changed object by object."""

from __future__ import annotations

from pydantic import Field

from avcompress.frozen import Model
from validation.report.values import Interval, Measured


class Accuracy(Model):
    """Metrics by name, 0-1 but for false_alarms; the names are those that contracts use."""

    reference: dict[str, Measured] = Field(description="metric -> value of the float network")
    engines: dict[str, dict[str, Measured]] = Field(
        description="engine -> metric -> value of the compressed network, for the engines that ran here"
    )


class SliceFacts(Model):
    """A part of the validation set, or the whole of it under one corruption."""

    name: str = Field(description="as contracts name it: all, size:small, weather:rain, fog:3")
    images: int = Field(description="images that have a part in it")
    objects: int = Field(description="labelled objects in it that count; of segmentation, labelled pixels")
    corruption: bool = Field(False, description="whether it is the whole set with corrupted images: NAME:SEVERITY")
    reference: dict[str, Interval] = Field(description="metric -> value of the reference, here")
    network: dict[str, Interval] = Field(description="metric -> value of the network, here")
    drop: dict[str, Interval] = Field(
        description="metric -> how much worse the network is, paired image by image; negative where it is better"
    )


class ComparisonFacts(Model):
    """One engine beside the reference, by slice."""

    resamples: int = Field(description="of the bootstrap over images")
    confidence: float = Field(description="of every interval, two-sided, 0-1")
    slices: tuple[SliceFacts, ...] = Field(description="first `all`, which alone has metrics by class")

    def find(self, name: str) -> SliceFacts | None:
        """The slice of that name."""
        return next((part for part in self.slices if part.name == name), None)


class OperatingPoint(Model):
    """The score threshold that is deployed: precision, recall, false_alarms and F1 hold there."""

    threshold: float = Field(description="boxes with a lower score are not shown")
    restoring: dict[str, Measured] = Field(
        default_factory=dict,
        description="engine -> the threshold at which it has the reference's precision; null where it never has",
    )


class ClassChanges(Model):
    """The objects of one class, matched to what both networks find at the deployed threshold."""

    name: str = Field(description="the class")
    objects: int = Field(description="labelled objects that count")
    lost: int = Field(description="objects that the reference finds and the network does not")
    faded: int = Field(0, description="lost ones that the network detects, too, but below the threshold")
    gained: int = Field(description="objects that the network finds and the reference does not")
    new_false_alarms: int = Field(0, description="false alarms of the network that the reference does not raise")
    gone_false_alarms: int = Field(0, description="false alarms of the reference that the network does not raise")
    mean_move: Measured = Field(
        None, description="mean change of the score of the objects that the reference finds and the network detects"
    )
    worst_move: Measured = Field(None, description="the largest fall of them")


class PixelChanges(Model):
    """The labelled pixels of one class."""

    name: str = Field(description="the class")
    pixels: int = Field(description="labelled pixels")
    worse: int = Field(description="pixels that the reference has right and the network wrong")
    better: int = Field(description="pixels that the reference has wrong and the network right")


class Histogram(Model):
    """Counts between edges; there is one edge more than counts."""

    edges: tuple[float, ...] = Field(description="ascending")
    counts: tuple[int, ...] = Field(description="values from an edge up to the next")


class WorstImage(Model):
    """An image with much change for the worse; of segmentation, counted in pixels."""

    name: str = Field(description="the image")
    lost: int = Field(description="objects lost; of segmentation, pixels that are wrong now")
    gained: int = Field(description="objects gained; of segmentation, pixels that are right now")
    new_false_alarms: int = Field(0, description="false alarms of the network that the reference does not raise")


class ChangeFacts(Model):
    """What one engine finds that the reference does not, and the other way round."""

    classes: tuple[ClassChanges, ...] = Field((), description="of detection, in the order of the class table")
    pixels: tuple[PixelChanges, ...] = Field((), description="of segmentation, in the order of the class table")
    moves: Histogram | None = Field(
        None, description="change of the score, network minus reference, of the objects behind `mean_move`"
    )
    worst: tuple[WorstImage, ...] = Field((), description="the images with most change for the worse, worst first")
