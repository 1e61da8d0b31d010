"""Builds ICC profiles for colours that a file gives as code points (ITU-T H.273) or as gamma and chromaticities."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Points = tuple[float, ...]
"""The chromaticities x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
_SRGB: Points = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Points] = {
    1: _SRGB,
    2: _SRGB,  # "unspecified"
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.601, 625 lines
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601, 525 lines
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_SRGB_CURVE = 0.0
"""Value in place of a gamma that selects the curve of sRGB."""
_GAMMAS = {1: _SRGB_CURVE, 2: _SRGB_CURVE, 4: 2.2, 5: 2.8, 6: _SRGB_CURVE, 8: 1.0, 13: _SRGB_CURVE, 14: _SRGB_CURVE,
           15: _SRGB_CURVE}  # fmt: skip
"""Gamma for each transfer code. The curve of BT.709 describes cameras, and browsers show such pictures as sRGB. PQ (16)
and HLG (18) are missing, because the display determines how a browser shows high dynamic range."""

_ENCODING = 1 / 2.2
_SIGNIFICANT = 0.05
"""Minimum relative difference from sRGB's gamma that counts. As in libpng, files with gAMA 45455 mean sRGB."""
_SAME_POINT = 0.005

_LARGEST = 4.0
"""Maximum coordinate of a primary; real ones are below 1."""
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = (0.9642, 1.0, 0.8249)


def is_known(primaries: int, transfer: int) -> bool:
    """Whether these code points of H.273 can be converted to sRGB."""
    return primaries in _PRIMARIES and transfer in _GAMMAS


def coded(primaries: int, transfer: int) -> bytes | None:
    """Return the profile for known code points; None for sRGB."""
    return _profile(_PRIMARIES[primaries], _GAMMAS[transfer])


def measured(encoding: float | None, points: Sequence[float] | None) -> bytes | None:
    """Return the profile for PNG's gAMA (the encoding exponent, about 0.45) and cHRM; None for sRGB or bad values."""
    gamma = _SRGB_CURVE
    if encoding is not None and abs(encoding / _ENCODING - 1) > _SIGNIFICANT:
        if not 0.1 <= encoding <= 10:
            return None
        gamma = 1 / encoding
    if points is None or all(abs(a - b) <= _SAME_POINT for a, b in zip(points, _SRGB, strict=True)):
        points = _SRGB
    return _profile(tuple(points), gamma)


@lru_cache(maxsize=32)
def _profile(points: Points, gamma: float) -> bytes | None:
    """Build an ICC profile (version 4, matrix and curve); None for sRGB and for degenerate primaries."""
    if points == _SRGB and gamma == _SRGB_CURVE:
        return None
    try:
        columns: list[list[float]] = _to_d50(points).T.tolist()
    except (ZeroDivisionError, np.linalg.LinAlgError):
        return None
    if not all(abs(value) < _LARGEST for column in columns for value in column):
        return None
    curve = struct.pack(">4sIHHi", b"para", 0, 0, 0, _fixed(gamma))
    if gamma == _SRGB_CURVE:
        values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        curve = struct.pack(">4sIHH5i", b"para", 0, 3, 0, *map(_fixed, values))
    red, green, blue = map(_xyz, columns)
    xyz = {b"wtpt": _xyz(_D50), b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    return _file({**xyz, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def _to_d50(points: Points) -> NDArray[np.float64]:
    """Return the matrix from RGB to XYZ, adapted to the white point of ICC profiles by Bradford's method.

    Raises:
        ZeroDivisionError, LinAlgError: the points are degenerate.
    """
    white, *colours = (np.array(_xyz_of(points[i], points[i + 1])) for i in range(0, 8, 2))
    primaries = np.array(colours).T
    to_xyz = primaries @ np.diag(np.linalg.inv(primaries) @ white)
    # A gain that is not finite gives a matrix without finite values.
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
        adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ gains @ _BRADFORD @ to_xyz
    return adapted


def _xyz_of(x: float, y: float) -> tuple[float, float, float]:
    return x / y, 1.0, (1 - x - y) / y


def _fixed(value: float) -> int:
    """Convert a number to ICC's s15Fixed16Number."""
    return round(value * 65536)


def _xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *map(_fixed, values))


def _file(tags: dict[bytes, bytes]) -> bytes:
    """Assemble a profile from its header, the table of tags and their data (ICC.1:2022, section 7)."""
    at, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(body))
        data += body
    header = struct.pack(
        ">II I4s4s4s 12x 4s 28x 3i 48x",
        at + len(data), 0, 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp", *map(_fixed, _D50),
    )  # fmt: skip
    return header + table + data
