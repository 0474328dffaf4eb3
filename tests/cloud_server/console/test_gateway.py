"""The console under a path of a proxy, and what is believed of proxies."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from cloud_server.console.context import ConsoleSettings
from cloud_server.console.gateway import Gateway, checked_path
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.rpc.access import Access
from tests.support.console import Running, console_process
from tests.support.servers import server_process

HEADER = "X-Forwarded-Prefix"


def told(request: Request) -> JSONResponse:
    """What an application behind the gateway sees."""
    return JSONResponse(
        {
            "root": request.scope["root_path"],
            "path": request.path_params["path"],
            "url": request.url.path,
            "scheme": request.url.scheme,
            "header": HEADER.lower() in request.headers,
        }
    )


def behind(peer: str = "127.0.0.1", **options: Any) -> TestClient:
    """A client of the gateway, at that address."""
    app = Starlette(routes=[Route("/{path:path}", told, methods=["GET"])])
    settings = {"https": False, "anywhere": False, **options}
    return TestClient(Gateway(app, **settings), client=(peer, 4711))


@pytest.mark.parametrize(
    ("prefix", "path", "own"),
    [
        ("/fw", "/results", "results"),
        ("/fw", "/fw/results", "results"),
        ("/fw", "/fw", ""),
        ("/fw", "/fw/", ""),
        ("/fw", "/fwx", "fwx"),
        ("/fw", "/", ""),
        ("/a/b", "/a/b/device/cam-1", "device/cam-1"),
        ("/fw/", "/rates", "rates"),
        ("/caf%C3%A9", "/caf%C3%A9/rates", "rates"),
        # A path that is called as a page is: a proxy that says so has cut it off.
        ("/device", "/device/cam-1", "device/cam-1"),
        ("/results", "/results", "results"),
        ("/outer, /inner", "/rates", "rates"),
    ],
)
def test_a_path_is_found_whether_the_proxy_cuts_it_or_not(prefix: str, path: str, own: str) -> None:
    seen = behind().get(path, headers={HEADER: prefix}).json()
    root = "/outer/inner" if "," in prefix else prefix.rstrip("/")
    assert (seen["root"], seen["path"], seen["header"]) == (root, own, False)
    assert behind(root_path=root).get(path).json()["path"] == own


@pytest.mark.parametrize(
    "evil",
    ["//evil.example", "fw", "/a//b", "/../x", "/%2e%2e/x", "/a%2Fb/..", '/"><script>', "/a\\b",
     "/a b", "/a?x", "/a#x", "/x'y", "/" + "a" * 300, "/ok, //evil", "/%0d%0aSet-Cookie:x"],
)  # fmt: skip
def test_what_is_no_path_is_none(evil: str) -> None:
    assert behind().get("/results", headers={HEADER: evil}).json()["root"] == ""
    assert checked_path(evil) is None or "," in evil


@pytest.mark.parametrize(
    ("peer", "options", "believed"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {"https": True}, True),
        ("10.0.0.3", {"anywhere": True}, True),
        ("10.0.0.3", {"https": True}, False),
        ("10.0.0.3", {"https": True, "anywhere": True}, False),
    ],
)
def test_a_header_is_believed_where_only_a_proxy_can_have_sent_it(
    peer: str, options: dict[str, bool], believed: bool
) -> None:
    headers = {HEADER: "/fw", "X-Forwarded-Proto": "https"}
    seen = behind(peer, **options).get("/results", headers=headers).json()
    assert seen["root"] == ("/fw" if believed else "")
    assert seen["scheme"] == ("https" if believed or options.get("https") else "http")
    assert not seen["header"]


def test_a_setting_goes_before_the_header() -> None:
    seen = behind(root_path="/fw").get("/results", headers={HEADER: "/other"}).json()
    assert (seen["root"], seen["url"]) == ("/fw", "/fw/results")


@pytest.fixture(scope="module")
def plain(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console of a server that asks for no tokens."""
    data = tmp_path_factory.mktemp("plain")
    arguments = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    with (
        server_process(*arguments) as (_process, ready),
        console_process(ready["listening"], data) as url,
    ):
        yield url


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *_: Any) -> None:
        """None is followed."""
        return


DIRECTLY = urllib.request.build_opener(Stay, urllib.request.ProxyHandler({}))


