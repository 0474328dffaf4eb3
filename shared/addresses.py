"""Addresses that may hold a password: split so that no password goes astray, shown without it.

RFC 3986 has characters that end a host, and people's passwords have them all. Where a password
holds such a one as it is, an address has two readings; it is refused then, in words that repeat
nothing of it, rather than connected to a host that the user never meant.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

HINT = (
    "in a user or password, and for an @ after the host, write %23 for #, %2F for /, %3F for ?, "
    "%40 for @, %3A for :, %25 for % and %20 for a space"
)
"""What helps against every fault of an address that a password can make."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_NAME = re.compile(r"[^\s@\[\]<>\"{}|^`%:/?#\\]+")
# What some cameras want in the path: /user=admin_password=secret_channel=1
_SECRET = re.compile(
    r"((?:^|[/&;_,])(?:user(?:name)?|login|pass(?:word|wd)?|pwd|token|key|secret|auth)=)"
    r".*?(?=[&;_,][a-z]+=|/|$)",
    re.I,
)
# Words that are no address, and may be meant for one.
_MAYBE = re.compile(r":.*@|:/", re.DOTALL)
_OPTIONS = re.compile(r"\?[^?]*=.*", re.DOTALL)
_KNOWN = re.compile(r"(rtsps?|https?|mqtts?|file|v4l2)$", re.I)
# Within a text an address ends where a blank does; a quote may be a password's.
_IN_TEXT = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*:/+)(\S*)")
_QUERY = re.compile(r"[?#][^\s'\"<>]*")


@dataclass(frozen=True, slots=True)
class Address:
    """A URL in its parts. scheme: small letters. host: without brackets. port: None where the
    scheme's is meant. user, password: decoded; None where there is none. rest: path, query and
    fragment, and userinfo: user and password, as they were written."""

    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    rest: str = field(repr=False)
    userinfo: str = field(repr=False)

    @property
    def netloc(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def bare(self) -> str:
        """The URL without user and password, with its query."""
        return f"{self.scheme}://{self.netloc}{self.rest.partition('#')[0]}"

    @property
    def url(self) -> str:
        """The URL with user and password as they were written, for a library that takes it so."""
        at = f"{self.userinfo}@" if self.user is not None else ""
        return f"{self.scheme}://{at}{self.netloc}{self.rest.partition('#')[0]}"

    @property
    def path(self) -> str:
        """The path alone."""
        return re.split(r"[?#]", self.rest, maxsplit=1)[0]

    @property
    def shown(self) -> str:
        """The URL as it may be shown and stored: without user, password and query, and without
        what is called a password in its path."""
        path = _SECRET.sub(r"\1***", self.path)
        return f"{self.scheme}://{self.netloc}{path}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be in no message: the password, decoded and as it was written."""
        return tuple({self.password or "", self.userinfo.partition(":")[2]} - {""})


def split_address(word: str) -> Address:
    """The parts of ``SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY]``.

    Raises ValueError for what is none, or has two readings; its text repeats nothing of ``word``.
    """
    found = _ADDRESS.fullmatch(word)
    if found is None:
        raise ValueError(f"an address is SCHEME://HOST/PATH; {HINT}")
    scheme, authority, rest = found[1].lower(), found[2], found[3]
    if _BLANK.search(word):
        raise ValueError(f"there is a space or a control character in it; {HINT}")
    userinfo, at, place = authority.rpartition("@")
    host, port = _place(place)
    if "@" in rest and _has_two_readings(host, port, bool(at), rest):
        raise ValueError(f"it cannot be told where its password ends; {HINT}")
    user, colon, password = userinfo.partition(":")
    return Address(
        scheme,
        host,
        port,
        unquote(user) if at else None,
        unquote(password) if colon else None,
        rest,
        userinfo,
    )


def _place(place: str) -> tuple[str, int | None]:
    """Host and port of ``HOST[:PORT]``."""
    wrong = ValueError(f"there is no HOST or HOST:PORT where it should be; {HINT}")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
        if place.startswith("["):
            ipaddress.IPv6Address((host or "").partition("%")[0])
        elif not _NAME.fullmatch(place.partition(":")[0]):
            raise wrong
    except ValueError:
        raise wrong from None
    if not host or port == 0 or place.endswith(":"):
        raise wrong
    return host, port


def _has_two_readings(host: str, port: int | None, user: bool, rest: str) -> bool:
    """Whether what was taken for the host may be a user, and ``rest`` hold the password's end.

    ``admin:12/34@10.0.0.5/live`` may be; ``10.0.0.5/stream@2`` and ``cam.lan/?mail=me@home`` not.
    """
    if "@" in rest.partition("#")[2]:
        return True
    try:
        ipaddress.ip_address(host)
        return False
    except ValueError:
        pass
    path = re.split(r"[?#]", rest, maxsplit=1)[0]
    if user or not path:
        return True
    if host == "localhost" or port is None:
        return False
    return "@" in path or "." not in host


def shown(word: str) -> str:
    """A word of a command line as it may be shown: without what may be a password in it."""
    try:
        return split_address(word).shown
    except ValueError:
        pass
    if _MAYBE.search(word) is None:
        return _OPTIONS.sub("?***", word)
    known = _KNOWN.search(word.partition(":")[0])
    return f"{known[0].lower()}:***" if known is not None else "***"


def redacted(text: str, *secrets: str | None) -> str:
    """A message of a library's, without users, passwords and queries of addresses in it.

    secrets: words that it must not hold either, such as the password itself, however it is written.
    """
    for secret in sorted({one for one in secrets if one}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _IN_TEXT.sub(_without_secrets, text)


def _without_secrets(found: re.Match[str]) -> str:
    tail = found[2]
    at = tail.rfind("@")
    kept = tail if at < 0 else f"***{tail[at:]}"
    return found[1] + _SECRET.sub(r"\1***", _QUERY.sub("", kept))
