"""What stands where in one scene: drawn by chance, but from one generator, so that a seed decides everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from avcompress.spec import Array

T = TypeVar("T")
Weather = Literal["clear", "cloudy", "sunset", "rain", "night"]
Setting = Literal["city", "suburb", "country"]
VehicleKind = Literal["sedan", "hatch", "suv", "van", "truck", "lorry"]
PostKind = Literal["sign", "light", "lamp"]


@dataclass(frozen=True)
class Road:
    """A street along z; lateral positions are metres from the own lane's centre, before the bend.

    Attributes:
        left, right: the kerbs.
        lanes: centre and direction (+1 with us) of every lane.
        lines: lateral position of every line, and whether it is dashed.
        parking: width of the parking strips, inside the kerbs.
        pavement: width of the pavements, outside the kerbs.
        slope, curvature: of the bend, 1 and 1/m.
        side_road: where a street crosses, z0 and z1; empty when none does.
        zebra: where a pedestrian crossing begins, z; empty when there is none.
    """

    left: float
    right: float
    lanes: tuple[tuple[float, int], ...]
    lines: tuple[tuple[float, bool], ...]
    parking: float
    pavement: float
    slope: float
    curvature: float
    side_road: tuple[float, ...]
    zebra: tuple[float, ...]

    def bend(self, z: float) -> float:
        """Metres the street has turned to the right at depth z."""
        return (self.slope + 0.5 * self.curvature * z) * z

    def bends(self, z: Array) -> Array:
        """`bend` at every depth of an array."""
        return (self.slope + 0.5 * self.curvature * z) * z

    def crossed(self, z0: float, z1: float, margin: float = 0.0) -> bool:
        """Whether the crossing street cuts the interval."""
        return bool(self.side_road) and z0 < self.side_road[1] + margin and z1 > self.side_road[0] - margin


@dataclass(frozen=True)
class Vehicle:
    """A car or truck; yaw 0 drives away from us."""

    kind: VehicleKind
    x: float
    z: float
    yaw: float
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    cargo: tuple[float, float, float]
    braking: bool


@dataclass(frozen=True)
class Person:
    """Somebody on foot or on a bicycle; `facing` is the sine of the direction across the picture, -1 to 1."""

    x: float
    z: float
    height: float
    facing: float
    phase: float
    clothes: tuple[tuple[float, float, float], ...]
    cycling: bool


@dataclass(frozen=True)
class Tree:
    """A tree, or a bush where the trunk is short."""

    x: float
    z: float
    trunk: float
    crown: float
    colour: tuple[float, float, float]
    seed: int


@dataclass(frozen=True)
class Post:
    """A pole with something on it; `arm` is how far that hangs out over the street, `design` which sign or lamp."""

    kind: PostKind
    x: float
    z: float
    height: float
    arm: float
    design: int


@dataclass(frozen=True)
class Building:
    """A block between two depths; `inner` is the facade's lateral position, `outer` the far wall's, before the bend.

    `front` says whether the wall towards us is free, `roof` the height of a pitched roof, 0 for a flat one.
    """

    inner: float
    outer: float
    z: float
    z_far: float
    height: float
    roof: float
    front: bool
    colour: tuple[float, float, float]
    seed: int


Thing = Vehicle | Person | Tree | Post | Building


@dataclass(frozen=True)
class World:
    """One scene."""

    weather: Weather
    raining: bool
    setting: Setting
    road: Road
    things: tuple[Thing, ...]
    hood: bool


CAR_COLOURS = np.array(
    (
        *((228, 228, 226), (168, 172, 176), (92, 96, 102), (34, 35, 39), (168, 30, 34), (36, 66, 132), (28, 84, 62)),
        *((196, 178, 140), (96, 28, 44), (44, 112, 158), (214, 128, 40)),
    ),
    np.float64,
)
CAR_ODDS = np.array([20, 16, 14, 14, 10, 9, 4, 5, 3, 4, 2]) / 101
CARGO = ((232, 232, 230), (205, 205, 200), (58, 84, 140), (176, 52, 44), (72, 108, 76), (214, 170, 60))
WALLS = (
    *((150, 84, 66), (168, 104, 80), (206, 190, 158), (222, 212, 190), (146, 146, 148), (188, 186, 180)),
    *((196, 160, 112), (120, 112, 108), (172, 178, 186), (214, 186, 150), (108, 76, 66), (164, 176, 160)),
)
CLOTHES = (
    *((38, 42, 58), (24, 24, 28), (176, 40, 44), (58, 92, 150), (214, 210, 200), (86, 94, 74), (198, 150, 58)),
    *((112, 60, 96), (60, 118, 116), (226, 120, 60), (88, 66, 52), (150, 154, 160)),
)
SKIN = ((232, 190, 160), (206, 154, 120), (150, 102, 74), (94, 62, 46))
GREENS = ((64, 98, 40), (82, 116, 46), (48, 84, 44), (104, 124, 52), (72, 104, 62), (132, 120, 44))
SIZES: dict[VehicleKind, tuple[float, float, float]] = {
    "sedan": (1.82, 1.46, 4.5),
    "hatch": (1.76, 1.50, 4.0),
    "suv": (1.92, 1.72, 4.6),
    "van": (2.0, 2.15, 5.1),
    "truck": (2.4, 3.3, 7.2),
    "lorry": (2.5, 3.9, 11.0),
}


def make_world(rng: np.random.Generator) -> World:
    """Draw one scene."""
    weathers: tuple[Weather, ...] = ("clear", "cloudy", "sunset", "rain", "night")
    settings: tuple[Setting, ...] = ("city", "suburb", "country")
    weather = _choose(rng, weathers, (0.36, 0.24, 0.1, 0.15, 0.15))
    setting = _choose(rng, settings, (0.55, 0.3, 0.15))
    raining = weather == "rain" or (weather == "night" and rng.random() < 0.3)
    road = _road(rng, setting)
    things = (
        *_buildings(rng, road, setting),
        *_trees(rng, road, setting),
        *_posts(rng, road, setting),
        *_traffic(rng, road),
        *_parked(rng, road, setting),
        *_people(rng, road, setting),
    )
    return World(weather, raining, setting, road, things, bool(rng.random() < 0.25))


def _choose(rng: np.random.Generator, options: tuple[T, ...], odds: tuple[float, ...]) -> T:
    return options[int(rng.choice(len(options), p=odds))]


def _road(rng: np.random.Generator, setting: Setting) -> Road:
    width = rng.uniform(3.1, 3.7)
    own, other = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    parking = float(rng.choice((0.0, 2.3))) if setting != "country" else 0.0
    lane = int(rng.integers(own))
    drift = rng.uniform(-0.35, 0.35)
    first = -(lane + other + 0.5) * width + drift
    count = own + other
    edge = 0.35 if parking == 0 else 0.0
    lanes = tuple((first + (i + 0.5) * width, -1 if i < other else 1) for i in range(count))
    middle = [(first + i * width, i != other or bool(rng.random() < 0.6)) for i in range(1, count)]
    lines = ((first, False), *middle, (first + count * width, False))
    side_road: tuple[float, ...] = ()
    if setting != "country" and rng.random() < 0.45:
        start = rng.uniform(14, 42)
        side_road = (start, start + rng.uniform(7, 10))
    zebra: tuple[float, ...] = ()
    if side_road:
        zebra = (side_road[0] - 4.5,)
    elif setting != "country" and rng.random() < 0.25:
        zebra = (rng.uniform(7, 26),)
    return Road(
        left=first - parking - edge,
        right=first + count * width + parking + edge,
        lanes=lanes,
        lines=lines,
        parking=parking,
        pavement=rng.uniform(2.2, 4.2) if setting != "country" else 0.0,
        slope=rng.normal(0, 0.02),
        curvature=rng.normal(0, 0.0016 if setting == "city" else 0.003),
        side_road=side_road,
        zebra=zebra,
    )


def _vehicle(rng: np.random.Generator, x: float, z: float, yaw: float, heavy: float) -> Vehicle:
    kinds: tuple[VehicleKind, ...] = ("sedan", "hatch", "suv", "van", "truck", "lorry")
    light = 1 - heavy
    odds = (0.34 * light, 0.3 * light, 0.26 * light, 0.1 * light, 0.6 * heavy, 0.4 * heavy)
    kind = kinds[int(rng.choice(6, p=odds))]
    width, height, length = (side * rng.uniform(0.95, 1.06) for side in SIZES[kind])
    colour = tuple((CAR_COLOURS[rng.choice(11, p=CAR_ODDS)] * rng.uniform(0.9, 1.1)).tolist())
    cargo = CARGO[int(rng.integers(len(CARGO)))]
    # The rear end must stay in front of the camera.
    reach = 0.5 * (length * abs(np.cos(yaw)) + width * abs(np.sin(yaw)))
    depth = max(z, 3.0 + reach)
    return Vehicle(kind, x, depth, yaw, (width, height, length), colour, cargo, bool(rng.random() < 0.4))


def _traffic(rng: np.random.Generator, road: Road) -> list[Thing]:
    found: list[Thing] = []
    for centre, direction in road.lanes:
        z = rng.uniform(5, 26) + (3 if abs(centre) < 1 else 0)
        for _ in range(int(rng.integers(0, 4))):
            if not road.crossed(z - 3, z + 3) or direction > 0:
                x = centre + rng.normal(0, 0.2) + road.bend(z)
                heading = np.arctan(road.slope + road.curvature * z)
                found.append(_vehicle(rng, x, z, heading + (0 if direction > 0 else np.pi) + rng.normal(0, 0.03), 0.22))
            z += rng.uniform(11, 26)
    if road.side_road and rng.random() < 0.6:
        z0, z1 = road.side_road
        for z, yaw in ((z0 + 0.3 * (z1 - z0), -0.5 * np.pi), (z0 + 0.75 * (z1 - z0), 0.5 * np.pi)):
            x = rng.uniform(-16, 16)
            found.append(_vehicle(rng, x + road.bend(z), z, yaw + rng.normal(0, 0.04), 0.2))
    return found


def _parked(rng: np.random.Generator, road: Road, setting: Setting) -> list[Thing]:
    found: list[Thing] = []
    if road.parking == 0 or setting == "country":
        return found
    share = rng.uniform(0.1, 0.7)
    for x, yaw in ((road.right - 1.1, 0.0), (road.left + 1.1, np.pi)):
        z = rng.uniform(6, 11)
        while z < 52:
            if rng.random() < share and not road.crossed(z - 3, z + 3, 3) and not _near_zebra(road, z, 5.5):
                heading = np.arctan(road.slope + road.curvature * z)
                found.append(_vehicle(rng, x + road.bend(z), z, yaw + heading + rng.normal(0, 0.03), 0.06))
            z += rng.uniform(5.6, 7.5)
    return found


def _near_zebra(road: Road, z: float, reach: float) -> bool:
    return bool(road.zebra) and abs(z - road.zebra[0] - 1.5) < reach


def _person(rng: np.random.Generator, x: float, z: float, facing: float, cycling: bool) -> Person:
    tops = [CLOTHES[int(i)] for i in rng.integers(len(CLOTHES), size=3)]
    skin = SKIN[int(rng.integers(len(SKIN)))]
    hair = ((30, 24, 20), (72, 48, 30), (150, 116, 66), (120, 118, 116))[int(rng.integers(4))]
    height = rng.uniform(1.55, 1.88) if cycling or rng.random() < 0.88 else rng.uniform(1.05, 1.4)
    return Person(x, z, height, facing, rng.uniform(0, 2 * np.pi), (*tops, skin, hair), cycling)


def _people(rng: np.random.Generator, road: Road, setting: Setting) -> list[Thing]:
    found: list[Thing] = []
    if setting != "country":
        for _ in range(int(rng.poisson(4.2 if setting == "city" else 2.2))):
            z = rng.uniform(5.5, 25)
            side = rng.random() < 0.5
            inset = rng.uniform(0.5, road.pavement)
            x = road.right + inset if side else road.left - inset
            if not road.crossed(z, z):
                found.append(_person(rng, x + road.bend(z), z, rng.uniform(-0.7, 0.7), cycling=False))
    if road.zebra:
        for _ in range(int(rng.integers(0, 4))):
            z = road.zebra[0] + rng.uniform(0.4, 2.6)
            x = rng.uniform(road.left, road.right) + road.bend(z)
            found.append(_person(rng, x, z, float(rng.choice((-1, 1))) * rng.uniform(0.8, 1), cycling=False))
    for _ in range(int(rng.integers(0, 4))):
        z = rng.uniform(6.5, 21)
        side = rng.random() < 0.7
        x = road.right - 0.8 - road.parking if side else road.left + 0.8 + road.parking
        facing = rng.uniform(-0.35, 0.35)
        if road.side_road and rng.random() < 0.6:
            z, x, facing = sum(road.side_road) / 2, rng.uniform(-9, 9), float(rng.choice((-1, 1)))
        found.append(_person(rng, x + road.bend(z), z, facing, cycling=True))
    return found


def _trees(rng: np.random.Generator, road: Road, setting: Setting) -> list[Thing]:
    found: list[Thing] = []
    gap = {"city": (9.0, 26.0), "suburb": (6.0, 16.0), "country": (3.0, 13.0)}[setting]
    for side in (-1, 1):
        if setting == "city" and rng.random() < 0.35:
            continue
        kerb = (road.right if side > 0 else -road.left) + road.pavement
        z = rng.uniform(3, 14)
        while z < 85:
            offset = kerb + (rng.uniform(-0.9, -0.3) if setting == "city" else rng.uniform(0.8, 7))
            bush = setting != "city" and rng.random() < 0.35
            trunk, crown = (0.1, rng.uniform(0.5, 1.1)) if bush else (rng.uniform(1.8, 3.2), rng.uniform(1.3, 3.0))
            if setting == "city":
                crown = min(crown, 2.0)
            colour = GREENS[int(rng.integers(len(GREENS)))]
            if not road.crossed(z, z, 1.5):
                x = side * offset + road.bend(z)
                found.append(Tree(x, z, trunk, crown, colour, int(rng.integers(1 << 30))))
            z += rng.uniform(*gap)
    return found


def _posts(rng: np.random.Generator, road: Road, setting: Setting) -> list[Thing]:
    found: list[Thing] = []
    if setting != "country" or rng.random() < 0.3:
        found.extend(_lamps(rng, road))
    for _ in range(int(rng.integers(1, 5))):
        z = rng.uniform(8, 28)
        side = 1 if rng.random() < 0.7 else -1
        x = (road.right + 0.55 if side > 0 else road.left - 0.55) + road.bend(z)
        if not road.crossed(z, z):
            found.append(Post("sign", x, z, rng.uniform(2.3, 2.9), 0.0, int(rng.integers(9))))
    if road.side_road or (road.zebra and rng.random() < 0.4):
        found.extend(_signals(rng, road))
    return found


def _lamps(rng: np.random.Generator, road: Road) -> list[Thing]:
    """Street lamps in a row on one side."""
    found: list[Thing] = []
    side = 1 if rng.random() < 0.5 else -1
    z, spacing = rng.uniform(7, 24), rng.uniform(20, 32)
    while z < 85:
        x = road.right + 0.5 if side > 0 else road.left - 0.5
        if not road.crossed(z, z):
            found.append(Post("lamp", x + road.bend(z), z, rng.uniform(6, 8), -side * 1.6, 0))
        z += spacing
    return found


def _signals(rng: np.random.Generator, road: Road) -> list[Thing]:
    """Traffic lights that agree, at the stop line: on the right, often on the left, sometimes above the street."""
    z = road.zebra[0] - 0.6
    state, bend = int(rng.integers(3)), road.bend(z)
    found: list[Thing] = [Post("light", road.right + 0.5 + bend, z, rng.uniform(3.3, 3.8), 0.0, state)]
    if rng.random() < 0.7:
        found.append(Post("light", road.left - 0.5 + bend, z, rng.uniform(3.3, 3.8), 0.0, state))
    if rng.random() < 0.55:
        found.append(Post("light", road.right + 0.6 + bend, z + 0.4, 5.4, -rng.uniform(2.8, 4.6), state))
    return found


def _buildings(rng: np.random.Generator, road: Road, setting: Setting) -> list[Thing]:
    found: list[Thing] = []
    if setting == "country" and rng.random() < 0.6:
        return found
    for side in (-1, 1):
        edge = (road.right if side > 0 else -road.left) + road.pavement
        z = rng.uniform(1.0, 4.0) if setting == "city" else rng.uniform(4, 16)
        hidden = (np.inf, 0.0)
        while z < 105:
            block = _block(rng, setting, edge, z)
            z_far = block[1]
            if road.crossed(z, z_far, 2.0):
                if z + 4 < road.side_road[0] - 2.0:
                    z_far = road.side_road[0] - 2.0
                else:
                    z, hidden = max(road.side_road[1] + 2.0, z + 1), (np.inf, 0.0)
                    continue
            inner, _, height, roof = block
            colour = WALLS[int(rng.integers(len(WALLS)))]
            outer = side * (inner + rng.uniform(9, 14))
            seed = int(rng.integers(1 << 30))
            # A neighbour hides the wall unless it is lower or stands back.
            front = setting != "city" or inner < hidden[0] or height > hidden[1]
            found.append(Building(side * inner, outer, z, z_far, height, roof, front, colour, seed))
            z, hidden = z_far + _gap(rng, setting), (inner, height)
    return found


def _block(rng: np.random.Generator, setting: Setting, edge: float, z: float) -> tuple[float, float, float, float]:
    """Facade, far end, wall height and roof height of the next building."""
    if setting == "city":
        height = rng.uniform(7, 20) if rng.random() < 0.8 else rng.uniform(20, 38)
        return edge + rng.choice((0.1, 0.1, 1.5)), z + rng.uniform(9, 22), height, 0.0
    return edge + rng.uniform(3, 8), z + rng.uniform(8, 13), rng.uniform(3.2, 6), rng.uniform(1.8, 3.2)


def _gap(rng: np.random.Generator, setting: Setting) -> float:
    if setting == "city":
        return 0.05
    return float(rng.uniform(4, 12) if setting == "suburb" else rng.uniform(20, 60))
