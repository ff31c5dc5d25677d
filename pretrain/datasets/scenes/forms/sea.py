"""Forms of the sea."""

from __future__ import annotations

import math

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
    turned,
)


def fish(rng: np.random.Generator) -> Drawing:
    """A lens-shaped body with tail, fins, gill and eye; slim to high-backed."""
    u = rng.uniform
    length, tall = u(0.5, 0.65), u(0.16, 0.42)
    fork, spread = u(0.05, 0.25), u(0.16, 0.36)
    root = -length * 0.85
    tail = polygon((root + 0.08, 0), (root - 0.35, -spread), (root - 0.35 + fork, 0),
                   (root - 0.35, spread))  # fmt: skip
    body = smooth(
        [
            (length, 0.0),
            (length * 0.55, -tall * 0.8),
            (0, -tall),
            (root * 0.7, -tall * 0.4),
            (root, 0),
            (root * 0.7, tall * 0.4),
            (0, tall),
            (length * 0.55, tall * 0.75),
        ]
    )
    back = polygon((length * u(0.2, 0.5), -tall * 0.7), (u(-0.2, 0.1), -tall - u(0.1, 0.3)),
                   (root * 0.6, -tall * 0.3))  # fmt: skip
    belly = polygon(
        (length * 0.3, tall * 0.7), (u(-0.2, 0.1), tall + u(0.05, 0.2)), (-0.1, tall * 0.8)
    )
    fin = turned(ellipse(-0.02, tall * 0.2, u(0.1, 0.2), u(0.05, 0.09)), u(10, 50))
    eye = (length * 0.68, -tall * 0.2)
    gill = smooth([(length * 0.45, -tall * 0.5), (length * 0.36, 0), (length * 0.45, tall * 0.5)],
                  closed=False)  # fmt: skip
    return [
        Part("b", [tail]),
        Part("b", [back, belly]),
        Part("a", [body]),
        Part("dark", limb(gill, 0.025)),
        Part("c", [fin]),
        Part("pale", [ellipse(*eye, 0.065)]),
        Part("dark", [ellipse(*eye, 0.035)]),
    ]


def starfish(rng: np.random.Generator) -> Drawing:
    """Five to seven tapering arms, some curled, with a row of spots."""
    u = rng.uniform
    arms, inner = int(rng.choice([5, 5, 5, 6, 7])), u(0.2, 0.34)
    knots: list[tuple[float, float]] = []
    spots: list[Points] = []
    curl = u(-0.25, 0.25)
    for i in range(arms):
        angle = 2 * math.pi * i / arms + u(-0.08, 0.08)
        reach = 0.6 * u(0.85, 1.1)
        for radius, turn in ((reach * 0.95, curl - 0.07), (reach * 0.95, curl + 0.07)):
            knots.append((radius * math.cos(angle + turn), radius * math.sin(angle + turn)))
        valley = angle + math.pi / arms
        knots.append((inner * math.cos(valley), inner * math.sin(valley)))
        for k in (0.25, 0.45, 0.65):
            a = angle + curl * k
            spots.append(
                ellipse(k * reach * math.cos(a), k * reach * math.sin(a), 0.05 * (1.2 - k))
            )
    parts = [Part("a", [smooth(knots, steps=5)])]
    if rng.random() < 0.75:
        parts.append(Part("c", [*spots, ellipse(0, 0, 0.06)]))
    return parts


