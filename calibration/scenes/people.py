"""Pedestrians and cyclists: limbs with round ends on an upright plane."""

from __future__ import annotations

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import CYCLIST, PEDESTRIAN, PERSON, Canvas, capsules, circle, pixels
from calibration.scenes.view import View
from calibration.scenes.world import Person

COAT, LEGS, SHOES, SKIN, HAIR, BIKE = range(6)


def draw_person(canvas: Canvas, view: View, person: Person) -> None:
    """Paint and label somebody on foot or on a bicycle."""
    owner = canvas.own(PERSON, CYCLIST if person.cycling else PEDESTRIAN, person.z)
    limbs = _rider(person) if person.cycling else _walker(person)
    albedo = np.array((*person.clothes, (40, 44, 52)), np.float64)
    colours = view.light.flat(albedo, (person.x, person.z))
    scale, foot = view.camera.scale(person.z), view.camera.at(person.x, 0, person.z)
    if person.cycling:
        _wheels(canvas, person, (scale, foot), colours[BIKE].tolist(), owner)
    rows = np.array([limb for limb, _ in limbs])
    outlines = capsules(rows[:, 0:2], rows[:, 2:4], rows[:, 4:6]) * (scale, -scale) + foot
    shades = [colours[paint] * shade for paint, shade in (paint for _, paint in limbs)]
    for outline, colour in zip(pixels(outlines), shades, strict=True):
        cv2.fillPoly(canvas.paint, [outline], (*colour.tolist(), owner))
    head = np.array(_head(person)) * (scale, -scale) + foot
    radius = 0.068 * person.height * scale
    canvas.disc(head - radius * np.array((0, 0.25)), radius * 1.08, colours[HAIR].tolist(), owner)
    face = head + radius * np.array((0.35 * person.facing, 0.3))
    canvas.disc(face, radius * 0.78, colours[SKIN].tolist(), owner)
    reach = np.array([(-1.15, -0.1), (1.15, 2.1)]) * (scale, -scale) + foot
    canvas.seal(owner, np.concatenate((outlines.reshape(-1, 2), reach)))


Limb = tuple[tuple[float, float, float, float, float, float], tuple[int, float]]


def _head(person: Person) -> tuple[float, float]:
    if person.cycling:
        return (0.28 * person.facing, 1.62 + 0.1 * (person.height - 1.7))
    return (0.02 * person.facing, 0.925 * person.height)


def _walker(person: Person) -> list[Limb]:
    """Limbs in metres from the point between the feet: x0, y0, x1, y1, radius at both ends; paint and shade."""
    h = person.height
    stride = 0.13 * h * np.sin(person.phase) * abs(person.facing) + 0.03 * np.sign(person.facing + 0.01)
    spread = 0.055 * h * (1 - 0.6 * abs(person.facing))
    wide = 0.13 * h * (1 - 0.35 * abs(person.facing))
    swing = 0.8 * stride
    hip, shoulder = 0.5 * h, 0.8 * h
    return [
        ((-spread + stride, 0.03, -spread * 0.8, hip, 0.03 * h, 0.052 * h), (LEGS, 0.8)),
        ((-spread + stride, 0.03, -spread + stride + 0.06 * person.facing, 0.03, 0.035, 0.03), (SHOES, 0.7)),
        ((-wide - swing, 0.47 * h, -wide * 0.85, shoulder, 0.024 * h, 0.032 * h), (COAT, 0.72)),
        ((spread - stride, 0.03, spread * 0.8, hip, 0.03 * h, 0.052 * h), (LEGS, 1.0)),
        ((spread - stride, 0.03, spread - stride + 0.06 * person.facing, 0.03, 0.035, 0.03), (SHOES, 0.8)),
        ((0, 0.5 * h, 0, 0.78 * h, 0.075 * h + 0.35 * spread, wide * 0.82), (COAT, 1.0)),
        ((wide + swing, 0.46 * h, wide * 0.85, shoulder, 0.024 * h, 0.032 * h), (COAT, 0.86)),
        ((wide + swing, 0.44 * h, wide + swing, 0.45 * h, 0.022 * h, 0.022 * h), (SKIN, 0.95)),
        ((0, 0.83 * h, 0, 0.88 * h, 0.03 * h, 0.03 * h), (SKIN, 0.85)),
    ]


def _rider(person: Person) -> list[Limb]:
    """As `_walker`, on a bicycle; the width of everything along the bicycle follows `facing`."""
    f = person.facing
    pedal = 0.14 * np.sin(person.phase)
    side = 0.1 * (1 - abs(f))
    seat, bar, crank = (-0.18 * f, 0.95), (0.42 * f, 1.02), (0.02 * f, 0.32)
    return [
        ((-0.5 * f, 0.34, *crank, 0.018, 0.018), (BIKE, 1.0)),
        ((*crank, *seat, 0.018, 0.018), (BIKE, 1.2)),
        ((*crank, 0.36 * f, 0.85, 0.02, 0.02), (BIKE, 1.2)),
        ((0.52 * f, 0.34, *bar, 0.018, 0.018), (BIKE, 1.0)),
        ((bar[0] - side * 3, 1.03, bar[0] + side * 3, 1.03, 0.025, 0.025), (BIKE, 1.0)),
        ((-side, 0.98, 0.16 * f - side, 0.66 + 0.5 * pedal, 0.085, 0.065), (LEGS, 0.75)),
        ((0.16 * f - side, 0.66 + 0.5 * pedal, 0.04 * f - side, 0.3 + pedal, 0.065, 0.045), (LEGS, 0.75)),
        ((side, 0.98, 0.2 * f + side, 0.66 - 0.5 * pedal, 0.09, 0.07), (LEGS, 1.0)),
        ((0.2 * f + side, 0.66 - 0.5 * pedal, 0.05 * f + side, 0.3 - pedal, 0.07, 0.05), (LEGS, 1.0)),
        ((0.05 * f + side, 0.26 - pedal, 0.13 * f + side, 0.26 - pedal, 0.05, 0.04), (SHOES, 0.8)),
        ((-0.2 * f, 0.95, -0.14 * f, 0.95, 0.09, 0.09), (BIKE, 0.8)),
        ((-0.1 * f, 1.0, 0.18 * f, 1.4, 0.13 + 0.04 * (1 - abs(f)), 0.13 + 0.06 * (1 - abs(f))), (COAT, 1.0)),
        ((0.2 * f + 1.6 * side, 1.38, bar[0] + 2.8 * side, 1.06, 0.055, 0.04), (COAT, 0.85)),
        ((0.2 * f - 1.6 * side, 1.38, bar[0] - 2.8 * side, 1.06, 0.055, 0.04), (COAT, 0.78)),
    ]


def _wheels(canvas: Canvas, person: Person, place: tuple[float, Array], colour: list[float], owner: int) -> None:
    scale, foot = place
    ring = circle(20) * (0.34 * max(abs(person.facing), 0.12), 0.34)
    thick = max(1, round(0.06 * scale))
    for along in (-0.52, 0.52):
        outline = (ring + np.array((along * person.facing, 0.34))) * (scale, -scale) + foot
        cv2.polylines(canvas.paint, [pixels(outline)], True, (*colour, owner), thick)
