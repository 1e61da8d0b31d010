"""Ten colours that people and a small model can distinguish, and the perceived difference of two colours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (205, 38, 42),
    "orange": (243, 132, 28),
    "yellow": (248, 208, 48),
    "green": (46, 152, 72),
    "blue": (38, 92, 196),
    "purple": (122, 58, 164),
    "pink": (244, 144, 184),
    "brown": (124, 78, 46),
    "black": (44, 44, 50),
    "white": (246, 246, 244),
}

LABELS: dict[str, Rgb] = {"white": (250, 250, 247), "cream": (244, 230, 196), "black": (38, 38, 44)}
"""Colours of the label panel."""

_SHADE_DISTANCE = {1: 25.0, 2: 41.0}
"""Severity → CIE76 distance of a changed colour. The light of a scene alone changes a colour by up to about 8."""


@lru_cache(maxsize=4096)
def lab(rgb: Rgb) -> tuple[float, float, float]:
    """Convert sRGB (0-255) to CIE L*a*b*, D65 (IEC 61966-2-1, CIE 15)."""
    c = np.asarray(rgb, np.float64) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ c
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return float(116 * f[1] - 16), float(500 * (f[0] - f[1])), float(200 * (f[1] - f[2]))


def distance(one: Rgb, other: Rgb) -> float:
    """CIE76 colour difference; about 2 is just noticeable side by side."""
    return float(np.linalg.norm(np.subtract(lab(one), lab(other))))


def nearest(rgb: Rgb) -> str:
    """The name of the palette colour that is closest to this one."""
    return min(COLOURS, key=lambda name: distance(COLOURS[name], rgb))


def blend(one: Rgb, other: Rgb, share: float) -> Rgb:
    """Mix `share` of the second colour into the first."""
    r, g, b = (round(p + (q - p) * share) for p, q in zip(one, other, strict=True))
    return r, g, b


def contrasting(rng: np.random.Generator, against: list[Rgb], least: float = 48.0, lighter: float = 0.0) -> str:
    """Choose a palette colour that is far enough from each of `against`, or the farthest one.

    Args:
        least: minimum CIE76 distance.
        lighter: minimum difference of lightness (0-100), so that print is readable (yellow on cream is not).
    """
    far = [
        name
        for name, rgb in COLOURS.items()
        if all(distance(rgb, a) >= least and abs(lab(rgb)[0] - lab(a)[0]) >= lighter for a in against)
    ]
    if not far:
        return max(COLOURS, key=lambda name: min(distance(COLOURS[name], a) for a in against))
    return far[int(rng.integers(len(far)))]


def changed(rng: np.random.Generator, rgb: Rgb, severity: int, against: list[Rgb]) -> Rgb:
    """Change a colour by severity: a slightly different shade (1), a clearly different shade (2), another colour (3).

    `against` are the neighbouring colours, from which the new colour must differ.
    """
    others = [c for c in COLOURS.values() if distance(c, rgb) >= 50 and all(distance(c, a) >= 42 for a in against)]
    others = others or [c for c in COLOURS.values() if distance(c, rgb) >= 50]
    target = others[int(rng.integers(len(others)))]
    if severity >= 3:
        return target
    shares = np.linspace(0.05, 1.0, 39)
    return next(
        (c for s in shares if distance(rgb, c := blend(rgb, target, float(s))) >= _SHADE_DISTANCE[severity]), target
    )
