"""Metrics of a real engine, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import asyncio
import dataclasses
import urllib.request
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_server.engine import LocalEngine
from cloud_server.engine.api import EngineFrame
from cloud_server.serve.observed import ObservedEngine
from cloud_server.telemetry.metrics import Metrics, MetricsServer
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from tests.support.feature_bundle import make_feature_bundle

Sample = Callable[..., float]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_feature_bundle(tmp_path_factory.mktemp("features"))


def frame(bundle: Bundle, state: int) -> EngineFrame:
    photo = np.full((96, 192, 3), 120, np.uint8)
    photo[24:48, 48:96] = (230, 20, 20)
    return EngineFrame((EdgeEncoder(bundle).encode(photo, state=state),), ("detection",))


def scraped(port: int) -> Sample:
    """A sample's value by name and labels, as the page says it now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_what_becomes_of_frames_is_counted_and_timed(bundle: Bundle) -> None:
    sizes = [frame(bundle, state).payload_bytes for state in (0, 0, 3)]
    whole = frame(bundle, 0)
    (stream,) = whole.bitstreams
    forged = dataclasses.replace(
        stream,
        layers=tuple(dataclasses.replace(layer, payload=b"\xff" * 9) for layer in stream.layers),
    )
    foreign = dataclasses.replace(stream, bundle_id=b"elsewher")

    async def run() -> None:
        inner = await LocalEngine.open(bundle)
        metrics = Metrics()
        engine = ObservedEngine(inner, metrics, bundle)
        server = MetricsServer(metrics, lambda: engine.queues, "127.0.0.1:0")
        try:
            before = await asyncio.to_thread(scraped, server.port)
            assert before("featherwire_workers_alive") == 1
            assert before("featherwire_stage_items", stage="decode") == 0
            for state in (0, 0, 3):
                outcome = await engine.submit(frame(bundle, state))
                assert outcome.error is None
            assert (await engine.submit(EngineFrame((forged,), ("detection",)))).error is not None
            assert (await engine.submit(EngineFrame((foreign,)))).error is not None
            missing = await engine.submit(
                dataclasses.replace(whole, tasks=("detection", "nonsense"))
            )
            assert set(missing.task_errors) == {"nonsense"}
        finally:
            assert await engine.close()
        value = await asyncio.to_thread(scraped, server.port)
        name = bundle.manifest.name
        total = "featherwire_frames_total"
        assert value(total, bundle=name, state="0", outcome="ok") == 3
        assert value(total, bundle=name, state="3", outcome="ok") == 1
        assert value(total, bundle=name, state="0", outcome="bad_payload") == 1
        assert value(total, bundle="unknown", state="unknown", outcome="bundle_mismatch") == 1
        assert value("featherwire_feature_bytes_total", bundle=name) == (
            sum(sizes) + whole.payload_bytes
        )
        assert value("featherwire_picture_bytes_total", bundle=name) == 4 * 3 * 96 * 192
        assert value("featherwire_bits_per_pixel_count", bundle=name) == 4
        assert value("featherwire_tasks_total", task="detection", outcome="ok") == 4
        assert value("featherwire_tasks_total", task="unknown", outcome="unknown_task") == 1
        for stage in ("decode", "task.detection", "total", "queue"):
            assert value("featherwire_stage_seconds_count", stage=stage) == 4
            assert value("featherwire_stage_seconds_sum", stage=stage) > 0
        assert value("featherwire_workers_alive") == 0
        await asyncio.to_thread(server.close)

    asyncio.run(run())


def test_a_port_that_is_taken_is_said() -> None:
    first = MetricsServer(Metrics(), dict, "127.0.0.1:0")
    try:
        with pytest.raises(FeatherwireError) as refused:
            MetricsServer(Metrics(), dict, f"127.0.0.1:{first.port}")
        assert refused.value.reason == "bind_failed"
    finally:
        first.close()
