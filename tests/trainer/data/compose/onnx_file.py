"""Write a small ONNX model without the package onnx: a segmenter that takes dark pixels for the product."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_FLOAT = 1


def dark_finder(side: int, *, logits: bool) -> bytes:
    """The bytes of a model: a normalised picture of `side` pixels → a mask, as logits or from 0 to 1.

    A pixel is the product if the mean of its channels is below 0, that is, darker than ImageNet's mean.
    """
    steepness = _tensor("steepness", -40.0)
    nodes = [_node("ReduceMean", ["picture"], "mean", axes=[1]), _node("Mul", ["mean", "steepness"], "steep")]
    if not logits:
        nodes.append(_node("Sigmoid", ["steep"], "mask"))
    graph = b"".join(_bytes(1, node) for node in nodes)
    graph += _bytes(2, b"dark") + _bytes(5, steepness)
    graph += _bytes(11, _value("picture", (1, 3, side, side)))
    graph += _bytes(12, _value("steep" if logits else "mask", (1, 1, side, side)))
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13))


def _node(kind: str, inputs: Sequence[str], output: str, axes: Sequence[int] = ()) -> bytes:
    node = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode()) + _bytes(4, kind.encode())
    if axes:
        attribute = _bytes(1, b"axes") + b"".join(_number(8, axis) for axis in axes) + _number(20, 7)
        node += _bytes(5, attribute)
    return node


def _tensor(name: str, value: float) -> bytes:
    return _number(2, _FLOAT) + _bytes(8, name.encode()) + _bytes(9, struct.pack("<f", value))


def _value(name: str, shape: Sequence[int]) -> bytes:
    dimensions = b"".join(_bytes(1, _number(1, side)) for side in shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, dimensions)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Protocol buffers' whole numbers: seven bits a byte, the lowest first."""
    coded = b""
    while value > 127:
        coded += bytes([value & 127 | 128])
        value >>= 7
    return coded + bytes([value])
