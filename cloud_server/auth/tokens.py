"""Tokens and their roles: made once, shown once, kept as hashes.

A token is ``fwt_ID_SECRET``: 64 random bits by which people call it, and 256 random bits. The
database has the SHA-256 of all of it. That is enough: slow, salted hashes (argon2, scrypt) protect
what people choose, because a guess costs time; here there are 2^256 equally likely secrets, which
nobody guesses from a hash however fast it is, two tokens never have one hash, and every call is
checked, so that a slow hash would let strangers keep the server busy. The hash is also what is
looked up, so no comparison leaks how much of a token was right.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from cloud_server.database.schema import TOKENS, now_us
from shared.errors import FeatherwireError, SessionError
from shared.wire.requests import check_labels, check_name


class Role(enum.StrEnum):
    """What a token is for."""

    DEVICE = "device"
    """Sends frames, as the one device that the token names."""
    OPERATOR = "operator"
    """Commands devices, and reads everything."""
    CONSUMER = "consumer"
    """Reads results and frames, and sees devices."""


_FORM = re.compile(r"fwt_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; times are microseconds since 1970. Never the token itself."""

    id: str
    role: Role
    device: str | None
    name: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the device; it cannot say otherwise."""

    def complaint(self, now: int | None = None) -> SessionError | None:
        """Why it is no longer good, ``token_revoked`` or ``token_expired``; None: it is good."""
        now = now_us() if now is None else now
        if self.revoked_at is not None:
            return SessionError("token_revoked", f"token {self.id} has been revoked")
        if self.expires_at is not None and self.expires_at <= now:
            return SessionError("token_expired", f"token {self.id} has expired")
        return None


def create(
    connection: Connection,
    role: Role,
    *,
    device: str | None = None,
    name: str = "",
    lasts_s: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[str, Token]:
    """Make a token; the text is shown here and nowhere else.

    device, labels: which one, for the role device. Raises ``FeatherwireError("bad_option")`` for a
    device without its name or another role with one, and ``SessionError("invalid_message")`` for a
    name, or labels, that no device can have.
    """
    labels = dict(labels or {})
    if (role is Role.DEVICE) != (device is not None) or (labels and device is None):
        raise FeatherwireError(
            "bad_option", "a token of role device names its device, and no other token does"
        )
    if device is not None:
        check_name("device", device)
        check_labels(labels)
    now = now_us()
    token_id = secrets.token_hex(8)
    text = f"fwt_{token_id}_{secrets.token_urlsafe(32)}"
    token = Token(
        token_id,
        role,
        device,
        name[:128],
        now,
        None if lasts_s is None else now + round(lasts_s * 1e6),
        None,
        labels,
    )
    connection.execute(
        insert(TOKENS).values(
            id=token.id,
            hash=_hash(text),
            role=role.value,
            device=device,
            name=token.name,
            labels=json.dumps(labels),
            created_at=now,
            expires_at=token.expires_at,
        )
    )
    return text, token


def find(connection: Connection, text: str) -> Token | None:
    """The token that a caller has shown, good or no longer; None for one that never was."""
    if not _FORM.fullmatch(text):
        return None
    return _one(connection.execute(select(TOKENS).where(TOKENS.c.hash == _hash(text))).first())


def revoke(connection: Connection, token_id: str) -> Token:
    """Make a token no good; again is no error. Raises ``FeatherwireError("unknown_token")``."""
    changed = update(TOKENS).where(TOKENS.c.id == token_id, TOKENS.c.revoked_at.is_(None))
    connection.execute(changed.values(revoked_at=now_us()))
    token = _one(connection.execute(select(TOKENS).where(TOKENS.c.id == token_id)).first())
    if token is None:
        raise FeatherwireError("unknown_token", f"there is no token {token_id}")
    return token


def every(connection: Connection) -> list[Token]:
    """All tokens that there ever were, oldest first."""
    rows = connection.execute(select(TOKENS).order_by(TOKENS.c.created_at, TOKENS.c.id))
    return [token for row in rows if (token := _one(row)) is not None]


def among(connection: Connection, token_ids: Collection[str]) -> dict[str, Token]:
    """Those of these ids, by id."""
    found: dict[str, Token] = {}
    wanted = sorted(token_ids)
    for start in range(0, len(wanted), 500):  # SQLite takes so many values, and more
        rows = connection.execute(
            select(TOKENS).where(TOKENS.c.id.in_(wanted[start : start + 500]))
        )
        found |= {token.id: token for row in rows if (token := _one(row)) is not None}
    return found


def any_good(connection: Connection) -> bool:
    """Whether anybody could be let in."""
    good = TOKENS.c.revoked_at.is_(None) & or_(
        TOKENS.c.expires_at.is_(None), TOKENS.c.expires_at > now_us()
    )
    return bool(connection.execute(select(func.count()).select_from(TOKENS).where(good)).scalar())


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _one(row: Row[Any] | None) -> Token | None:
    if row is None:
        return None
    return Token(
        row.id,
        Role(row.role),
        row.device,
        row.name,
        row.created_at,
        row.expires_at,
        row.revoked_at,
        json.loads(row.labels),
    )
