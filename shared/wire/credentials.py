"""The token that a caller shows: where it is kept, and how it travels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from shared.errors import SessionError

METADATA_KEY = "authorization"
"""Metadata of a call: ``Bearer TOKEN``, as gRPC's own access tokens."""

TOKEN_VARIABLE = "FEATHERWIRE_TOKEN"
"""The token itself; for programs whose environment nobody else reads."""

_SCHEME = "bearer "
MAX_TOKEN_BYTES = 4096


def read_token(path: Path | None = None) -> str | None:
    """The token of a file, or without one of ``FEATHERWIRE_TOKEN``; None when there is none.

    Raises ``SessionError("bad_token_file")``; its message never repeats what the file holds.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except OSError as error:
        raise SessionError("bad_token_file", f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or any(character.isspace() for character in text):
        raise SessionError("bad_token_file", f"{path} does not hold one token, and nothing else")
    return text


def token_of(values: Iterable[str | bytes]) -> str:
    """The token in a call's metadata. Raises ``SessionError("unauthenticated")``."""
    found = list(values)
    if len(found) == 1 and isinstance(found[0], str) and found[0][:7].lower() == _SCHEME:
        return found[0][7:].strip()
    raise SessionError(
        "unauthenticated", "this server wants a token: --token-file, or FEATHERWIRE_TOKEN"
    )
