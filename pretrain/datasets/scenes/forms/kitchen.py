"""Forms of the kitchen."""

from __future__ import annotations

import numpy as np

from pretrain.datasets.scenes.drawing import Drawing, Part
from pretrain.datasets.scenes.outlines import box, ellipse, lathe, limb, polygon


def mug(rng: np.random.Generator) -> Drawing:
    """A cup with an ear; straight or tapered, some with a band."""
    u = rng.uniform
    half, tall = u(0.35, 0.55), u(0.4, 0.65)
    foot, tilt = half * u(0.6, 1.05), half * u(0.12, 0.32)
    ear = ellipse(
        half * 0.9, u(-0.1, 0.15) * tall, u(0.35, 0.65) * half, u(0.4, 0.7) * tall,
        start=-105, stop=105, count=14,
    )  # fmt: skip
    front = ellipse(0, tall, foot, tilt * 0.8, start=0, stop=180, count=14)
    parts = [
        Part("b" if rng.random() < 0.3 else "a", limb(ear, u(0.1, 0.2))),
        Part("a", [np.concatenate([front, polygon((-half, -tall), (half, -tall))])]),
    ]
    if rng.random() < 0.5:
        y0 = u(-0.5, 0.2) * tall
        y1 = y0 + u(0.2, 0.6) * tall
        w0, w1 = (half + (foot - half) * (y / tall + 1) / 2 for y in (y0, y1))
        parts.append(Part("b", [polygon((-w0, y0), (w0, y0), (w1, y1), (-w1, y1))]))
    parts.append(Part("a", [ellipse(0, -tall, half, tilt)]))
    parts.append(Part("dark", [ellipse(0, -tall + 0.02, half * 0.86, tilt * 0.75)]))
    return parts


def bottle(rng: np.random.Generator) -> Drawing:
    """A body with shoulder, neck and cap; wine, milk and flask shapes."""
    u = rng.uniform
    body, neck = u(0.22, 0.42), u(0.07, 0.13)
    shoulder, top = u(-0.45, 0.05), u(-0.95, -0.75)
    belly = body * u(0.8, 1.25)
    profile = [
        (top, neck), ((top + shoulder) / 2, neck * u(1.0, 1.2)),
        (shoulder, body), (0.4, belly), (0.9, body * u(0.75, 1.0)),
    ]  # fmt: skip
    parts = [Part("a", [lathe([*profile, (0.97, body * 0.7)])])]
    if rng.random() < 0.7:
        y0 = max(shoulder + 0.15, u(0.0, 0.3))
        side = min(body, belly) * u(0.7, 0.98)
        parts.append(Part("b", [box(-side, y0, side, y0 + u(0.25, 0.5), 0.04)]))
    cap = neck * u(1.1, 1.5)
    parts.append(Part("c", [box(-cap, top - u(0.06, 0.18), cap, top + 0.08, 0.03)]))
    return parts


def teapot(rng: np.random.Generator) -> Drawing:
    """A round body with spout, handle and a lid with a knob."""
    u = rng.uniform
    half, tall = u(0.5, 0.7), u(0.38, 0.62)
    lift = u(0.6, 1.1) * tall
    spout = [(half * 0.7, u(0.0, 0.3) * tall), (half * 1.15, 0.0), (half * u(1.4, 1.7), -lift)]
    if rng.random() < 0.6:
        loop = ellipse(-half * 0.9, 0, half * u(0.4, 0.6), tall * u(0.5, 0.8), start=80, stop=280)
    else:
        loop = ellipse(0, -tall * 0.6, half * 0.75, tall * u(0.9, 1.3), start=180, stop=360)
    lid = half * u(0.4, 0.65)
    knob = u(0.07, 0.12)
    return [
        Part("b" if rng.random() < 0.5 else "a", limb(loop[::2], u(0.08, 0.14))),
        Part("a", limb(spout, u(0.25, 0.36), u(0.1, 0.16))),
        Part(
            "a", [ellipse(0, 0, half, tall), box(-half * 0.5, tall * 0.7, half * 0.5, tall * 1.1)]
        ),
        Part("b", [ellipse(0, -tall * 0.82, lid, tall * 0.3, start=180, stop=360)]),
        Part("c", [ellipse(0, -tall * 1.12 - knob * 0.6, knob, knob)]),
    ]


def pan(rng: np.random.Generator) -> Drawing:
    """A frying pan from above or a pot lid's view: disc, rim and a long handle."""
    u = rng.uniform
    rx, ry = 0.5, u(0.32, 0.5)
    length, inner = u(0.6, 1.0), u(0.74, 0.88)
    grip = u(0.08, 0.14)
    parts = [
        Part("metal", limb([(0.4, 0), (rx + 0.25, 0)], grip * 0.7)),
        Part("b", limb([(rx + 0.15, 0), (rx + length, 0)], grip, grip * u(0.9, 1.6))),
        Part("hole", [ellipse(rx + length * 0.95, 0, grip * 0.22)]),
        Part("a", [ellipse(0, 0, rx, ry)]),
        Part("metal", [ellipse(0, 0, rx * inner, ry * inner)]),
    ]
    if rng.random() < 0.4:
        x, y = u(-0.15, 0.15), u(-0.1, 0.1)
        parts.append(Part("pale", [ellipse(x, y, u(0.14, 0.22), u(0.1, 0.18))]))
        parts.append(Part("c", [ellipse(x, y, 0.08, 0.07)]))
    return parts


def fork(rng: np.random.Generator) -> Drawing:
    """A handle, a head and two to four tines."""
    u = rng.uniform
    tines = int(rng.integers(2, 5))
    half, head = u(0.14, 0.22), u(0.15, 0.3)
    tip, length = u(0.3, 0.5), u(0.9, 1.4)
    width = 2 * half / (1.6 * tines - 0.6)
    role = "metal" if rng.random() < 0.5 else "a"
    spread = np.linspace(-half + width / 2, half - width / 2, tines)
    grip = u(0.09, 0.18)
    parts = [
        Part(role, limb([(0, 0.1), (0, length * 0.6)], u(0.08, 0.12))),
        Part("b" if rng.random() < 0.6 else role,
             limb([(0, length * 0.45), (0, length)], grip * 0.8, grip)),
        Part(role, [lathe([(-head, half), (-head * 0.4, half), (0.0, half * 0.7), (0.14, 0.05)])]),
    ]  # fmt: skip
    for x in spread:
        parts.append(Part(role, limb([(x, -head * 0.8), (x, -head - tip)], width, width * 0.6)))
    return parts
