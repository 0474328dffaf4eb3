"""Protobuf messages over a socket, each behind its length: four bytes, big-endian."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

_LENGTH_BYTES = 4
MAX_BYTES = 512 * 2**20
"""No message is so large: who says so has lost its senses."""


def packed(message: Message) -> bytes:
    """``message`` as it goes over the socket."""
    data = message.SerializeToString()
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


async def read(reader: asyncio.StreamReader, kind: type[M]) -> M | None:
    """The next message; None when the other end has gone, or sends what is none."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > MAX_BYTES:
            return None
        return kind.FromString(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError, DecodeError):
        return None
