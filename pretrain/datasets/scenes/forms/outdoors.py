"""Forms of forest and meadow."""

from __future__ import annotations

import math

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing, Part
from pretrain.datasets.scenes.outlines import (
    Points,
    both_sides,
    ellipse,
    lathe,
    limb,
    lumps,
    polygon,
    smooth,
    turned,
)


def tree(rng: np.random.Generator) -> Drawing:
    """A trunk that forks into a lumpy crown of one to four clumps."""
    u = rng.uniform
    trunk, tall = u(0.1, 0.2), u(0.4, 0.9)
    lean = u(-0.12, 0.12)
    wood = limb([(0, tall), (lean * 0.5, tall * 0.4), (lean, -0.1)], trunk * 1.4, trunk * 0.7)
    clumps: list[Points] = []
    count = int(rng.integers(1, 5))
    for i in range(count):
        x = lean + (i - (count - 1) / 2) * u(0.25, 0.4)
        y = -0.3 - u(0.0, 0.35)
        wood += limb([(lean * 0.5, tall * 0.4), (x * 0.8, y * 0.5)], trunk * 0.6, trunk * 0.3)
        size = u(0.3, 0.45) if count > 1 else u(0.45, 0.6)
        clumps.append(lumps(rng, x, y, size, size * u(0.75, 1.1), n=int(rng.integers(5, 9))))
    parts = [Part("b", wood)] + [Part("a", [clump]) for clump in clumps]
    if rng.random() < 0.35:
        dots = [ellipse(lean + u(-0.3, 0.3), u(-0.7, -0.15), 0.05) for _ in range(7)]
        parts.append(Part("c", dots))
    return parts


def fir(rng: np.random.Generator) -> Drawing:
    """A trunk and two to five tiers of hanging branches."""
    u = rng.uniform
    tiers, half, tall = int(rng.integers(2, 6)), u(0.35, 0.6), u(1.0, 1.5)
    trunk, droop = u(0.08, 0.15), u(0.0, 0.12)
    parts = [Part("b", limb([(0, 0), (0, tall / 2 + u(0.15, 0.35))], trunk))]
    for i in reversed(range(tiers)):
        share = (i + 1) / tiers
        wide = half * (0.35 + 0.65 * share) * u(0.92, 1.08)
        y0, y1 = -tall / 2 + tall * 0.8 * i / tiers, -tall / 2 + tall * share
        skirt = [(wide, y1 + droop)]
        for k in range(1, 6):
            notch = droop * (1 if k % 2 == 0 else 0) - 0.02
            skirt.append((wide * (1 - k / 3), y1 + notch))
        parts.append(Part("a", [polygon((0, y0), *skirt, (-wide, y1 + droop))]))
    return parts


def mushroom(rng: np.random.Generator) -> Drawing:
    """A stem under a cap: flat, domed or pointed, often spotted."""
    u = rng.uniform
    half, cap, tall = u(0.35, 0.65), u(0.25, 0.55), u(0.4, 0.8)
    stem, foot = u(0.09, 0.18), u(1.0, 1.9)
    tip = u(0.35, 0.85)
    dome = lathe([(-cap, 0.0), (-cap * 0.85, half * tip * 0.6), (-cap * 0.3, half * 0.92),
                  (0.0, half), (0.05, half * 0.9)])  # fmt: skip
    parts = [
        Part("pale" if rng.random() < 0.5 else "b",
             [lathe([(-0.05, stem), (tall * 0.6, stem * 1.05), (tall, stem * foot)])]),
        Part("c", [ellipse(0, 0.02, half * 0.9, u(0.05, 0.12))]),
        Part("a", [dome]),
    ]  # fmt: skip
    if rng.random() < 0.65:
        spots = []
        for _ in range(int(rng.integers(3, 8))):
            x = u(-0.6, 0.6) * half
            y = -cap * u(0.1, 0.75) * (1 - (x / half) ** 2)
            spots.append(ellipse(x, y, u(0.04, 0.09), u(0.03, 0.06)))
        parts.append(Part("pale", spots))
    if rng.random() < 0.3:
        parts.insert(1, Part("pale", [ellipse(0, tall * 0.35, stem * 1.7, 0.06)]))
    return parts


def flower(rng: np.random.Generator) -> Drawing:
    """Petals round a disc on a stem with leaves; or a tulip."""
    u = rng.uniform
    stem, bend = u(0.6, 1.2), u(-0.15, 0.15)
    stalk = smooth([(0, 0), (bend, stem * 0.5), (0, stem)], closed=False, steps=5)
    parts = [Part("b", limb(stalk, u(0.04, 0.08)))]
    leaves: list[Points] = []
    for side in (-1, 1)[: int(rng.integers(1, 3))]:
        y, turn = stem * u(0.4, 0.8), side * u(20, 50)
        leaf = ellipse(bend * 0.7 + side * 0.2, y, 0.22, u(0.06, 0.1))
        leaves.append(turned(leaf, -turn, bend * 0.7, y))
    parts.append(Part("b", leaves))
    if rng.random() < 0.25:
        half, tall = u(0.2, 0.3), u(0.4, 0.55)
        cup = smooth([(0, 0.1), (half, -0.05), (half * 1.05, -tall), (half * 0.5, -tall * 0.7),
                      (0, -tall * 1.05), (-half * 0.5, -tall * 0.7), (-half * 1.05, -tall),
                      (-half, -0.05)])  # fmt: skip
        return [*parts, Part("a", [cup])]
    count, long, wide = int(rng.integers(5, 12)), u(0.3, 0.5), u(0.5, 1.0)
    heart, flat = u(0.12, 0.2), u(0.7, 1.0)
    half = min(math.pi * long / count * wide * 1.3, 0.16)
    start = u(0, 360)
    petals = []
    for i in range(count):
        petal = turned(ellipse(long * 0.6, 0, long * 0.5, half), start + 360 * i / count)
        petals.append(petal * (1.0, flat))
    parts += [Part("a", [petal]) for petal in petals]
    return [*parts, Part("c", [ellipse(0, 0, heart, heart * flat)])]


