"""Who is logged in, and the key of the cookies.

The cookie is the user's token, sealed with the console's key: the console
keeps nothing, and any console with the same key takes it."""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from cloud_server.auth.tokens import Role
from shared.errors import StorageError

COOKIE = "featherwire_console"
LASTS_S = 12 * 3600

TRIES = 5
TRIES_OF_ALL = 50
WITHIN_S = 60.0
MAX_PEERS = 10_000


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who looks at the console; ``token`` is None where the server asks for none."""

    role: Role
    token: str | None = field(default=None, repr=False)

    @property
    def commands(self) -> bool:
        """Whether the server would take commands from this user."""
        return self.role is Role.OPERATOR


class Sessions:
    """Seals and opens cookies."""

    def __init__(self, key: Fernet) -> None:
        self._key = key

    def seal(self, user: User) -> str:
        """The value of the user's cookie."""
        return self._key.encrypt(json.dumps([user.role.value, user.token]).encode()).decode()

    def open(self, cookie: str | None) -> User | None:
        """Whose cookie it is; None for one that is not ours, or is too old."""
        if not cookie:
            return None
        try:
            role, token = json.loads(self._key.decrypt(cookie.encode(), ttl=LASTS_S))
        except (InvalidToken, ValueError):
            return None
        return User(Role(role), token)


class Tries:
    """Counts log-ins that failed: few a minute from one address, and not many from all."""

    def __init__(self) -> None:
        self._by_peer: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=TRIES_OF_ALL)

    def wait_s(self, peer: str) -> float:
        """For how long this address may not try; 0: it may."""
        of_peer = self._by_peer.get(peer, deque())
        return max(_wait_s(of_peer, TRIES), _wait_s(self._all, TRIES_OF_ALL))

    def failed(self, peer: str) -> None:
        """A try has failed."""
        now = time.monotonic()
        self._all.append(now)
        self._by_peer.setdefault(peer, deque(maxlen=TRIES)).append(now)
        self._by_peer.move_to_end(peer)
        while len(self._by_peer) > MAX_PEERS:
            self._by_peer.popitem(last=False)


def _wait_s(failures: deque[float], allowed: int) -> float:
    if len(failures) < allowed:
        return 0.0
    return max(0.0, failures[-allowed] + WITHIN_S - time.monotonic())


FILE = "console.secret"


def load_or_make(folder: Path) -> Fernet:
    """The key in ``folder``; consoles that share it take each other's cookies.

    Raises ``StorageError("unavailable")``.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Under another name first: one that reads meanwhile must not find half a key.
            draft = path.with_name(f"{FILE}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(Fernet.generate_key())
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
        return Fernet(path.read_bytes().strip())
    except OSError as error:
        raise StorageError("unavailable", f"{path} cannot be used: {error.strerror}") from None
    except ValueError:
        raise StorageError(
            "unavailable", f"{path} holds no key; remove it, and users log in again"
        ) from None
