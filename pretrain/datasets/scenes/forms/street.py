"""Forms of the street, and the animals that walk it."""

from __future__ import annotations

import itertools

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing, Part
from pretrain.datasets.scenes.outlines import (
    Points,
    both_sides,
    box,
    ellipse,
    limb,
    polygon,
    ring,
    smooth,
)


def _wheels(places: list[tuple[float, float]], radius: float) -> Drawing:
    tyres = [ellipse(x, y, radius) for x, y in places]
    hubs = [ellipse(x, y, radius * 0.5) for x, y in places]
    return [Part("dark", tyres), Part("metal", hubs)]


def car(rng: np.random.Generator) -> Drawing:
    """Side view: saloon, hatchback, van-like or pickup."""
    u = rng.uniform
    length, tall, roof = u(0.8, 1.0), u(0.18, 0.26), u(0.22, 0.36)
    nose, tail = u(0.35, 0.6), u(0.45, 0.95)
    front, back = length * nose, -length * tail
    rake, slope = u(0.12, 0.3), u(0.05, 0.3)
    pickup = rng.random() < 0.2
    if pickup:
        back = -length * u(0.0, 0.15)
    body = smooth(
        [(-length, 0.0), (-length * 0.98, tall), (length * 0.98, tall), (length, tall * 0.3),
         (length * 0.85, -0.02), (0.0, -0.05), (-length * 0.9, -0.04)],
        steps=4,
    )  # fmt: skip
    cabin = polygon(
        (back, 0), (back + slope, -roof), (front - rake, -roof), (front + rake * 0.3, 0)
    )
    pane = polygon((back + slope * 0.5 + 0.06, -0.02), (back + slope + 0.03, -roof + 0.05),
                   (front - rake - 0.03, -roof + 0.05), (front - 0.02, -0.02))  # fmt: skip
    middle = (back + front) / 2 - 0.03 + u(-0.08, 0.08)
    radius = u(0.13, 0.18)
    lights = [ellipse(length * 0.93, tall * 0.3, 0.05, 0.04)]
    return [
        Part("a", [cabin]),
        Part("glass", [pane]),
        Part("a", [box(middle, -roof, middle + 0.05, 0.0)]),
        Part("a", [body]),
        Part("b", [box(-length * 0.95, tall * 0.72, length * 0.95, tall)]),
        Part("pale", lights),
        *_wheels([(length * u(0.55, 0.65), tall), (-length * u(0.55, 0.65), tall)], radius),
    ]


def bus(rng: np.random.Generator) -> Drawing:
    """A long box with a row of windows, or two rows one above the other."""
    u = rng.uniform
    length = u(0.75, 1.0)
    decks = 2 if rng.random() < 0.35 else 1
    tall = u(0.26, 0.34) * (1 + 0.65 * (decks - 1))
    parts = [Part("a", [box(-length, -tall, length, tall, u(0.04, 0.12))])]
    if rng.random() < 0.6:
        y = tall * u(0.2, 0.5)
        parts.append(Part("b", [box(-length, y, length, y + u(0.05, 0.14))]))
    count = int(rng.integers(4, 8))
    panes: list[Points] = []
    for deck in range(decks):
        y = -tall * 0.8 + deck * tall * 0.85
        height = 0.5 * tall / decks * u(1.0, 1.25)
        edges = np.linspace(-length * 0.94, length * 0.7, count + 1)
        for x0, x1 in itertools.pairwise(edges):
            panes.append(box(x0 + 0.02, y, x1 - 0.02, y + height, 0.02))
    panes.append(box(length * 0.75, -tall * 0.8, length * 0.97, tall * u(0.0, 0.6), 0.03))
    parts.append(Part("glass", panes))
    radius = u(0.11, 0.15)
    places = [(length * 0.62, tall), (-length * 0.6, tall)]
    if rng.random() < 0.3:
        places.append((-length * 0.6 + 2.3 * radius, tall))
    return parts + _wheels(places, radius)