def butterfly(rng: np.random.Generator) -> Drawing:
    """Two pairs of spotted wings, a body and feelers."""
    u = rng.uniform
    span, rise, low = u(0.6, 0.85), u(0.45, 0.75), u(0.35, 0.6)
    squeeze = u(0.55, 1.0)
    upper = smooth([(0.02, -0.05), (span * 0.55, -rise), (span, -rise * u(0.75, 1.05)),
                    (span * 0.85, -rise * 0.15), (0.02, 0.08)])  # fmt: skip
    lower = smooth([(0.02, 0.0), (span * 0.75, 0.05), (span * u(0.6, 0.8), low),
                    (span * 0.3, low * u(0.9, 1.3)), (0.02, 0.2)])  # fmt: skip
    spots = [ellipse(span * 0.66, -rise * 0.62, u(0.07, 0.14), u(0.07, 0.14)),
             ellipse(span * 0.5, low * 0.5, u(0.06, 0.12))]  # fmt: skip
    edge = [upper.mean(axis=0) + (upper - upper.mean(axis=0)) * u(0.65, 0.85)]
    feeler = limb(smooth([(0.02, -0.3), (0.1, -0.5), (0.2, -u(0.55, 0.7))], closed=False), 0.03)

    def both(pieces: list[Points]) -> list[Points]:
        return [piece * (squeeze, 1.0) for piece in both_sides(pieces)]

    return [
        Part("b", both([lower])),
        Part("a", both([upper])),
        Part("b" if rng.random() < 0.5 else "a", both(edge)),
        Part("c", both(spots)),
        Part("dark", both_sides(feeler)),
        Part("dark", [*limb([(0, -0.28), (0, u(0.3, 0.45))], 0.12, 0.06), ellipse(0, -0.3, 0.08)]),
    ]


def snail(rng: np.random.Generator) -> Drawing:
    """A spiral shell on a long foot, two eye stalks."""
    u = rng.uniform
    shell, thick = u(0.36, 0.5), u(0.14, 0.22)
    neck = -u(0.15, 0.4)
    foot = smooth([(-0.75, 0.45), (-0.2, 0.4), (0.45, 0.4), (0.68, neck)], closed=False)
    turns = u(1.8, 2.8)
    angle = np.linspace(0, turns * 2 * math.pi, 34)
    radius = shell * (1 - 0.92 * angle / angle[-1]) * 0.88
    tilt = u(0, 2 * math.pi)
    spiral = np.stack([radius * np.cos(angle + tilt), radius * np.sin(angle + tilt)], axis=1)
    stalks: list[Points] = []
    for lean in (u(0.0, 0.1), u(0.15, 0.3)):
        top = (0.68 + lean, neck - u(0.2, 0.35))
        stalks += [*limb([(0.68, neck), top], 0.045), ellipse(*top, 0.05)]
    return [
        Part("b", stalks),
        Part("b", limb(foot, 0.06, thick * 1.2)),
        Part("a", [ellipse(0, 0, shell, shell * u(0.85, 1.05))]),
        Part("c" if rng.random() < 0.5 else "dark", limb(spiral, 0.08, 0.035)),
    ]


def bird(rng: np.random.Generator) -> Drawing:
    """Side view with beak and tail: perched with folded wing, or flying."""
    u = rng.uniform
    length, fat, head = u(0.4, 0.55), u(0.2, 0.32), u(0.13, 0.19)
    face = (length * 0.95, -u(0.18, 0.36))
    beak = u(0.12, 0.3)
    tail = polygon((-length * 0.7, -0.06), (-length - u(0.25, 0.5), u(-0.2, 0.05)),
                   (-length - u(0.2, 0.45), u(0.06, 0.22)), (-length * 0.7, 0.1))  # fmt: skip
    bill = polygon((face[0] + head * 0.7, face[1] - 0.06),
                   (face[0] + head + beak, face[1] + u(0.0, 0.06)),
                   (face[0] + head * 0.7, face[1] + 0.08))  # fmt: skip
    neck = limb([(length * 0.5, -0.02), face], fat * 1.1, head * 1.5)
    core = [
        Part("b", [tail]),
        Part("c", [bill]),
        Part("a", [ellipse(0, 0, length, fat), *neck, ellipse(*face, head)]),
        Part("dark", [ellipse(face[0] + head * 0.35, face[1] - 0.03, 0.035)]),
    ]
    if rng.random() < 0.5:
        reach, sweep = u(0.55, 0.9), u(-0.5, 0.2)
        far = smooth([(0.2, -0.05), (sweep + 0.25, -reach), (-0.15, -0.08)], steps=6)
        near = smooth([(0.25, 0.0), (sweep, -reach * u(0.7, 1.0)), (sweep - 0.25, -reach * 0.6),
                       (-0.25, 0.05)], steps=5)  # fmt: skip
        return [Part("b", [far]), *core, Part("b", [near])]
    legs: list[Points] = []
    for x in (-0.02, 0.12):
        legs += limb([(x, fat * 0.8), (x, fat + u(0.15, 0.3)), (x + 0.1, fat + 0.3)], 0.04)
    wing = turned(ellipse(-length * 0.25, -0.02, length * 0.65, fat * 0.55), u(-5, 12))
    return [Part("dark", legs), *core, Part("b", [wing])]
