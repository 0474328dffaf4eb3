"""What is not payload: bytes of headers, layers and messages, in each version of the format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.base import EdgeOptions, open_edge
from shared.bitstream import FORMAT_VERSIONS, Bitstream
from shared.bundle import Bundle, packaged_names
from shared.proto.featherwire.v1 import ingest_pb2
from shared.targets import RateTarget
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.requests import Frame, Hello, frame_message

Pixels = npt.NDArray[np.uint8]


def framing(pixels: Pixels) -> list[dict[str, Any]]:
    """A row for each packaged bundle, chain of states and version of the format, at the finest
    state of the chain.

    pixels: uint8 [height, width, 3]. payload: bytes of all layers; header, layer: bytes of the file
    that are none, of the header and on average of a layer; file: of the whole; message: of the
    frame in a session.
    """
    return [row for name in packaged_names() for row in _rows(Bundle.load(name), pixels)]


def framing_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    columns = ("layers", "payload", "header", "layer", "file", "message")
    lines = [
        "| bundle, state | format | layers | payload | header | a layer | file | in a session |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = " | ".join(f"{row[name]:g}" for name in columns)
        lines.append(f"| `{row['bundle']}`, {row['state']} | {row['format']} | {cells} |")
    return "\n".join(lines) + "\n"


def _rows(bundle: Bundle, pixels: Pixels) -> Iterator[dict[str, Any]]:
    edge = open_edge(bundle, EdgeOptions())
    prepared = edge.prepare(pixels)
    for start in bundle.manifest.starts:
        state = bundle.manifest.finest_of(start)
        for version in FORMAT_VERSIONS:
            made = edge.encode(prepared, RateTarget(state=state), version=version)
            payload = sum(len(layer.payload) for layer in made.layers)
            header = made.header_bytes(state, len(made.layers))
            yield {
                "bundle": bundle.manifest.name,
                "state": state,
                "format": version,
                "layers": len(made.layers),
                "payload": payload,
                "header": header,
                "layer": round((made.file_bytes - header - payload) / len(made.layers), 2),
                "file": made.file_bytes,
                "message": _message_bytes(bundle, made),
            }


def _message_bytes(bundle: Bundle, bitstream: Bitstream) -> int:
    """Of the message in which a device sends it as the first frame of a session, with its time."""
    protocol = DeviceProtocol[None](Hello("camera", "one", format_versions=FORMAT_VERSIONS))
    protocol.connect(0.0)
    protocol.next_message()
    welcome = ingest_pb2.Welcome(
        protocol_version=1,
        credits=1,
        accepted_bundle_ids=[bundle.id],
        format_versions=FORMAT_VERSIONS,
    )
    protocol.receive(ingest_pb2.ConnectResponse(welcome=welcome), 0.0)
    message = frame_message(Frame(1, (bitstream,)))
    message.captured_at.FromMilliseconds(1_700_000_000_123)
    protocol.send_frame(message, None, 0.0)
    data = protocol.next_message()
    assert data is not None, "there is credit"
    return len(data)
