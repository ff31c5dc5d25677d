"""Forms of a room: furniture and what stands on it."""

from __future__ import annotations

import math

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


def table(rng: np.random.Generator) -> Drawing:
    """A top in perspective on four legs or a pedestal."""
    u = rng.uniform
    half, deep, tall = u(0.6, 0.9), u(0.08, 0.28), u(0.45, 0.8)
    slant, slab = u(0.05, 0.25), u(0.04, 0.1)
    leg = u(0.05, 0.12)
    parts = []
    round_top = rng.random() < 0.35
    if round_top or rng.random() < 0.2:
        foot = half * u(0.35, 0.6)
        parts.append(Part("b", limb([(0, 0), (0, tall)], leg * 1.3)))
        parts.append(Part("b", [ellipse(0, tall, foot, 0.06 + deep * 0.3)]))
    else:
        splay = u(-0.02, 0.1)
        x = half - slant - leg / 2
        back = [polygon((x - leg, 0), (x, 0), (x, tall - deep), (x - leg * 0.8, tall - deep))]
        parts.append(Part("dark", both_sides(back)))
        x = half - leg / 2
        front = [polygon((x - leg, 0.05), (x, 0.05), (x + splay, tall), (x + splay - leg, tall))]
        parts.append(Part("b", both_sides(front)))
    if round_top:
        parts.append(Part("c", [ellipse(0, slab, half, deep)]))
        parts.append(Part("a", [ellipse(0, 0, half, deep)]))
        return parts
    if rng.random() < 0.4:
        parts.append(Part("c", [box(-half * 0.9, 0, half * 0.9, slab + u(0.1, 0.2))]))
    top = polygon((-half + slant, -deep), (half - slant, -deep), (half, deep), (-half, deep))
    parts.append(Part("c", [box(-half, deep - 0.01, half, deep + slab)]))
    parts.append(Part("a", [top]))
    return parts


def chair(rng: np.random.Generator) -> Drawing:
    """Seat, four legs and a back of slats, bars or one board."""
    u = rng.uniform
    half, rise, leg = u(0.3, 0.42), u(0.6, 0.95), u(0.05, 0.09)
    tall, deep, shift = u(0.45, 0.7), u(0.1, 0.2), u(0.05, 0.25)
    x0, x1 = -half + shift, half + shift
    legs = [limb([(x, 0), (x, tall - deep)], leg) for x in (x0, x1)]
    parts = [Part("dark", [piece for pieces in legs for piece in pieces])]
    posts = limb([(x0, 0), (x0, -rise)], leg) + limb([(x1, 0), (x1, -rise)], leg)
    kind = rng.integers(3)
    if kind == 0:
        bars = []
        for y in np.linspace(-rise * 0.95, -rise * 0.3, int(rng.integers(2, 5))):
            bars.append(box(x0, y, x1, y + u(0.06, 0.12), 0.02))
        parts += [Part("b", posts), Part("a", bars)]
    elif kind == 1:
        bars = [box(x0, -rise, x1, -rise + 0.14, 0.05)]
        for x in np.linspace(x0, x1, int(rng.integers(4, 7)))[1:-1]:
            bars += limb([(x, -rise + 0.1), (x, 0)], leg * 0.6)
        parts += [Part("b", posts), Part("a", bars)]
    else:
        top = u(0.05, 0.3)
        parts.append(Part("b", posts))
        parts.append(Part("a", [box(x0 - 0.03, -rise - 0.05, x1 + 0.03, -rise * 0.25, top)]))
    seat = polygon((x0, -deep * 0.4), (x1, -deep * 0.4), (half, deep), (-half, deep))
    legs = [limb([(x, deep), (x + s, deep + tall)], leg) for x, s in ((-half, -0.03), (half, 0.03))]
    parts.append(Part("b", [piece for pieces in legs for piece in pieces]))
    parts.append(Part("a", [seat, box(-half, deep - 0.01, half, deep + u(0.05, 0.12))]))
    return parts


