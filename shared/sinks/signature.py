"""Signatures of webhooks, by https://www.standardwebhooks.com (symmetric, version 1).

HMAC-SHA256 of ``ID.TIMESTAMP.BODY``, in base64, so that a receiver knows who sent a body, that it
is whole, and that it is not an old one sent again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

from shared.errors import SinkError

PREFIX = "whsec_"
TOLERANCE_S = 300


def key_of(secret: str) -> bytes:
    """The key of a secret: ``whsec_`` and base64, or any other text as it is. Raises
    ``SinkError("bad_secret")``."""
    if not secret.startswith(PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise SinkError("bad_secret", "what follows whsec_ must be base64") from None
    if len(key) < 16:
        raise SinkError("bad_secret", f"a secret of {len(key)} bytes can be guessed; take 32")
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that go with a body; timestamp: seconds since 1970."""
    code = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(code).decode()}",
    }


def verify(
    key: bytes,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> None:
    """Raise ``SinkError("bad_signature")`` unless the body is from who has the key, and new.

    headers: with names in lower case. now_s: seconds since 1970; None is now.
    """
    try:
        message_id = headers["webhook-id"]
        timestamp = int(headers["webhook-timestamp"])
        given = headers["webhook-signature"]
    except (KeyError, ValueError):
        raise SinkError("bad_signature", "a header of the signature is not there") from None
    wanted = sign(key, message_id, timestamp, body)["webhook-signature"]
    # Several signatures, parted by spaces, are there while a key is being changed.
    if not any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given.split(" ")):
        raise SinkError("bad_signature", "the signature is another one")
    if abs((time.time() if now_s is None else now_s) - timestamp) > tolerance_s:
        raise SinkError("bad_signature", "the signature is too old, or of a time to come")
