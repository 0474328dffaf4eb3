"""A camera that wants a password gets it as it asks for it: Digest, and Basic where it must be."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from edge_client.sources import open_source
from edge_client.sources.base import Capture, Source
from edge_client.sources.web.auth import Authorization, offered
from shared.errors import SourceError
from tests.support.http_server import http_server
from tests.support.motion_jpeg import camera

USER, PASSWORD = 'jö"rg', "p@:/#%\\ss"
WRITTEN = "j%C3%B6%22rg:p%40%3A%2F%23%25%5Css"
HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


class DigestCamera:
    """Wants Digest as RFC 7616 has it; every ``lifetime`` answers its nonce is stale."""

    def __init__(
        self,
        algorithm: str | None,
        qop: str | None,
        *,
        lifetime: int = 10**6,
        realm: bytes = b'a "camera"',
        opaque: bytes = b"o,p",
    ) -> None:
        self.algorithm, self.qop, self.lifetime = algorithm, qop, lifetime
        self.realm, self.opaque = realm, opaque
        self.seen: list[str | None] = []
        self.served = self.nonce = 0

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        header = request.headers.get("Authorization")
        self.seen.append(header)
        right = header is not None and self.is_right(header, request.path)
        stale = right and f'nonce="n{self.nonce}"' not in (header or "")
        if right and not stale:
            self.served += 1
            self.nonce += self.served % self.lifetime == 0
            camera(request, pictures=1)
            return
        request.send_response(401)
        realm = self.realm.decode("latin-1").replace('"', '\\"')
        opaque = self.opaque.decode("latin-1")
        terms = [f'realm="{realm}"', f'nonce="n{self.nonce}"', f'opaque="{opaque}"']
        terms += [f"algorithm={self.algorithm}"] if self.algorithm else []
        terms += [f'qop="{self.qop}"'] if self.qop else []
        terms += ["stale=TRUE"] if stale else []
        request.send_header("WWW-Authenticate", 'Basic realm="x"')
        request.send_header("WWW-Authenticate", "Digest " + ", ".join(terms))
        request.end_headers()

    def is_right(self, header: str, path: str) -> bool:
        assert header.startswith("Digest ")
        pairs = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', header)
        given = {
            name: (re.sub(r"\\(.)", r"\1", quoted) or plain).encode("latin-1")
            for name, quoted, plain in pairs
        }
        kind = HASHES[(self.algorithm or "MD5").upper().removesuffix("-SESS")]

        def hashed(*parts: bytes) -> bytes:
            return kind(b":".join(parts)).hexdigest().encode()

        secret = hashed(USER.encode(), self.realm, PASSWORD.encode())
        if (self.algorithm or "").upper().endswith("-SESS"):
            secret = hashed(secret, given["nonce"], given["cnonce"])
        body = [hashed(b"")] if given.get("qop") == b"auth-int" else []
        asked = hashed(b"GET", path.encode(), *body)
        parts = [given["nonce"]]
        if self.qop:
            parts += [given["nc"], given["cnonce"], given["qop"]]
        same = (given["username"], given["realm"], given["uri"], given["opaque"]) == (
            USER.encode(),
            self.realm,
            path.encode(),
            self.opaque,
        )
        return same and given["response"] == hashed(secret, *parts, asked)


@contextmanager
def served(answer: Callable[[BaseHTTPRequestHandler], None], who: str) -> Iterator[Source]:
    with http_server(answer) as server:
        yield open_source([f"http://{who}@127.0.0.1:{server.server_address[1]}/a/b?c=d&e=%2F"])


def first(source: Source) -> Capture:
    return next(source.captures(threading.Event()))


@pytest.mark.parametrize("algorithm", [None, "MD5", "md5", "MD5-sess", "SHA-256", "SHA-256-sess"])
@pytest.mark.parametrize("qop", [None, "auth", "auth-int", "auth-int, auth"])
def test_digest(algorithm: str | None, qop: str | None) -> None:
    asked = DigestCamera(algorithm, qop)
    with served(asked, WRITTEN) as source:
        assert first(source).name.endswith("/a/b#1")
        first(source)
    # What was asked for once is answered at once from then on; the password itself is never sent.
    assert [header is not None for header in asked.seen] == [False, True, True]


@pytest.mark.parametrize("coding", ["utf-8", "latin-1", "gbk"])
def test_what_the_camera_says_is_sent_back_byte_by_byte(coding: str) -> None:
    """A realm is the name that somebody gave the camera, in whatever coding its firmware has."""
    word = "摄像机" if coding == "gbk" else "Caméra à Åre"
    asked = DigestCamera("MD5", "auth", realm=word.encode(coding), opaque=word.encode(coding))
    with served(asked, WRITTEN) as source:
        assert first(source).name.endswith("#1")
    assert asked.served == 1


def test_a_stale_nonce_is_replaced() -> None:
    asked = DigestCamera("SHA-256", "auth", lifetime=2)
    with served(asked, WRITTEN) as source:
        for _ in range(6):
            first(source)
    assert asked.served == 6
    assert len(asked.seen) == 1 + 6 + 2


def test_a_wrong_password_is_said_and_not_tried_for_ever() -> None:
    asked = DigestCamera("MD5", "auth")
    with (
        served(asked, "me:wrong") as source,
        pytest.raises(SourceError, match="does not take this user and password") as caught,
    ):
        first(source)
    assert caught.value.reason == "forbidden"
    assert "wrong" not in caught.value.message
    assert len(asked.seen) == 2


def test_a_camera_elsewhere_gets_no_password() -> None:
    asked = DigestCamera("MD5", "auth")
    with http_server(asked) as other:

        def send_on(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", f"http://localhost:{other.server_address[1]}/a")
            request.end_headers()

        with served(send_on, WRITTEN) as source, pytest.raises(SourceError) as caught:
            first(source)
    assert caught.value.reason == "forbidden"
    assert asked.seen == [None]


def test_an_unknown_kind_is_named() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(401)
        request.send_header("WWW-Authenticate", 'NTLM, Digest realm="x", nonce="n", algorithm=X')
        request.end_headers()

    with served(answer, WRITTEN) as source, pytest.raises(SourceError, match="NTLM") as caught:
        first(source)
    assert caught.value.reason == "forbidden"


def test_challenges_are_split_as_the_rfc_has_them() -> None:
    """RFC 7616, 3.9.1, and several in a line."""
    lines = [
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256,'
        ' nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qa"',
        'Basic realm="a, b=c", charset=UTF-8, Negotiate',
    ]
    found = list(offered(lines))
    assert [scheme for scheme, _ in found] == ["digest", "basic", "negotiate"]
    assert found[0][1]["qop"] == "auth, auth-int"
    assert found[1][1] == {"realm": "a, b=c", "charset": "UTF-8"}


def test_the_example_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 2617, 3.5."""
    monkeypatch.setattr("edge_client.sources.web.auth.secrets.token_hex", lambda _: "0a4f113b")
    authorization = Authorization("Mufasa", "Circle Of Life")
    assert authorization.header("GET", "/dir/index.html") is None
    assert authorization.ask(
        [
            'Digest realm="testrealm@host.com", qop="auth,auth-int", '
            'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
        ]
    )
    header = authorization.header("GET", "/dir/index.html")
    assert header is not None
    assert 'response="6629fae49393a05397450978507c4ef1"' in header
    assert "nc=00000001" in header
