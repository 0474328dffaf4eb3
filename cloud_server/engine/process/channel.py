"""Protobuf messages over a socket, each behind its length: four bytes, big-endian."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_LENGTH_BYTES = 4


def packed(message: Message) -> bytes:
    """``message`` as it goes over the socket."""
    data = message.SerializeToString()
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


async def read(reader: asyncio.StreamReader, kind: type[M]) -> M | None:
    """The next message; None when the other end has gone, in the middle of one too."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        return kind.FromString(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
