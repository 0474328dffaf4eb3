"""Bytes and times of the container's versions beside each other: what their coders cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codec.base import open_cloud, open_edge
from shared.bitstream import FORMAT_VERSIONS, Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget

Pixels = npt.NDArray[np.uint8]

ROUNDS: Final = 9
_OLD, _NEW = FORMAT_VERSIONS[0], FORMAT_VERSIONS[-1]


def coding(
    bundles: Mapping[str, Bundle], photos: Sequence[Pixels], rounds: int = ROUNDS
) -> Iterator[dict[str, Any]]:
    """A row for the finest state of every chain of every bundle.

    photos: uint8 [H, W, 3]. Bytes of all of them, without headers and with; the times are ratios,
    of the newest version to the oldest, of the processor's time that a photo takes to encode and
    to decode to features: the best of the rounds.
    """
    for name, bundle in bundles.items():
        for start in bundle.manifest.starts:
            yield _row(name, bundle, bundle.manifest.finest_of(start), photos, rounds)


def coding_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = [
        "bundle", "state", f"payloads, version {_OLD}", f"version {_NEW}", "ratio", "files, ratio",
        "encode", "decode",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        cells = [
            row["bundle"], row["state"], row["payload_bytes"][0], row["payload_bytes"][1],
            f"{row['payload_ratio']:.4f}", f"{row['file_ratio']:.4f}",
            f"{row['encode_ratio']:.2f}", f"{row['decode_ratio']:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _row(
    name: str, bundle: Bundle, state: int, photos: Sequence[Pixels], rounds: int
) -> dict[str, Any]:
    edge, cloud, target = open_edge(bundle), open_cloud(bundle), RateTarget(state=state)
    edge.load()
    found = {
        version: [edge.encode(photo, target, version=version) for photo in photos]
        for version in (_OLD, _NEW)
    }
    payloads = [sum(map(_payload_bytes, found[version])) for version in (_OLD, _NEW)]
    files = [sum(one.file_bytes for one in found[version]) for version in (_OLD, _NEW)]
    encode, decode = (
        _ratio(job, rounds)
        for job in (
            lambda version: edge.encode(photos[0], target, version=version),
            lambda version: cloud.decode(found[version][0]),
        )
    )
    return {
        "bundle": name,
        "state": state,
        "layers": len(found[_NEW][0].layers),
        "payload_bytes": payloads,
        "payload_ratio": round(payloads[1] / payloads[0], 4),
        "file_ratio": round(files[1] / files[0], 4),
        "encode_ratio": encode,
        "decode_ratio": decode,
    }


def _ratio(job: Callable[[int], object], rounds: int) -> float:
    """How long the newest version takes beside the oldest; they take turns."""
    best = dict.fromkeys((_OLD, _NEW), math.inf)
    for _ in range(rounds):
        for version in best:
            started = time.process_time()
            job(version)
            best[version] = min(best[version], time.process_time() - started)
    return round(best[_NEW] / best[_OLD], 2)


def _payload_bytes(bitstream: Bitstream) -> int:
    return sum(len(layer.payload) for layer in bitstream.layers)