def jellyfish(rng: np.random.Generator) -> Drawing:
    """A bell with a scalloped rim and trailing tentacles."""
    u = rng.uniform
    half, tall = u(0.4, 0.58), u(0.3, 0.6)
    count, drop = int(rng.integers(5, 10)), u(0.6, 1.2)
    threads: list[Points] = []
    phase, sway = u(0, 6), u(0.03, 0.09)
    y = np.linspace(0, 1, 9)
    for x in np.linspace(-half * 0.8, half * 0.8, count):
        length = drop * u(0.6, 1.1)
        swing = x * (1 - 0.2 * y) + sway * np.sin(phase + x + y * u(4, 8))
        threads += limb(np.stack([swing, y * length], axis=1), u(0.04, 0.08), 0.02)
    dome = ellipse(0, 0, half, tall, start=180, stop=360, count=20)
    scallops = [ellipse(x, 0, half / 4.6, u(0.06, 0.11)) for x in np.linspace(-0.8, 0.8, 5) * half]
    parts = [Part("b", threads), Part("a", [dome, *scallops])]
    if rng.random() < 0.6:
        parts.append(
            Part(
                "c",
                [
                    ellipse(x, -tall * 0.45, 0.07, tall * 0.25)
                    for x in np.linspace(-0.5, 0.5, int(rng.integers(2, 5))) * half
                ],
            )
        )
    return parts


def octopus(rng: np.random.Generator) -> Drawing:
    """A bulbous head with eyes and thick arms that curl outward."""
    u = rng.uniform
    half, tall = u(0.26, 0.38), u(0.36, 0.5)
    arms = int(rng.choice([6, 8]))
    pieces: list[list[Points]] = []
    for i, spread in enumerate(np.linspace(-1, 1, arms)):
        side = math.copysign(1.0, spread)
        reach, drop = abs(spread) * u(0.7, 1.0), u(0.45, 0.75) * (1.2 - 0.5 * abs(spread))
        hook = u(0.05, 0.25)
        path = smooth([(spread * half * 0.6, 0.05), (spread * 0.5, drop * 0.55),
                       (side * reach * 0.8, drop), (side * (reach + 0.12), drop - hook * 0.3),
                       (side * (reach + 0.08), drop - hook)], closed=False, steps=4)  # fmt: skip
        pieces.insert(0 if i % 2 else len(pieces), limb(path, u(0.15, 0.2), 0.04))
    gap = half * u(0.35, 0.55)
    eyes = [ellipse(gap, -0.05, 0.085)]
    pupils = [ellipse(gap, -0.04, 0.045)]
    parts = [Part("a", arm) for arm in pieces]
    parts.append(Part("a", [ellipse(0, -tall * 0.6, half, tall), ellipse(0, 0, half * 0.8, 0.2)]))
    if rng.random() < 0.5:
        parts.append(Part("c", [ellipse(u(-0.6, 0.6) * half, -tall * u(0.5, 1.2), 0.05)
                                for _ in range(5)]))  # fmt: skip
    return [*parts, Part("pale", both_sides(eyes)), Part("dark", both_sides(pupils))]


def crab(rng: np.random.Generator) -> Drawing:
    """A broad shell, two claws and jointed legs."""
    u = rng.uniform
    half, tall = u(0.34, 0.46), u(0.22, 0.32)
    legs: list[Points] = []
    for y in np.linspace(-0.02, tall * 0.7, 3):
        knee = (half + u(0.14, 0.24), y - u(0.0, 0.14))
        legs += limb(
            [(half * 0.7, y), knee, (knee[0] + u(0.05, 0.14), y + u(0.2, 0.34))], 0.08, 0.04
        )
    elbow = (half + u(0.1, 0.25), -u(0.05, 0.2))
    hand = (elbow[0] + u(-0.15, 0.1), elbow[1] - u(0.22, 0.35))
    arm = limb([(half * 0.7, -0.05), elbow, hand], 0.11)
    claw, tilt = u(0.14, 0.22), u(-30, 30)
    pincer = [turned(ellipse(*hand, claw * 0.8, claw), tilt, *hand)]
    mouth = polygon((-0.05, -claw * 1.1), (0.07, -claw * 1.1), (0, claw * 0.1)) + np.array(hand)
    gap = [turned(mouth, tilt, *hand)]
    stalk = limb([(0.1, -tall * 0.7), (0.12, -tall - 0.1)], 0.04)
    iris = [ellipse(0.12, -tall - 0.1, 0.06)]
    return [
        Part("b", both_sides(legs)),
        Part("a", both_sides(arm)),
        Part("a", both_sides(pincer)),
        Part("hole", both_sides(gap)),
        Part("b", both_sides(stalk)),
        Part("dark", both_sides(iris)),
        Part("a", [smooth([(half, -0.03), (half * 0.6, -tall), (-half * 0.6, -tall), (-half, -0.03),
                           (-half * 0.5, tall), (half * 0.5, tall)])]),
    ]  # fmt: skip


