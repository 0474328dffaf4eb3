"""Damage for bytes of every kind, the same in every run."""

from __future__ import annotations

import random


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or insert bytes, one to six times."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(damaged) + 1)
        match rng.randrange(6):
            case 0 if place < len(damaged):
                damaged[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(damaged):
                damaged[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del damaged[place : place + rng.randint(1, 8)]
            case 3:
                damaged[place:place] = rng.randbytes(rng.randint(1, 8))
            case 4:
                damaged[place:place] = damaged[place : place + rng.randint(1, 64)]
            case _:
                damaged[place : place + 10] = b"\xff" * 9 + b"\x01"
    return bytes(damaged)
