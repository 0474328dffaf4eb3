"""Who is let in, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import APIRequestContext

from cloud_server.auth.tokens import Role
from tests.support.console import Running


def test_an_operator_logs_in_and_out(visit: Callable[..., Any], running: Running) -> None:
    page = visit("/commands")
    assert page.url.endswith("/commands"), "log-in leads to where one wanted to go"
    page.get_by_role("heading", name="Audit").wait_for()
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["secure"]
    assert cookie["sameSite"] == "Strict"
    assert running.operator not in cookie["value"]
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").wait_for()
    assert page.context.cookies() == []
    page.goto(running.url + "/results")
    page.get_by_label("Token").wait_for()


def test_a_consumer_reads(visit: Callable[..., Any]) -> None:
    page = visit("/commands", "consumer")
    page.get_by_text("Commands and the audit are an operator's").wait_for()


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        ("fw_unknown_token", "The server does not know this token."),
        ("device_token", "This token is a device's"),
        ("two words", "That is no token."),
    ],
)
def test_a_bad_token_is_refused(
    visit: Callable[..., Any], running: Running, token: str, answer: str
) -> None:
    page = visit("/", role=None)
    page.get_by_label("Token").fill(getattr(running, token, token))
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").get_by_text(answer).wait_for()
    assert page.context.cookies() == []


def test_a_revoked_token_is_told_so(visit: Callable[..., Any], running: Running) -> None:
    token = running.keys.token(Role.OPERATOR, name="leaver")
    page = visit("/", role=None)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("connected", exact=True).wait_for()
    running.keys.revoke(token)
    page.get_by_text("The server no longer takes this token").wait_for()


@pytest.fixture
def outsider(browser: Any, running: Running) -> APIRequestContext:
    """Somebody with no cookie, without a page."""
    context = browser.new_context(ignore_https_errors=True, base_url=running.url)
    yield context.request
    context.close()


def test_nothing_is_shown_to_who_is_not_logged_in(outsider: APIRequestContext) -> None:
    for path in ("/", "/device/cam-1", "/results", "/rates", "/commands"):
        answer = outsider.get(path, max_redirects=0)
        assert answer.status == 303
        assert answer.headers["location"].startswith("/login?next=")
    assert outsider.get("/picture/cam-1/s/1/1").status == 401


def test_headers_keep_the_page_to_itself(outsider: APIRequestContext) -> None:
    headers = outsider.get("/login").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "max-age" in headers["strict-transport-security"]


@pytest.mark.parametrize("target", ["//evil.example/", "https://evil.example/", "/\\evil.example"])
def test_log_in_leads_nowhere_else(
    outsider: APIRequestContext, running: Running, target: str
) -> None:
    form = {"token": running.operator, "next": target}
    answer = outsider.post("/login", form=form, max_redirects=0)
    assert answer.headers["location"] == "/"


def test_another_site_cannot_log_somebody_in(outsider: APIRequestContext, running: Running) -> None:
    answer = outsider.post(
        "/login", form={"token": running.operator}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


def test_a_forged_cookie_is_none(outsider: APIRequestContext, running: Running) -> None:
    headers = {"Cookie": f"featherwire_console={running.operator}"}
    assert outsider.get("/", headers=headers, max_redirects=0).status == 303
