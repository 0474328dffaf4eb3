"""Formats of bitstreams between ends of two releases, and what is kept in the log of each."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.ingest import stream as ingest_stream
from cloud_server.ingest.refinement import replayed
from cloud_server.ingest.servicer import IngestServicer
from codec.base import open_cloud, small_bundle
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.device_events import Answered
from shared.wire.formats import WRITTEN
from shared.wire.requests import Frame, Hello, Refine, frame_message, refine_message
from tests.support.memory_server import MemoryDevice, memory_server
from tests.support.predicting import coded, moving

NEW = Hello("camera", "one", format_versions=WRITTEN)
OLD = Hello("camera", "one")


async def exchanged(
    ingest: IngestServicer, hello: Hello, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> tuple[MemoryDevice, Bitstream]:
    """A coarse frame and its refinement, in the format on which both ends agree."""
    device = MemoryDevice(ingest, hello)
    stream = asyncio.create_task(device.connect())
    await device.until(lambda: device.protocol.can_send)
    version = device.protocol.format_version
    finest = encoder.encode(image, state=0, version=version)
    message = frame_message(Frame(1, (finest.truncate(2),)))
    device.protocol.send_frame(message, None, time.monotonic())
    device.wake()
    await device.until(lambda: len(device.found(Answered)) == 1)
    refine = refine_message(Refine(1, finest.layers[-2:], version=version))
    key = (1, finest.bundle_id, 0)
    device.protocol.send_refine(refine, key, None, time.monotonic())
    device.wake()
    await device.until(lambda: len(device.found(Answered)) == 2)
    device.protocol.bye()
    device.wake()
    await asyncio.wait_for(stream, 10)
    for event in device.found(Answered):
        assert event.sent is not None, "the server names the frame as it was sent"
        assert not event.result.outcome.HasField("error"), event.result.outcome.error
    return device, finest


@pytest.mark.parametrize("device", [NEW, OLD], ids=["new device", "old device"])
@pytest.mark.parametrize("server", ["new server", "old server"])
async def test_ends_of_two_releases_work_together(
    server: str,
    device: Hello,
    tmp_path: Path,
    tiny_bundle: Bundle,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if server == "old server":  # one of before says nothing of formats
        monkeypatch.setattr(ingest_stream, "FORMAT_VERSIONS", ())
    async with memory_server(tmp_path, tiny_bundle) as ingest:
        connected, finest = await exchanged(ingest, device, encoder, image)
        expected = 4 if (server, device) == ("new server", NEW) else 3
        assert connected.protocol.format_version == finest.version == expected
        kept = await ingest._processing._log.frame_messages(("camera", "one"), 1)
        bitstreams, _ = replayed(kept, ingest._shared.bundles)
    # What is kept needs no stream: it names its bundle, and is what the device has.
    assert bitstreams == (finest,)
    assert bitstreams[0].bundle_id == tiny_bundle.short_id
    assert bool(ingest_pb2.Frame.FromString(kept[0]).features[0].container) == (expected == 4)


async def test_layers_of_another_format_do_not_follow_on_a_frame(
    tmp_path: Path, tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    async with memory_server(tmp_path, tiny_bundle) as ingest:
        device = MemoryDevice(ingest, NEW)
        stream = asyncio.create_task(device.connect())
        await device.until(lambda: device.protocol.can_send)
        message = frame_message(Frame(1, (encoder.encode(image, state=2),)))
        device.protocol.send_frame(message, None, time.monotonic())
        layers = encoder.encode(image, state=0, version=3).layers[-2:]
        refine = refine_message(Refine(1, layers, version=3))
        key = (1, tiny_bundle.short_id, 0)
        device.protocol.send_refine(refine, key, None, time.monotonic())
        device.wake()
        await device.until(lambda: len(device.found(Answered)) == 2)
        stream.cancel()
    reasons = {event.result.outcome.error.reason for event in device.found(Answered)}
    assert reasons == {"", "version_mismatch"}


async def test_a_predicted_frame_comes_through_stream_and_log_as_it_is(tmp_path: Path) -> None:
    bundle = small_bundle("null", tmp_path / "bundle")
    alone, predicted = coded(bundle, moving(2))
    async with memory_server(tmp_path, bundle) as ingest:
        device = MemoryDevice(ingest, NEW)
        stream = asyncio.create_task(device.connect())
        await device.until(lambda: device.protocol.can_send)
        for sequence, bitstream in ((1, alone), (2, predicted)):
            message = frame_message(Frame(sequence, (bitstream,)))
            device.protocol.send_frame(message, None, time.monotonic())
        device.wake()
        await device.until(lambda: len(device.found(Answered)) == 2)
        stream.cancel()
        kept = await ingest._processing._log.frame_messages(("camera", "one"), 2)
        ((found,), _) = replayed(kept, ingest._shared.bundles)
    assert found == predicted
    assert found.reference == predicted.reference
    with pytest.raises(BitstreamError) as refused:
        open_cloud(bundle).decode(found)
    assert refused.value.reason == "reference_needed"
