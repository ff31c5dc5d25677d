"""Forms of sky and space."""

from __future__ import annotations

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing, Part
from pretrain.datasets.scenes.outlines import (
    Points,
    both_sides,
    box,
    ellipse,
    lathe,
    limb,
    polygon,
    smooth,
    turned,
)


def airplane(rng: np.random.Generator) -> Drawing:
    """From above: fuselage, swept or straight wings, tailplane, engines."""
    u = rng.uniform
    fat, long = u(0.07, 0.12), u(0.6, 0.8)
    span, sweep, root = u(0.55, 0.85), u(-0.02, 0.4), u(0.14, 0.26)
    tip, place = root * u(0.3, 0.9), u(-0.15, 0.05)
    wing = [polygon((0, place), (span, place + sweep), (span, place + sweep + tip),
                    (0, place + root))]  # fmt: skip
    tail = [polygon((0, long * 0.72), (span * u(0.3, 0.42), long * 0.8 + sweep * 0.3),
                    (span * 0.3, long * 0.95 + sweep * 0.3), (0, long * 0.92))]  # fmt: skip
    parts = [Part("b", both_sides(wing)), Part("b", both_sides(tail))]
    if rng.random() < 0.6:
        x = span * u(0.35, 0.5)
        y = place + sweep * x / span
        pods = limb([(x, y - 0.06), (x, y + 0.1)], u(0.07, 0.11))
        parts.append(Part("metal", both_sides(pods)))
    hull = [(-long, 0.0), (-long * 0.85, fat * 0.8), (0.0, fat), (long * 0.6, fat * 0.8),
            (long, fat * 0.25)]  # fmt: skip
    parts.append(Part("a", [lathe(hull)]))
    parts.append(Part("glass", [ellipse(0, -long * 0.76, fat * 0.6, 0.06)]))
    return [*parts, Part("c", limb([(0, long * 0.65), (0, long)], 0.05))]


def balloon(rng: np.random.Generator) -> Drawing:
    """A hot-air balloon: envelope of gores, ropes, basket."""
    u = rng.uniform
    half, waist, gap = u(0.45, 0.6), u(0.1, 0.18), u(0.12, 0.3)
    low = u(0.5, 0.65)
    envelope = [(-0.6, 0.0), (-0.55, half * 0.5), (-0.2, half * 0.97), (0.1, half * 0.85),
                (low, waist)]  # fmt: skip
    shape = lathe(envelope)
    parts = [Part("a", [shape])]
    gores = int(rng.choice([0, 1, 2]))
    if gores == 1:
        parts.append(Part("b", [shape * (0.62, 1.0)]))
        parts.append(Part("a", [shape * (0.25, 1.0)]))
    elif gores == 2:
        inside = shape[(shape[:, 1] > -0.25) & (shape[:, 1] < u(0.0, 0.2))]
        parts.append(Part("b", [inside]))
    side = waist * u(0.7, 1.0)
    ropes = limb([(waist, low), (side, low + gap)], 0.02)
    basket = box(-side, low + gap, side, low + gap + u(0.14, 0.22), 0.03)
    return [*parts, Part("dark", both_sides(ropes)), Part("c", [basket])]


def kite(rng: np.random.Generator) -> Drawing:
    """A diamond of four fields with spars and a tail of bows."""
    u = rng.uniform
    half, top, low = u(0.32, 0.5), u(0.3, 0.5), u(0.55, 0.85)
    fields = [
        polygon((0, 0), (half, 0), (0, -top)),
        polygon((0, 0), (-half, 0), (0, -top)),
        polygon((0, 0), (half, 0), (0, low)),
        polygon((0, 0), (-half, 0), (0, low)),
    ]
    order = ("a", "b", "b", "a") if rng.random() < 0.5 else ("a", "a", "b", "b")
    if rng.random() < 0.3:
        order = ("a", "a", "a", "a")
    parts = [Part(role, [field]) for role, field in zip(order, fields, strict=True)]
    parts.append(
        Part("dark", limb([(0, -top), (0, low)], 0.03) + limb([(-half, 0), (half, 0)], 0.03))
    )
    t = np.linspace(0, 1, 10)
    length, sway, phase = u(0.5, 1.1), u(0.08, 0.2), u(4, 9)
    tail = np.stack([sway * np.sin(t * phase), low + t * length], axis=1)
    parts.append(Part("dark", limb(tail, 0.03)))
    bows: list[Points] = []
    for x, y in tail[3::3]:
        bows += [
            polygon((x, y), (x + s * 0.13, y - 0.07), (x + s * 0.13, y + 0.07)) for s in (-1, 1)
        ]
    return [*parts, Part("c", bows)]