def bicycle(rng: np.random.Generator) -> Drawing:
    """Two spoked wheels, a diamond frame, saddle and handlebar."""
    u = rng.uniform
    radius, base, tube = u(0.34, 0.44), u(0.52, 0.62), u(0.04, 0.07)
    rear, fore, crank = (-base, 0.0), (base, 0.0), (-base * u(0.0, 0.2), 0.05)
    seat, head = (-base * 0.35, -u(0.45, 0.65)), (base * 0.6, -u(0.5, 0.68))
    tyre = u(0.04, 0.08)
    wheels = [piece for x, _ in (rear, fore) for piece in ring(x, 0, radius, radius, tyre)]
    spokes: list[Points] = []
    for x, _ in (rear, fore):
        for angle in np.linspace(0, np.pi, 4, endpoint=False) + u(0, 1):
            dx, dy = radius * np.cos(angle), radius * np.sin(angle)
            spokes += limb([(x - dx, -dy), (x + dx, dy)], 0.018)
    low = u(0.0, 0.35) * (rng.random() < 0.4)
    joint = (seat[0] * (1 - low) + crank[0] * low, seat[1] * (1 - low) + crank[1] * low)
    frame = limb([rear, crank, head], tube) + limb([rear, joint, head], tube)
    frame += limb([crank, seat], tube) + limb([fore, head], tube)
    bar = [(head[0], head[1]), (head[0] - 0.03, head[1] - 0.14)]
    bend = u(-0.2, 0.2)
    return [
        Part("metal", spokes),
        Part("dark", wheels),
        Part("a", frame),
        Part("b", limb([*bar, (head[0] + bend, head[1] - u(0.1, 0.22))], tube)),
        Part("c", limb([seat, (seat[0], seat[1] - 0.1)], tube * 0.8)),
        Part("c", [ellipse(seat[0], seat[1] - 0.11, 0.16, 0.05)]),
        Part("metal", [ellipse(*crank, 0.08)]),
    ]


def traffic_light(rng: np.random.Generator) -> Drawing:
    """A pole with a box of two to four lamps, one of them lit."""
    u = rng.uniform
    lamps = int(rng.choice([2, 3, 3, 3, 4]))
    half, gap = u(0.17, 0.24), u(0.34, 0.4)
    tall = gap * lamps / 2
    length = u(0.3, 1.0)
    parts = [Part("metal", limb([(0, tall * 0.8), (0, tall + length)], u(0.06, 0.11)))]
    if rng.random() < 0.4:
        parts.append(Part("b", [box(-0.18, tall + length - 0.06, 0.18, tall + length + 0.03)]))
    if rng.random() < 0.4:
        rim = u(0.05, 0.1)
        parts.append(Part("pale", [box(-half - rim, -tall - rim, half + rim, tall + rim, 0.05)]))
    role = "dark" if rng.random() < 0.4 else "a"
    parts.append(Part(role, [box(-half, -tall, half, tall, u(0.0, 0.2))]))
    lit = int(rng.integers(lamps))
    for i in range(lamps):
        y = -tall + gap * (i + 0.5)
        if rng.random() < 0.9:
            hood = ellipse(0, y - 0.02, half * 0.78, half * 0.85, start=180, stop=360)
            parts.append(Part("dark" if role == "a" else "metal", [hood]))
        parts.append(Part("pale" if i == lit else "c", [ellipse(0, y, min(half, gap / 2) * 0.7)]))
    return parts


def house(rng: np.random.Generator) -> Drawing:
    """Walls, a pitched roof, door and windows; some with chimney or upper floor."""
    u = rng.uniform
    half, tall, roof = u(0.4, 0.7), u(0.3, 0.65), u(0.25, 0.55)
    eaves, ridge = u(0.04, 0.14), u(0.0, 0.6) * half * (rng.random() < 0.5)
    parts = []
    if rng.random() < 0.6:
        x = half * u(0.3, 0.6) * rng.choice([-1, 1])
        parts.append(Part("c", [box(x - 0.07, -tall - roof * u(0.85, 1.1), x + 0.07, -tall + 0.1)]))
    parts.append(Part("a", [box(-half, -tall, half, tall)]))
    gable = [(-half - eaves, -tall), (-ridge, -tall - roof), (ridge, -tall - roof)]
    parts.append(Part("b", [polygon(*gable, (half + eaves, -tall))]))
    door = half * u(-0.6, 0.6)
    wide, high = u(0.09, 0.13), min(u(0.35, 0.45), tall * 1.1)
    parts.append(Part("dark" if rng.random() < 0.5 else "c",
                      [box(door - wide, tall - high, door + wide, tall)]))  # fmt: skip
    panes: list[Points] = []
    columns = np.linspace(-half, half, int(rng.integers(2, 4)) + 2)[1:-1]
    rows = [tall - high + 0.02] if tall < 0.45 else [tall - high, -tall * 0.75]
    size = u(0.14, 0.2)
    for y in rows:
        for x in columns:
            if y == rows[0] and abs(x - door) < wide + size * 0.6:
                continue
            panes.append(box(x - size / 2, y, x + size / 2, y + size * u(1.0, 1.3)))
    if panes:
        frames = [p.mean(axis=0) + (p - p.mean(axis=0)) * 1.3 for p in panes]
        parts += [Part("pale", frames), Part("glass", panes)]
    return parts