def lamp(rng: np.random.Generator) -> Drawing:
    """A shade on a pole: standing, table or jointed desk lamp."""
    u = rng.uniform
    pole, foot = u(0.03, 0.07), u(0.2, 0.4)
    top, bottom, tall = u(0.1, 0.3), u(0.32, 0.5), u(0.3, 0.5)
    shade = polygon((-top, -tall), (top, -tall), (bottom, 0), (-bottom, 0))
    if rng.random() < 0.35:
        elbow = (u(-0.5, -0.3), u(-0.1, 0.15))
        head = (u(0.1, 0.3), u(-0.6, -0.35))
        cone = turned(shade * 0.7, u(-40, -5)) + np.array(head)
        return [
            Part("b", limb([(0, 0.7), elbow, head], pole * 1.2)),
            Part("metal", [ellipse(*elbow, pole * 1.5), ellipse(*head, pole * 2.2)]),
            Part("c", [ellipse(0, 0.72, foot, 0.09)]),
            Part("a", [cone]),
        ]
    length = u(0.5, 1.3)
    parts = [Part("pale", [ellipse(0, 0.0, bottom * 0.35, 0.12)])]
    if length < 0.8:
        swell = u(0.08, 0.26)
        body = [(0.0, pole), (length * 0.3, swell), (length * 0.7, swell * u(0.4, 1.2))]
        parts.append(Part("b", [lathe([*body, (length, pole * 1.5)])]))
    else:
        parts.append(Part("b", limb([(0, -tall * 0.3), (0, length)], pole)))
    parts.append(Part("c", [ellipse(0, length, foot, u(0.05, 0.1))]))
    parts.append(Part("a", [shade]))
    return parts


def book(rng: np.random.Generator) -> Drawing:
    """Open with lines of text, or closed with a spine and a title."""
    u = rng.uniform
    if rng.random() < 0.5:
        half, tall, sag = u(0.5, 0.75), u(0.3, 0.5), u(0.03, 0.14)
        cover = polygon((-half - 0.04, -tall + 0.03), (half + 0.04, -tall + 0.03),
                        (half + 0.04, tall + 0.06), (-half - 0.04, tall + 0.06))  # fmt: skip
        edge = [(0.0, -tall), (half * 0.5, -tall - sag), (half, -tall)]
        low = [(half, tall), (half * 0.5, tall - sag), (0.0, tall)]
        page = np.concatenate([smooth(edge, closed=False), smooth(low, closed=False)])
        lines = []
        for y in np.linspace(-tall * 0.7, tall * 0.6, int(rng.integers(4, 8))):
            lines.append(box(0.12 * half, y, half * u(0.6, 0.9), y + 0.035))
        return [
            Part("a", [cover]),
            Part("pale", both_sides([page])),
            Part("dark", both_sides(lines)),
            Part("dark", limb([(0, -tall), (0, tall)], 0.025)),
        ]
    half, tall, thick = u(0.3, 0.5), u(0.5, 0.65), u(0.08, 0.22)
    lean = thick * u(0.4, 0.9)
    pages = polygon((-half, tall), (half, tall), (half + thick, tall - lean),
                    (half + thick, -tall - lean), (half, -tall))  # fmt: skip
    lid = polygon((-half, -tall), (half, -tall), (half + thick, -tall - lean),
                  (-half + thick, -tall - lean))  # fmt: skip
    title = [box(-half * 0.5, y, half * 0.7, y + 0.07) for y in (-tall * 0.6, -tall * 0.4)]
    parts = [
        Part("pale", [pages]),
        Part("a", [lid] if rng.random() < 0.5 else []),
        Part("a", [box(-half, -tall, half, tall)]),
        Part("b", [box(-half, -tall, -half * 0.75, tall)]),
        Part("c", title),
    ]
    if rng.random() < 0.5:
        parts.append(Part("c", [ellipse(half * 0.1, tall * 0.35, half * 0.4)]))
    return [part for part in parts if part.pieces]


def clock(rng: np.random.Generator) -> Drawing:
    """A dial with ticks and two hands; round or square, some with bells and feet."""
    u = rng.uniform
    square = rng.random() < 0.25
    dial = 0.5 * u(0.76, 0.9)
    parts = []
    if not square and rng.random() < 0.45:
        bells = [ellipse(0.32, -0.5, 0.2, 0.15), *limb([(0.3, 0.4), (0.45, 0.62)], 0.1)]
        parts.append(Part("b", both_sides(bells)))
    frame = box(-0.5, -0.5, 0.5, 0.5, u(0, 0.15)) if square else ellipse(0, 0, 0.5)
    face = box(-dial, -dial, dial, dial, 0.1) if square else ellipse(0, 0, dial)
    parts += [Part("a", [frame]), Part("pale" if rng.random() < 0.7 else "c", [face])]
    ticks: list[Points] = []
    for angle in range(0, 360, 30 if rng.random() < 0.6 else 90):
        ticks.append(turned(box(dial * 0.8, -0.02, dial * 0.94, 0.02), angle))
    minute, hour = u(0, 360), u(0, 360)
    hands = [
        turned(box(-0.06, -0.022, dial * 0.75, 0.022), minute),
        turned(box(-0.06, -0.035, dial * 0.5, 0.035), hour),
        ellipse(0, 0, 0.05),
    ]
    return [*parts, Part("dark", ticks), Part("dark", hands)]