def rocket(rng: np.random.Generator) -> Drawing:
    """A pointed hull with fins, portholes and often a flame."""
    u = rng.uniform
    half, tall = u(0.16, 0.26), u(0.6, 0.8)
    fin_y, fin_x = u(0.1, 0.35), half + u(0.14, 0.3)
    fin = [polygon((half * 0.8, fin_y), (fin_x, tall * u(0.8, 1.0)), (fin_x, tall * 1.1),
                   (half * 0.6, tall * 0.9))]  # fmt: skip
    hull = lathe([(-tall, 0.0), (-tall * 0.65, half * 0.65), (-0.1, half),
                  (tall * 0.6, half * 0.95), (tall * 0.9, half * u(0.55, 0.9))])  # fmt: skip
    nose = hull[hull[:, 1] < -tall * u(0.5, 0.7)]
    parts = []
    if rng.random() < 0.6:
        flame = u(0.25, 0.6)
        parts.append(Part("c", [polygon((-half * 0.5, tall * 0.85), (half * 0.5, tall * 0.85),
                                        (half * 0.3, tall + flame * 0.5), (0, tall + flame),
                                        (-half * 0.3, tall + flame * 0.5))]))  # fmt: skip
    parts += [Part("b", both_sides(fin)), Part("a", [hull]), Part("b", [nose])]
    for y in np.linspace(-0.25, 0.2, int(rng.integers(1, 4))):
        parts.append(Part("metal", [ellipse(0, y, half * 0.45)]))
        parts.append(Part("glass", [ellipse(0, y, half * 0.3)]))
    return [*parts, Part("c", [box(-half * 0.7, tall * 0.84, half * 0.7, tall * 0.95)])]


def planet(rng: np.random.Generator) -> Drawing:
    """A globe with ring, or bands, or craters."""
    u = rng.uniform
    parts = []
    kind = rng.integers(3)
    bands: list[Points] = []
    if kind != 1:
        for y in np.sort(u(-0.35, 0.35, int(rng.integers(2, 5)))):
            chord = np.sqrt(0.25 - y * y)
            thick = u(0.03, 0.09)
            bow = ellipse(0, y, chord * 0.98, 0.05, start=0, stop=180)
            bands.append(np.concatenate([bow, bow[::-1] - (0.0, thick)]))
    far = ellipse(0, 0, 1.0, u(0.12, 0.3), start=180, stop=360)
    width, reach = u(0.07, 0.16), u(0.75, 0.95)
    ringed = kind == 0 or rng.random() < 0.3
    if ringed:
        parts.append(Part("b", limb(far * reach, width)))
    parts.append(Part("a", [ellipse(0, 0, 0.5, count=40)]))
    if bands:
        parts.append(Part("c", bands))
    else:
        craters = []
        for _ in range(int(rng.integers(4, 9))):
            angle, radius = u(0, 2 * np.pi), u(0.0, 0.38)
            x, y = radius * np.cos(angle), radius * np.sin(angle)
            craters.append(ellipse(x, y, u(0.04, 0.1)))
        parts.append(Part("c", craters))
    if ringed:
        parts.append(Part("b", limb(far * (reach, -reach), width)))
    return parts


def satellite(rng: np.random.Generator) -> Drawing:
    """A body between two gridded panels, with a dish or antennae."""
    u = rng.uniform
    half, tall = u(0.14, 0.24), u(0.2, 0.34)
    start, cells, cell = half + u(0.06, 0.16), int(rng.integers(2, 5)), u(0.16, 0.24)
    high = u(0.14, 0.28)
    end = start + cells * cell
    frame = [box(start, -high, end, high)]
    panes = []
    for i in range(cells):
        x = start + i * cell
        for y0, y1 in ((-high, 0.0), (0.0, high)):
            panes.append(box(x + 0.02, y0 + 0.02, x + cell - 0.02, y1 - 0.02))
    boom = limb([(-end * 0.9, 0), (end * 0.9, 0)], 0.05)
    parts = [
        Part("metal", boom),
        Part("metal", both_sides(frame)),
        Part("b", both_sides(panes)),
    ]
    if rng.random() < 0.7:
        size = u(0.16, 0.26)
        bowl = ellipse(0, -tall - size * 0.6, size, size * 0.8, start=0, stop=180)
        dish = turned(bowl, u(-30, 30), 0, -tall)
        parts.append(Part("pale", [*limb([(0, -tall), (0, -tall - size)], 0.03), dish]))
    else:
        mast = limb([(half * 0.5, -tall), (half * 0.8, -tall - u(0.2, 0.4))], 0.035)
        parts.append(Part("metal", both_sides(mast)))
    body = box(-half, -tall, half, tall, u(0, 0.08))
    return [*parts, Part("a", [body]), Part("c", [body * (1.0, 0.3)])]


def ufo(rng: np.random.Generator) -> Drawing:
    """A saucer with a dome and a row of lights."""
    u = rng.uniform
    half, flat, dome = u(0.6, 0.8), u(0.12, 0.22), u(0.22, 0.36)
    rise = u(0.2, 0.4)
    saucer = smooth([(half, 0), (half * 0.5, -flat), (-half * 0.5, -flat), (-half, 0),
                     (-half * 0.45, flat * 0.9), (half * 0.45, flat * 0.9)])  # fmt: skip
    lights = []
    for x in np.linspace(-0.75, 0.75, int(rng.integers(4, 8))):
        lights.append(ellipse(x * half, flat * 0.35 * (1 - x * x), 0.055, 0.045))
    parts = []
    if rng.random() < 0.4:
        legs = limb([(half * 0.35, flat * 0.5), (half * 0.5, flat + u(0.12, 0.25))], 0.05)
        parts.append(Part("metal", both_sides(legs)))
    parts.append(Part("glass", [ellipse(0, -flat * 0.6, dome, rise, start=180, stop=360)]))
    if rng.random() < 0.4:
        parts.append(Part("b", [ellipse(0, -flat * 0.6 - rise * 0.4, dome * 0.3, rise * 0.4)]))
    parts += [Part("a", [saucer]), Part("c", lights)]
    if rng.random() < 0.5:
        parts.append(Part("b", [ellipse(0, flat * 0.75, half * 0.4, flat * 0.4)]))
    return parts