def asked(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body."""
    request = urllib.request.Request(url, method=method)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with DIRECTLY.open(request, timeout=30) as answer:
            return (
                answer.status,
                {k.lower(): v for k, v in answer.headers.items()},
                answer.read().decode(),
            )
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read().decode()


@pytest.mark.parametrize("path", ["/", "/device/cam-1", "/results", "/rates", "/commands"])
def test_every_link_of_every_page_lies_behind_the_path(plain: str, path: str) -> None:
    _, _, page = asked(plain + path, X_Forwarded_Prefix="/fw")
    links = re.findall(r'(?:href|src|action)\\?"?[=:]\\?"(/[^"\\]*)', page)
    assert len(links) >= 8
    assert [link for link in links if not link.startswith("/fw/")] == []


@pytest.mark.parametrize(
    "path",
    ["/", "/device/cam-1", "/results", "/rates", "/commands", "/login", "/healthz", "/nothing",
     "/static/console.css", "/favicon.ico", "/thumbnail/cam-1", "/picture/cam/s/1/1",
     "/results.csv", "/results.coco.json", "/results.csv?since=never"],
)  # fmt: skip
def test_head_is_answered_as_get_is(plain: str, path: str) -> None:
    # Of now, or of a body that is made anew for each; the server's own way to send one.
    changing = ("date", "content-length", "transfer-encoding", "etag", "last-modified")
    status, headers, _ = asked(plain + path)
    head_status, head_headers, body = asked(plain + path, "HEAD")
    assert (head_status, body) == (status, "")
    for one in (headers, head_headers):
        for name in changing:
            one.pop(name, None)
    assert head_headers == headers


def test_a_browser_works_under_a_path(
    browser: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    with console_process(start_server().address, tmp_path, "--root-path", "/cams/fw") as url:
        context = browser.new_context()
        page = context.new_page()
        strays: list[str] = []
        page.on(
            "request",
            lambda one: strays.append(one.url) if "/cams/fw/" not in one.url else None,
        )
        page.on("response", lambda one: strays.append(one.url) if one.status >= 400 else None)
        page.goto(url + "/cams/fw/")
        page.get_by_text("connected", exact=True).wait_for()  # its web socket
        page.get_by_role("link", name="Results").click()
        page.get_by_role("heading", name="Results").wait_for()
        page.get_by_text("connected", exact=True).wait_for()
        assert page.evaluate("getComputedStyle(document.querySelector('.panel')).borderRadius")
        with page.expect_download() as saved:
            page.get_by_role("link", name="Download CSV").click()
        assert saved.value.suggested_filename == "featherwire-results.csv"
        context.close()
        assert strays == []


def test_a_path_that_is_none_is_a_wrong_option(tmp_path: Path) -> None:
    settings = ConsoleSettings("127.0.0.1:0", "127.0.0.1:1", Access(), tmp_path)
    settings.check()
    for wrong in ("https://x/fw", "fw", "/fw/", "/a/../b", "/"):
        with pytest.raises(FeatherwireError) as caught:
            replace(settings, root_path=wrong).check()
        assert caught.value.reason == "bad_option"


def test_log_in_and_out_stay_under_the_path(browser: Any, running: Running) -> None:
    headers = {HEADER: "/fw"}
    context = browser.new_context(ignore_https_errors=True, base_url=running.url)
    ask = context.request
    answer = ask.get("/results?x=1", headers=headers, max_redirects=0)
    assert answer.headers["location"] == "/fw/login?next=/results%3Fx%3D1"
    assert 'action="/fw/login"' in ask.get("/login", headers=headers).text()
    form = {"token": running.operator, "next": "/results?x=1"}
    answer = ask.post("/login", form=form, headers=headers, max_redirects=0)
    assert answer.headers["location"] == "/fw/results?x=1"
    assert "path=/fw;" in answer.headers["set-cookie"].lower()
    cookie = answer.headers["set-cookie"].partition(";")[0]
    # A browser also sends cookies of consoles above: one that is not ours hides ours from nobody.
    both = {**headers, "Cookie": f"{cookie}; featherwire_console=another"}
    assert ask.get("/rates", headers=both, max_redirects=0).status == 200
    answer = ask.post("/logout", headers=both, max_redirects=0)
    assert answer.headers["location"] == "/fw/login"
    gone = [one["value"].lower() for one in answer.headers_array if one["name"] == "set-cookie"]
    assert any("path=/fw;" in one for one in gone)
    context.close()
