"""What happens along the detections of each class, best first: made once from the matches, summed under any weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from validation.detection.matches import Matches
from validation.detection.ranked import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Events:
    """Hits, and detections that are counted differently than if they were not matched, best first.

    Attributes:
        image: (E,).
        hit: (E,) 1 for a hit, else 0.
        change: (E,) 1 for a hit that is not one of the range's own detections, -1 for one of those that counts neither
            way, else 0.
        after: (E,) how many of the curve's stretches of own detections end up to here.
    """

    image: Ints
    hit: Floats
    change: Floats
    after: Ints

    def part(self, which: Ints | slice) -> Events:
        """Those at `which`, in its order."""
        return Events(self.image[which], self.hit[which], self.change[which], self.after[which])


@dataclass(frozen=True, eq=False)
class Curve:
    """One class in one range of size.

    Attributes:
        objects: image of each object that counts.
        own: image of each detection that is a false alarm unless it is matched, best first, up to the last event.
        starts: where the stretches of `own` start; at the end of one there is an event of some overlap.
        events: of each overlap.
    """

    objects: Ints
    own: Ints
    starts: Ints
    events: tuple[Events, ...]


def draw_curves(matches: Matches, inside: Bools, classes: int) -> list[list[Curve]]:
    """The curve of every class in every range of size: A lists of C.

    Args:
        matches: in A ranges.
        inside: (A, M) bool, the detections that are false alarms in a range unless they are matched.
        classes: how many there are.
    """
    labels = matches.found.labels
    # Class after class, best first in each.
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(classes + 1))
    return [_range_curves(matches, area, own, order, ends) for area, own in enumerate(inside)]


def _range_curves(matches: Matches, area: int, inside: Bools, order: Ints, ends: Ints) -> list[Curve]:
    own = inside[order]
    so_far = np.concatenate([[0], np.cumsum(own)])
    images, starts = matches.found.image[order][own], so_far[ends].tolist()
    objects, events = _objects(matches, area, len(ends) - 1), _events(matches, area, inside, order, ends)
    return [
        _curve(objects[index], images[starts[index] : starts[index + 1]], [column[index] for column in events])
        for index in range(len(ends) - 1)
    ]


def _curve(objects: Ints, own: Ints, events: list[Events]) -> Curve:
    """Cut `own` into the stretches between events, whose `after` counts its detections one by one as yet."""
    stops = np.unique(np.concatenate([[0], *(each.after for each in events)]))
    by_stretch = (replace(each, after=np.searchsorted(stops, each.after)) for each in events)
    return Curve(objects, own[: stops[-1]], stops[:-1], tuple(by_stretch))


def _objects(matches: Matches, area: int, classes: int) -> list[Ints]:
    rows = np.flatnonzero(matches.counts[area])
    rows = rows[np.argsort(matches.objects.labels[rows], kind="stable")]
    ends = np.searchsorted(matches.objects.labels[rows], np.arange(1, classes))
    return np.split(matches.objects.image[rows], ends)


def _events(matches: Matches, area: int, inside: Bools, order: Ints, ends: Ints) -> list[list[Events]]:
    """By overlap, by class."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    so_far = np.concatenate([[0], np.cumsum(inside[order])])
    pairs = matches.pairs
    along = np.argsort(place[pairs.detection], kind="stable")
    detection = pairs.detection[along]
    hit = matches.counts[area, pairs.object[along]]
    change = hit.astype(np.float64) - inside[detection]
    made = matches.made[along, area] & (hit | (change != 0))[:, None]
    # The first own detection of the class is its number 1.
    after = so_far[place[detection] + 1] - so_far[ends[matches.found.labels[detection]]]
    everything = Events(matches.found.image[detection], hit.astype(np.float64), change, after)
    columns = []
    for rows in (np.flatnonzero(column) for column in made.T):
        told = everything.part(rows)
        cuts = np.searchsorted(place[detection[rows]], ends).tolist()
        columns.append([told.part(slice(low, high)) for low, high in pairwise(cuts)])
    return columns
