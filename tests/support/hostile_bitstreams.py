"""Bitstreams that are damaged, or forged with valid checksums."""

from __future__ import annotations

import dataclasses

import numpy as np

from shared.bitstream import Bitstream, Layer


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One of: flipped bits, changed bytes, a cut, an insertion, a deletion, a splice, a repeat."""
    out = bytearray(data)
    place = int(rng.integers(len(out)))
    kind = int(rng.integers(7))
    if kind == 0:
        for spot in rng.integers(0, len(out), int(rng.integers(1, 5))):
            out[int(spot)] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        out[place : place + 4] = rng.bytes(4)
    elif kind == 2:
        del out[place:]
    elif kind == 3:
        out[place:place] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 4:
        del out[place : place + int(rng.integers(1, 40))]
    elif kind == 5:
        out[place:] = other[place:]
    else:
        out += out[place:]
    return bytes(out)


def reseal(bitstream: Bitstream, rng: np.random.Generator) -> bytes:
    """A forger's file: payloads changed, and every checksum right again."""
    layers = []
    for layer in bitstream.layers:
        payload = bytearray(layer.payload)
        kind = int(rng.integers(4))
        if kind == 0 and payload:
            payload[int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            payload = bytearray(rng.bytes(4 * int(rng.integers(0, 30))))
        elif kind == 2:
            del payload[int(rng.integers(len(payload) + 1)) :]
        layers.append(Layer(layer.state, bytes(payload)))
    sides = rng.integers(16, 200, 2)
    width, height = (int(s) for s in sides) if rng.random() < 0.3 else (75, 50)
    partial = bitstream.partial
    if partial is not None and rng.random() < 0.7:
        payload = bytearray(partial.payload)
        if payload and rng.random() < 0.5:
            payload[int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        passes = int(rng.integers(1, 9)) if rng.random() < 0.5 else partial.passes
        partial = dataclasses.replace(partial, passes=passes, payload=bytes(payload))
    return dataclasses.replace(
        bitstream, width=width, height=height, layers=tuple(layers), partial=partial
    ).to_bytes()
