"""User and password for a camera's web server: Basic (RFC 7617) and Digest (RFC 7616).

Nothing is sent before the camera has asked for it, and the password itself only to one that knows
nothing better than Basic.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence

_TOKEN = re.compile(
    r"""([\w!\#$%&'*+.^`|~-]+)                      # a scheme, or a parameter's name
        (?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?  # its value
    """,
    re.X | re.DOTALL | re.ASCII,
)
_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
_SESSION = "-SESS"


class Authorization:
    """Answers what a server asks for, and keeps the answer's terms for the next request."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._asked: dict[str, str] | None = None
        self._basic = False
        self._count = 0

    def header(self, method: str, target: str) -> str | None:
        """The header ``Authorization`` of a request; None while nobody has asked for one.

        target: path and query, as in the request. The text is ISO 8859-1 that holds UTF-8.
        """
        if self._basic:
            pair = f"{self._user}:{self._password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        if self._asked is None:
            return None
        self._count += 1
        return self._digest(self._asked, method, target)

    def ask(self, challenges: Sequence[str]) -> bool:
        """Take up what the values of ``WWW-Authenticate`` ask for; returns whether it can be
        answered. Of several kinds of Digest the first counts that is known, as the RFC says."""
        self._asked, self._basic, self._count = None, False, 0
        offers = list(offered(challenges))
        for scheme, terms in offers:
            if scheme == "digest" and "nonce" in terms and _answerable(terms):
                self._asked = terms
                return True
        # Some small cameras answer 401, and say nothing of how.
        self._basic = not offers or any(scheme == "basic" for scheme, _ in offers)
        return self._basic

    def forget(self) -> None:
        """Forget what was asked for: the next request is without."""
        self._asked, self._basic = None, False

    def _digest(self, asked: Mapping[str, str], method: str, target: str) -> str:
        algorithm = asked.get("algorithm", "MD5")
        name = _HASHES[algorithm.upper().removesuffix(_SESSION)]

        def hashed(*parts: str) -> str:
            # Of what the server has said its own bytes count, whatever they are.
            data = ":".join(parts).encode("latin-1")
            return hashlib.new(name, data, usedforsecurity=False).hexdigest()

        user, password, target = _wire(self._user), _wire(self._password), _wire(target)
        realm, nonce = asked.get("realm", ""), asked["nonce"]
        ours, count = secrets.token_hex(8), f"{self._count:08x}"
        secret = hashed(user, realm, password)
        if algorithm.upper().endswith(_SESSION):
            secret = hashed(secret, nonce, ours)
        qop = _qop(asked)
        body = (hashed(""),) if qop == "auth-int" else ()
        request = hashed(method, target, *body)
        between = (nonce, count, ours, qop) if qop else (nonce,)
        hide = asked.get("userhash", "").lower() == "true"
        quoted = {
            "username": hashed(user, realm) if hide else user,
            "realm": realm,
            "nonce": nonce,
            "uri": target,
            "response": hashed(secret, *between, request),
        }
        plain = {}
        if "algorithm" in asked:
            plain["algorithm"] = algorithm
        if "opaque" in asked:
            quoted["opaque"] = asked["opaque"]
        if qop or algorithm.upper().endswith(_SESSION):
            quoted["cnonce"] = ours
        if qop:
            plain |= {"qop": qop, "nc": count}
        if hide:
            plain["userhash"] = "true"
        words = [f'{key}="{_escaped(value)}"' for key, value in quoted.items()]
        words += [f"{key}={value}" for key, value in plain.items()]
        return "Digest " + ", ".join(words)


def offered(challenges: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(scheme, its terms) of every challenge, names in small letters.

    challenges: as headers are read, ISO 8859-1 for any bytes; of the terms the same holds.
    """
    scheme, terms = "", dict[str, str]()
    for found in _TOKEN.finditer(", ".join(challenges)):
        name, quoted, plain = found.groups()
        if quoted is None and plain is None:
            if scheme:
                yield scheme, terms
            scheme, terms = name.lower(), {}
        else:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            terms.setdefault(name.lower(), value)
    if scheme:
        yield scheme, terms


def is_stale(challenges: Sequence[str]) -> bool:
    """Whether only the nonce of a request was too old, and user and password were right."""
    return any(
        scheme == "digest" and terms.get("stale", "").lower() == "true"
        for scheme, terms in offered(challenges)
    )


def _answerable(terms: Mapping[str, str]) -> bool:
    name = _HASHES.get(terms.get("algorithm", "MD5").upper().removesuffix(_SESSION))
    return name in hashlib.algorithms_available and _qop(terms) is not None


def _qop(terms: Mapping[str, str]) -> str | None:
    """The quality of protection to use; empty where the server knows none, None where all that it
    knows are unknown."""
    known = [word.strip().lower() for word in terms.get("qop", "").split(",") if word.strip()]
    if not known:
        return ""
    return next((one for one in ("auth", "auth-int") if one in known), None)


def _wire(text: str) -> str:
    """Text of ours as it is in a header: ISO 8859-1 that holds UTF-8."""
    return text.encode().decode("latin-1")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