def dog(rng: np.random.Generator) -> Drawing:
    """Side view, walking: long snout, hanging ears, tail up."""
    u = rng.uniform
    length, chest, leg = u(0.4, 0.62), u(0.26, 0.38), u(0.3, 0.6)
    limbs: list[list[Points]] = []
    for x in (length * 0.85, -length * 0.85):
        for _ in range(2):
            swing, knee = u(-0.22, 0.22), u(-0.1, 0.05)
            path = [(x, 0.0), (x + swing * 0.5 + knee, leg * 0.6), (x + swing, leg + 0.1)]
            foot = [(x + swing, leg + 0.1), (x + swing + 0.08, leg + 0.1)]
            limbs.append(limb(path, 0.15, 0.08) + limb(foot, 0.08))
    neck = (length + u(0.08, 0.2), -u(0.25, 0.5))
    skull, snout = u(0.16, 0.21), u(0.22, 0.36)
    nose = (neck[0] + snout, neck[1] + u(0.02, 0.12))
    tail = [(-length, -0.08), (-length - u(0.1, 0.25), -u(0.1, 0.35)),
            (-length - u(0.05, 0.3), -u(0.4, 0.6))]  # fmt: skip
    flap = [(neck[0] - 0.06, neck[1] - 0.12), (neck[0] - 0.12, neck[1] + u(0.16, 0.3))]
    parts = [
        Part("dark" if rng.random() < 0.3 else "a", limbs[0] + limbs[2]),
        Part("a", limb(smooth(tail, closed=False, steps=4), 0.1, 0.04)),
        Part("a", limb([(-length, -0.02), (0, 0.02), (length, -0.02)], chest * 0.85, chest)),
        Part("a", limbs[1] + limbs[3]),
        Part("a", limb([(length * 0.9, -0.05), neck], chest * 0.75, skull)),
        Part("a", [ellipse(*neck, skull), *limb([neck, nose], skull * 1.1, skull * 0.6)]),
        Part("b", limb(flap, 0.1, 0.15)),
        Part("dark", [ellipse(*nose, 0.055), ellipse(neck[0] + 0.08, neck[1] - 0.06, 0.03)]),
    ]  # fmt: skip
    if rng.random() < 0.4:
        parts.insert(3, Part("b", [ellipse(u(-0.2, 0.2), -0.03, u(0.1, 0.2), chest * 0.35)]))
    return parts


def cat(rng: np.random.Generator) -> Drawing:
    """Sitting, seen from the front: round head, pointed ears, whiskers, curled tail."""
    u = rng.uniform
    half, tall, head = u(0.26, 0.38), u(0.5, 0.75), u(0.24, 0.32)
    top = -tall - head * 0.4
    turn = u(-0.08, 0.08)
    side = u(0.3, 0.55)
    tail = [(half * 0.6, 0.35), (half + side * 0.6, 0.3), (half + side, u(-0.2, 0.1)),
            (half + side * u(0.3, 0.9), u(-0.5, -0.2))]  # fmt: skip
    body = smooth([(0, -tall), (half * 0.75, -tall * 0.5), (half, 0.1), (half * 0.8, 0.42),
                   (-half * 0.8, 0.42), (-half, 0.1), (-half * 0.75, -tall * 0.5)])  # fmt: skip
    point = u(0.24, 0.36)
    ear = [polygon((head * 0.2, top - head * 0.7), (head * 0.75, top - head - point * 0.7),
                   (head * 0.98, top - head * 0.2))]  # fmt: skip
    inner = [ear[0].mean(axis=0) + (ear[0] - ear[0].mean(axis=0)) * 0.5]
    eye = [ellipse(head * 0.42, top - 0.03, head * 0.17, head * u(0.1, 0.2))]
    slit = [ellipse(head * 0.42, top - 0.03, head * 0.06, head * 0.14)]
    whiskers = limb([(head * 0.3, top + head * 0.4), (head * 1.35, top + head * u(0.2, 0.6))], 0.02)
    paws = [ellipse(half * 0.4, 0.42, half * 0.3, 0.08)]
    legs = limb([(half * 0.3, 0.0), (half * 0.35, 0.4)], half * 0.3)
    shift = np.array([turn, 0.0])

    def moved(pieces: list[Points]) -> list[Points]:
        return [piece + shift for piece in both_sides(pieces)]

    return [
        Part("a", limb(smooth(tail, closed=False, steps=4), 0.13, 0.07)),
        Part("a", [body]),
        Part("b", [ellipse(0, -tall * 0.35, half * 0.45, tall * 0.35)]),
        Part("a", both_sides(legs)),
        Part("b", both_sides(paws)),
        Part("a", moved(ear)),
        Part("b", moved(inner)),
        Part("a", [ellipse(turn, top, head * 1.08, head * 0.95)]),
        Part("pale", moved(eye)),
        Part("dark", [*moved(slit), ellipse(turn, top + head * 0.32, head * 0.12, head * 0.08)]),
        Part("dark", moved(whiskers)),
    ]