def laptop(rng: np.random.Generator) -> Drawing:
    """A screen hinged to a keyboard."""
    u = rng.uniform
    half, tall, deep = u(0.5, 0.65), u(0.6, 0.85), u(0.2, 0.45)
    lean, flare, rim = u(-0.08, 0.12), u(0.05, 0.2), u(0.04, 0.07)
    screen = polygon((-half + lean, -tall), (half + lean, -tall), (half, 0), (-half, 0))
    center = np.array([lean / 2, -tall / 2])
    shrink = np.array([1 - rim / half, 1 - 2 * rim / tall])
    base = polygon((-half, 0), (half, 0), (half + flare, deep), (-half - flare, deep))
    parts = [Part("a", [screen]), Part("glass", [(screen - center) * shrink + center])]
    windows = []
    for _ in range(int(rng.integers(0, 4))):
        x, y = u(-half * 0.7, half * 0.2), u(-tall * 0.8, -tall * 0.35)
        windows.append(box(x, y, x + u(0.1, 0.4) * half * 2, y + u(0.1, 0.25)))
    if windows:
        parts.append(Part("c", windows))
    parts.append(Part("a", [base, box(-half - flare, deep, half + flare, deep + 0.04)]))
    keys = []
    rows = int(rng.integers(3, 5))
    for row in range(rows):
        t0, t1 = (0.1 + 0.5 * (row + k) / rows for k in (0.0, 0.7))
        x0, x1 = half + flare * t0 - 0.07, half + flare * t1 - 0.07
        keys.append(polygon((-x0, deep * t0), (x0, deep * t0), (x1, deep * t1), (-x1, deep * t1)))
    parts.append(Part("dark", keys))
    parts.append(Part("b", [box(-half * 0.22, deep * 0.7, half * 0.22, deep * 0.92, 0.02)]))
    return parts


def plant(rng: np.random.Generator) -> Drawing:
    """A pot with leaves: blades, round leaves on stalks, or a cactus."""
    u = rng.uniform
    top, foot, tall = u(0.25, 0.4), u(0.15, 0.3), u(0.3, 0.5)
    pot = polygon((-top, 0), (top, 0), (foot, tall), (-foot, tall))
    leaves: list[Points] = []
    kind = rng.integers(3)
    if kind == 2:
        height, arm = u(0.5, 0.8), u(0.16, 0.28)
        leaves += limb([(0, 0.1), (0, -height)], arm * 1.4)
        for side in (-1, 1)[: int(rng.integers(1, 3))]:
            y = u(-0.45, -0.15)
            leaves += limb([(0, y), (side * 0.3, y), (side * 0.32, y - u(0.15, 0.3))], arm * 0.8)
    else:
        for angle in np.linspace(-70, 70, int(rng.integers(4, 8))) + u(-8, 8):
            length = u(0.5, 0.9) * (1.1 if kind == 0 else 0.8)
            x, y = math.sin(math.radians(angle)), -math.cos(math.radians(angle))
            droop = u(0.0, 0.3) * abs(x)
            end = (x * length * 0.8, y * length + droop)
            bend = (x * length * 0.35, y * length * 0.7)
            if kind == 0:
                blade = smooth([(0.0, 0.05), bend, end], closed=False, steps=4)
                leaves += limb(blade, u(0.1, 0.16), 0.02)
            else:
                leaves += limb([(0, 0.05), bend, end], 0.03)
                leaves.append(turned(ellipse(*end, u(0.1, 0.14), u(0.16, 0.24)), angle, *end))
    return [
        Part("b", leaves),
        Part("a", [pot]),
        Part("c", [box(-top - 0.04, -0.04, top + 0.04, u(0.06, 0.14), 0.03)]),
    ]