def boat(rng: np.random.Generator) -> Drawing:
    """A hull with mast and sails, or with a cabin and funnel."""
    u = rng.uniform
    half, deep = u(0.5, 0.75), u(0.16, 0.28)
    bow = u(0.05, 0.25)
    hull = polygon(
        (-half, 0), (half + bow, -0.03), (half * u(0.6, 0.85), deep), (-half * 0.8, deep)
    )
    band = polygon((-half, 0), (half + bow, -0.03), (half + bow * 0.6, 0.06), (-half * 0.97, 0.06))
    if rng.random() < 0.6:
        mast, x = u(0.8, 1.2), half * u(-0.15, 0.2)
        main = polygon((x - 0.04, -mast), (x - 0.04, -0.1), (x - half * u(0.7, 0.95), -u(0.1, 0.2)))
        jib = polygon(
            (x + 0.04, -mast * u(0.7, 0.95)), (x + 0.04, -0.08), (half + bow * 0.8, -0.08)
        )
        return [
            Part("metal", limb([(x, 0.05), (x, -mast - 0.04)], 0.045)),
            Part("a", [main]),
            Part("b" if rng.random() < 0.6 else "a", [jib]),
            Part("c", [hull]),
            Part("pale" if rng.random() < 0.5 else "b", [band]),
        ]
    x0, x1, tall = -half * u(0.5, 0.8), half * u(0.1, 0.6), u(0.2, 0.35)
    ports = [ellipse(x, -tall * 0.55, 0.05) for x in np.linspace(x0 + 0.12, x1 - 0.12, 4)]
    stack = (x0 + x1) / 2 + u(-0.1, 0.1)
    return [
        Part("b", [box(stack - 0.08, -tall - u(0.25, 0.4), stack + 0.08, -tall + 0.05)]),
        Part("pale", [box(x0, -tall, x1, 0.03)]),
        Part("glass", ports),
        Part("a", [hull]),
        Part("c", [band]),
    ]


def anchor(rng: np.random.Generator) -> Drawing:
    """A ring, shank and stock, and two curved arms with flukes."""
    u = rng.uniform
    tall, reach, bar = u(0.55, 0.75), u(0.4, 0.6), u(0.09, 0.14)
    eye, stock = u(0.09, 0.14), u(0.2, 0.36)
    lift = u(0.25, 0.42)
    arms = ellipse(0, tall - lift, reach, lift, start=0, stop=180, count=16)
    fluke = [polygon((reach - 0.17, tall - lift + 0.05), (reach + 0.14, tall - lift + 0.05),
                     (reach + u(-0.02, 0.08), tall - lift - u(0.16, 0.26)))]  # fmt: skip
    parts = [
        Part("metal" if rng.random() < 0.3 else "a",
             limb([(0, -tall), (0, tall)], bar) + limb(arms, bar) + both_sides(fluke)),
        Part("b", limb([(-stock, -tall * 0.7), (stock, -tall * 0.7)], bar * 0.9)),
        Part("b", ring(0, -tall - eye, eye, eye, bar * 0.55)),
    ]  # fmt: skip
    if rng.random() < 0.4:
        sway = np.linspace(0, 1, 10)
        rope = np.stack([0.25 * np.sin(sway * u(5, 8)), -tall - eye + sway * 1.4 * tall], axis=1)
        parts.append(Part("c", limb(rope, 0.05)))
    return parts
