"""Commands to several devices, cancelling, forgetting; thumbnails; who failed to log in."""

from __future__ import annotations

import http.client
import io
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from PIL import Image

from cloud_server.auth.tokens import Role
from cloud_server.console.pictures import THUMBNAIL_SIDE
from cloud_server.console.view import commands, fleet
from cloud_server.fleet.client import FleetClient
from edge_client import EdgeSession
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.console import Running
from tests.support.fleet import named, until


@pytest.fixture
def away(stored: Running) -> Running:
    """Two more devices were here, and are away."""
    for name in ("gate-1", "gate-2"):
        token = stored.keys.token(Role.DEVICE, device=name, labels={"door": "yes", "site": "east"})
        with EdgeSession(stored.server, device=name, access=stored.keys.access(token)):
            pass
    with FleetClient(stored.server, stored.access) as client:
        until(lambda: not any(one.online for one in client.devices(named("gate-1", "gate-2"))))
        # A rate that is cancelled puts the one before it back in its place.
        while waiting := [one.command.command_id for one in client.commands(pending_only=True)]:
            client.cancel(waiting)
    return stored


def pending(running: Running) -> dict[str, str]:
    """What every device has not answered yet, in words."""
    with FleetClient(running.server, running.access) as client:
        return {
            one.device: commands.what(one.command, {}) for one in client.commands(pending_only=True)
        }


def test_devices_that_are_ticked_and_labels_are_commanded_at_once(
    visit: Callable[..., Any], away: Running
) -> None:
    page = visit("/")
    page.get_by_label("Choose gate-2").check()
    orders = page.get_by_role("region", name="Commands to several devices")
    target = orders.get_by_role("combobox").first
    target.get_by_text("1 ticked").wait_for(state="attached")
    page.get_by_label("Frames/s at most").fill("2.5")
    page.get_by_role("button", name="Set frames/s").click()
    page.get_by_text("Rate: 2.5 frames/s: applied by 0 of 1, pending on 1").wait_for()
    assert pending(away) == {"gate-2": "rate: 2.5 frames/s"}

    target.select_option("label door=yes")
    page.get_by_label("State, 0 the finest").fill("4")
    page.get_by_role("button", name="Set state").click()
    page.get_by_text("Rate: state 4: applied by 0 of 2, pending on 2").wait_for()
    # What the first command set is kept by the second, which did not name it.
    assert pending(away) == {
        "gate-1": "rate: state 4",
        "gate-2": "rate: state 4, 2.5 frames/s",
    }


def test_nobody_is_commanded_while_nothing_is_ticked(
    visit: Callable[..., Any], away: Running
) -> None:
    page = visit("/")
    page.get_by_label("Choose gate-2").wait_for()
    page.get_by_role("button", name="Set tasks").click()
    page.get_by_text("Tick devices in the table").wait_for()
    assert pending(away) == {}


def test_a_pending_command_is_cancelled_and_a_device_forgotten(
    visit: Callable[..., Any], away: Running
) -> None:
    with FleetClient(away.server, away.access) as client:
        sent = client.send(named("gate-1", "gate-2"), commands.set_tasks(["detection"]))
    page = visit("/commands")
    page.get_by_role("button", name=f"Cancel {sent['gate-1']}").click()
    page.get_by_text(f"{sent['gate-1']} is cancelled").wait_for()
    page.locator("tr", has_text=sent["gate-1"]).get_by_text("cancelled: lena").first.wait_for()
    audit = page.get_by_role("region", name="Audit")
    audit.get_by_text(f"{sent['gate-1']} (tasks of gate-1)").wait_for()
    assert pending(away) == {"gate-2": "tasks: detection"}

    page.goto(away.url + "/device/gate-2")
    page.get_by_role("button", name="Forget this device").click()
    page.get_by_text("gate-2 is forgotten.").wait_for()
    page.goto(away.url + "/")
    page.locator("tr", has_text="gate-1").first.wait_for()
    page.locator("tr", has_text="gate-2").wait_for(state="detached")
    assert pending(away) == {}


def test_a_device_that_is_forgotten_leaves_pages_that_are_open(
    visit: Callable[..., Any], away: Running
) -> None:
    page = visit("/")
    row = page.locator("tr", has_text="gate-1")
    row.first.wait_for()
    with FleetClient(away.server, away.access) as client:
        client.forget("gate-1")
    row.first.wait_for(state="detached")


def test_a_consumer_ticks_nothing(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/", "consumer")
    page.locator("tr", has_text="cam-1").first.wait_for()
    assert page.get_by_role("checkbox").count() == 0
    assert page.get_by_text("Commands to several devices").count() == 0


def test_the_fleet_shows_last_pictures_small(visit: Callable[..., Any], stored: Running) -> None:
    page = visit("/", "consumer")
    image = page.locator("tr", has_text="cam-2").locator("img.thumbnail")
    image.wait_for()
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    answer = page.request.get(stored.url + "/thumbnail/cam-2")
    with Image.open(io.BytesIO(answer.body())) as picture:
        assert max(picture.size) == THUMBNAIL_SIDE
    assert len(answer.body()) < 10_000
    assert page.request.get(stored.url + "/thumbnail/nobody").status == 404


STRANGER = "127.0.0.9"
"""An address of this machine that is nobody else's: failed tries make others of it wait."""


def status_of_log_in(url: str, token: str) -> int:
    """Of the console's answer to somebody who tries a token."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port, context=context, source_address=(STRANGER, 0), timeout=60
    )
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/login", urlencode({"token": token, "next": "/"}), kind)
    status = connection.getresponse().status
    connection.close()
    return status


def test_failed_log_ins_are_in_the_audit_in_words(
    visit: Callable[..., Any], running: Running
) -> None:
    for token in ("fwt_guess", "two words"):
        assert status_of_log_in(running.url, token) == 401
    page = visit("/commands")
    audit = page.get_by_role("region", name="Audit")
    audit.get_by_text(f"log-in at the console from {STRANGER} failed:").first.wait_for()
    assert "fwt_guess" not in page.content()


@pytest.mark.parametrize(
    ("target", "ticked", "selector"),
    [
        ("ticked", {"b", "a"}, fleet_pb2.DeviceSelector(devices=["a", "b"])),
        ("ticked", set(), None),
        ("all", {"a"}, fleet_pb2.DeviceSelector()),
        ("label site=a=b", {"a"}, fleet_pb2.DeviceSelector(labels={"site": "a=b"})),
    ],
)
def test_a_target_stands_for_devices(
    target: str, ticked: set[str], selector: fleet_pb2.DeviceSelector | None
) -> None:
    assert fleet.selector(target, ticked) == selector
