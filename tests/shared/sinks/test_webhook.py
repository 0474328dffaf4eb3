"""Webhooks to a real HTTP server: signed, sent again, refused."""

from __future__ import annotations

import base64
import json
import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler

import pytest

from shared.backoff import Backoff
from shared.errors import SinkError
from shared.sinks import Pump, SinkOptions, open_sinks
from shared.sinks.signature import key_of, sign, verify
from shared.sinks.webhook import MAX_RETRY_AFTER_S, WebhookSink, retry_after_s
from tests.support.http_server import http_server
from tests.support.reports import report

pytest.importorskip("httpx", reason="needs the extra webhook")
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Hook:
    """Answers with these codes, the last one for ever."""

    def __init__(self, *codes: int, **headers: str) -> None:
        self.codes = list(codes)
        self.headers = headers
        self.got: list[tuple[dict[str, str], bytes]] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.got.append(({k.lower(): v for k, v in request.headers.items()}, body))
        request.send_response(self.codes.pop(0) if len(self.codes) > 1 else self.codes[0])
        for name, value in self.headers.items():
            if name == "Date":  # instead of the server's own
                request._headers_buffer = [  # type: ignore[attr-defined]
                    line
                    for line in request._headers_buffer  # type: ignore[attr-defined]
                    if not line.startswith(b"Date:")
                ]
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()


def deliver(hook: Hook, count: int = 1, secret: str | None = SECRET) -> Pump:
    with http_server(hook) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/hook?token=hidden"
        pump = Pump(WebhookSink(url, secret), backoff=Backoff(0.001, 0.01))
        for number in range(1, count + 1):
            pump.put(report(number))
        pump.close(30)
    return pump


def test_a_report_arrives_signed_as_the_standard_says() -> None:
    hook = Hook(204)
    pump = deliver(hook)
    assert pump.counts["delivered"] == 1
    ((headers, body),) = hook.got
    document = json.loads(body)
    assert document["type"] == "featherwire.result"
    assert document["data"] == report(1).to_dict()
    verify(key_of(SECRET), headers, body)
    standard = pytest.importorskip("standardwebhooks")
    assert standard.Webhook(SECRET).verify(body.decode(), headers) == document
    assert "hidden" not in pump.sink.name


def test_what_is_not_taken_is_sent_again_with_the_same_id() -> None:
    hook = Hook(500, 503, 429, 200)
    pump = deliver(hook, count=2)
    assert pump.counts["delivered"] == 2
    assert pump.counts["retries"] == 3
    ids = [headers["webhook-id"] for headers, _ in hook.got]
    assert ids[:4] == ids[:1] * 4
    assert ids[4] != ids[0]
    for headers, body in hook.got:
        verify(key_of(SECRET), headers, body)


@pytest.mark.parametrize("code", [400, 401, 404, 410, 302])
def test_what_is_refused_is_not_sent_again(code: int) -> None:
    hook = Hook(code, 200, Location="http://127.0.0.1:1/")
    pump = deliver(hook, count=2)
    assert len(hook.got) == 2
    assert (pump.counts["dropped_refused"], pump.counts["delivered"]) == (1, 1)


def test_a_server_that_asks_for_time_gets_it() -> None:
    hook = Hook(429, 200, Retry_After="1")
    began = time.monotonic()
    deliver(hook)
    assert time.monotonic() - began >= 1
    assert len(hook.got) == 2


def test_a_server_that_names_a_time_gets_it() -> None:
    """By its own clock, which is ten years ahead of ours."""
    now = datetime.now(UTC) + timedelta(days=3650)
    dates = [format_datetime(one, usegmt=True) for one in (now, now + timedelta(seconds=2))]
    hook = Hook(503, 200, Date=dates[0], Retry_After=dates[1])
    began = time.monotonic()
    deliver(hook)
    assert time.monotonic() - began >= 1
    assert len(hook.got) == 2


NOW = "Fri, 31 Dec 1999 23:59:50 GMT"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("120", 120),
        ("1.5", 1.5),
        (" 7 ", 7),
        ("0", 0),
        ("-5", 0),
        ("9" * 400, MAX_RETRY_AFTER_S),
        ("٣", 0),
        ("soon", 0),
        ("", 0),
        (None, 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 9),
        ("Friday, 31-Dec-99 23:59:59 GMT", 9),
        ("Fri Dec 31 23:59:59 1999", 9),
        ("Fri, 31 Dec 1999 23:59:59 -0000", 9),
        ("Sat, 01 Jan 2000 01:59:59 +0200", 9),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
        ("Fri, 45 Dec 1999 23:59:59 GMT", 0),
    ],
)
def test_retry_after_has_seconds_or_a_date_and_is_bounded(
    asked: str | None, seconds: float
) -> None:
    assert retry_after_s(asked, NOW) == seconds


def test_a_date_without_the_servers_clock_is_by_ours() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after_s(soon) <= 100
    assert 90 < retry_after_s(soon, "no date") <= 100


def test_that_nothing_is_signed_is_said_once_and_how_to_sign(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FEATHERWIRE_WEBHOOK_SECRET", " \n")
    open_sinks(["https://user:hush@example.org/hush?token=hush"], SinkOptions("me")).close()
    assert caplog.text.count("is not signed") == 1
    assert "FEATHERWIRE_WEBHOOK_SECRET" in caplog.text
    assert "hush" not in caplog.text
    caplog.clear()
    monkeypatch.setenv("FEATHERWIRE_WEBHOOK_SECRET", SECRET + "\n")  # as from a file
    open_sinks(["https://example.org/"], SinkOptions("me")).close()
    assert caplog.text == ""


def test_the_address_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deliver(Hook(200))
    assert "hidden" not in caplog.text


def test_nobody_there_is_away() -> None:
    sink = WebhookSink("http://127.0.0.1:1/", SECRET)
    with pytest.raises(SinkError) as caught:
        sink.deliver([report(1)])
    assert caught.value.reason == "sink_away"


def test_without_a_secret_there_is_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook(200)
    deliver(hook, secret=None)
    assert "webhook-signature" not in hook.got[0][0]
    monkeypatch.setenv("FEATHERWIRE_WEBHOOK_SECRET", "short")
    with pytest.raises(SinkError) as caught:
        open_sinks(["https://example.org/"], SinkOptions("me"))
    assert caught.value.reason == "bad_secret"


def test_a_signature_is_only_good_for_its_body_its_time_and_its_key() -> None:
    key, body = key_of(SECRET), b"{}"
    headers = sign(key, "msg_1", 1000, body)
    verify(key, headers, body, now_s=1100)
    several = headers | {"webhook-signature": "v1,AAAA " + headers["webhook-signature"]}
    verify(key, several, body, now_s=1000)
    for bad in (
        (key, headers, b"{ }", 1000),
        (key_of("another secret of 16+"), headers, body, 1000),
        (key, headers, body, 1400),
        (key, headers, body, 600),
        (key, headers | {"webhook-id": "msg_2"}, body, 1000),
        (key, {}, body, 1000),
    ):
        with pytest.raises(SinkError) as caught:
            verify(bad[0], bad[1], bad[2], now_s=bad[3])
        assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize(
    ("module", "word", "extra"),
    [("httpx", "https://h/", "webhook"), ("paho.mqtt.client", "mqtt://h/x", "mqtt")],
)
def test_without_the_extra_the_error_names_it(
    module: str, word: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SinkError, match=rf"install .*\[{extra}\]") as caught:
        open_sinks([word], SinkOptions("me"))
    assert caught.value.reason == "missing_extra"
