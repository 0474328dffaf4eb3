"""SIGTERM in the midst of work: every process ends by itself, and no frame is lost or doubled."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from cloud_server.auth.development_ca import make_development_ca
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.session.results import FrameResult
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.rpc.access import Access
from tests.support.proxy import Proxy
from tests.support.servers import server_process

FRAMES = 24
EXIT_S = 30.0
"""Five seconds after the last frame on a machine of one's own; tests share theirs."""


@pytest.mark.parametrize("engine", ["threads", "processes, TLS and a console"])
def test_a_server_that_is_terminated_ends_and_another_one_goes_on(
    tiny_bundle: Bundle, encoder: EdgeEncoder, tmp_path: Path, engine: str
) -> None:
    image = np.random.default_rng(1).integers(0, 255, (768, 768, 3)).astype(np.uint8)
    arguments = ["--bundle", tiny_bundle.origin, "--tasks", "none", "--data", str(tmp_path / "d")]
    arguments += ["--drain-deadline", "0.5"]
    access = Access()
    if engine != "threads":
        make_development_ca(tmp_path)
        arguments += ["--workers", "2", "--console", "127.0.0.1:0"]
        arguments += ["--tls-cert", str(tmp_path / "server.pem")]
        arguments += ["--tls-key", str(tmp_path / "server.key")]
        access = Access(ca=tmp_path / "ca.pem", name="localhost")
    results: list[FrameResult] = []
    some = threading.Event()

    def send(address: str) -> None:
        with (
            Spool.open(tmp_path / "spool") as spool,
            EdgeSession(
                address, encoder=encoder, spool=spool, access=access, connect_timeout_s=120
            ) as session,
        ):
            for result in session.stream([image] * FRAMES, picture=True, state=3):
                results.append(result)
                if len(results) == 3:
                    some.set()

    with (
        server_process(*arguments, log=tmp_path / "first") as (first, ready),
        Proxy(ready["listening"]) as proxy,
    ):
        device = threading.Thread(target=send, args=(proxy.address,), daemon=True)
        device.start()
        assert some.wait(120)
        first.send_signal(signal.SIGTERM)
        assert first.wait(EXIT_S) in {0, 1}, "1: frames were cut at the drain's deadline"
        assert '"event": "stopped"' in (tmp_path / "first").read_text()
        with server_process(*arguments, log=tmp_path / "second") as (second, ready):
            proxy.target = ready["listening"]
            device.join(180)
            assert not device.is_alive()
            second.send_signal(signal.SIGTERM)
            assert second.wait(EXIT_S) == 0
    assert [str(result.error) for result in results if result.error is not None] == []
    assert sorted(result.sequence for result in results) == list(range(1, FRAMES + 1))
