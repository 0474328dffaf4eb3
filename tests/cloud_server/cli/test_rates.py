"""`fleet rate`: what is not named stays; what is replaced is said, with who had set it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cloud_server.cli import main
from cloud_server.fleet.client import FleetClient
from shared.proto.featherwire.v1 import fleet_pb2
from tests.support.fleet import named, until
from tests.support.raw_client import RawClient
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]
Policy = fleet_pb2.RatePolicy


def fleet_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, list[dict[str, str]], list[str]]:
    """Its exit status, what was sent, and the lines on stderr."""
    monkeypatch.setattr("sys.argv", ["featherwire-cloud", "fleet", "rate", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    status = ended.value.code
    assert isinstance(status, int | None)
    at = out.find('{"sent"')  # the server beside it writes its log too
    sent = json.JSONDecoder().raw_decode(out[at:])[0]["sent"] if at >= 0 else []
    return status or 0, sent, err.splitlines()


def test_parts_of_a_rate_are_set_replaced_and_given_back(
    start_server: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = start_server().address
    client = RawClient(address)
    client.hello(device="cam", session="s")
    where = ("--server", address, "--device", "cam", "--json")

    def change(*words: str) -> tuple[fleet_pb2.RatePolicy, list[str]]:
        status, (sent,), said = fleet_rate(capsys, monkeypatch, *where, *words)
        assert (status, sent["device"]) == (0, "cam")
        given = until(lambda: [c for c in client.all("command") if c.command_id == sent["id"]])
        client.say(command_reply={"command_id": sent["id"]})
        return given[0].set_rate.policy, said

    with FleetClient(address) as operator:
        until(lambda: [one for one in operator.devices(named("cam")) if one.online])
        assert change("--fps", "2") == (Policy(max_frames_per_second=2), [])
        policy, said = change("--state", "5")
        assert (policy, said) == (Policy(state=5, max_frames_per_second=2), [])
        assert change("--state", "5")[1] == []  # nothing changes
        policy, (said,) = change("--bandwidth", "64k", "--fps", "3")
        assert policy == Policy(bytes_per_second=8000, max_frames_per_second=3)
        assert said.startswith("cam: this replaces state 5, set on 2")
        assert " and 2 frames/s, set on 2" in said
        assert said.endswith(" UTC by anybody")
        policy, (said,) = change("--fps", "any", "--bpp", "any")
        assert policy == Policy(bytes_per_second=8000)
        assert "3 frames/s" in said
        policy, (said,) = change("--reset")
        assert policy == Policy()
        assert "64 kbit/s" in said
        for words in (["--state", "300"], ["--fps", "none"], ["--state", "1", "--bpp", "1"], []):
            status, *_ = fleet_rate(capsys, monkeypatch, *where, *words)
            assert status == 2
    client.close()
