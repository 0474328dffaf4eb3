"""Frames into metrics: what came, of which bundle, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import Counter, Histogram

from cloud_server.telemetry.metrics import Metrics
from shared.bitstream import Bitstream
from shared.bundle import Bundle

_CHANNELS = 3
_UNKNOWN = "unknown"
OK = "ok"
"""What became of a frame that did not fail."""


class FrameNotes:
    """Counts frames. Its labels are those of known bundles, so that they are few."""

    def __init__(self, metrics: Metrics, bundles: Sequence[Bundle]) -> None:
        """bundles: that frames are of; others are counted as ``unknown``."""
        self._metrics = metrics
        self._names = {bundle.short_id: bundle.manifest.name for bundle in bundles}
        # Children by their labels: asking a metric for one costs more than to count with it.
        self._frames: dict[tuple[str, int | None, str], Counter] = {}
        self._sizes: dict[str, tuple[Counter, Counter, Histogram]] = {}

    def frame(self, bitstreams: Sequence[Bitstream], outcome: str, *, failed: bool) -> None:
        """A frame was analysed; ``outcome``: ok, or the error's reason."""
        for bitstream in bitstreams:
            name = self._names.get(bitstream.bundle_id, _UNKNOWN)
            # A foreign bundle's states are a sender's choice, and no label.
            state = None if name is _UNKNOWN else bitstream.state
            self._counter(name, state, outcome).inc()
            if not failed:
                pixels = bitstream.width * bitstream.height
                size = bitstream.file_bytes
                feature_bytes, picture_bytes, bits_per_pixel = self._of_bundle(name)
                feature_bytes.inc(size)
                picture_bytes.inc(_CHANNELS * pixels)
                bits_per_pixel.observe(8 * size / pixels)

    def kept(self, frames: Iterable[tuple[Bitstream, int]]) -> None:
        """Frames of one known bitstream each were kept; with its bytes as a file."""
        alike: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
        for bitstream, size in frames:
            pixels = bitstream.width * bitstream.height
            alike.setdefault((bitstream.bundle_id, bitstream.state), []).append((size, pixels))
        for (bundle_id, state), sizes in alike.items():
            name = self._names[bundle_id]
            self._counter(name, state, OK).inc(len(sizes))
            feature_bytes, picture_bytes, bits_per_pixel = self._of_bundle(name)
            feature_bytes.inc(sum(size for size, _ in sizes))
            picture_bytes.inc(_CHANNELS * sum(pixels for _, pixels in sizes))
            for size, pixels in sizes:
                bits_per_pixel.observe(8 * size / pixels)

    def _counter(self, name: str, state: int | None, outcome: str) -> Counter:
        key = (name, state, outcome)
        if key not in self._frames:
            label = _UNKNOWN if state is None else str(state)
            self._frames[key] = self._metrics.frames.labels(name, label, outcome)
        return self._frames[key]

    def _of_bundle(self, name: str) -> tuple[Counter, Counter, Histogram]:
        if name not in self._sizes:
            metrics = self._metrics
            self._sizes[name] = (
                metrics.feature_bytes.labels(name),
                metrics.picture_bytes.labels(name),
                metrics.bits_per_pixel.labels(name),
            )
        return self._sizes[name]
