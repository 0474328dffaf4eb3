"""The metrics of one server, in a registry of its own. Names follow Prometheus' conventions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_BITS_PER_PIXEL = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1)


_CHANNELS = 3
_UNKNOWN = "unknown"
OK = "ok"
"""What became of a frame that did not fail."""


class Metrics:
    """Counters, gauges and histograms by name; labels are few and bounded.

    Devices are no label: a fleet would make too many series. FleetService lists each.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        r = self.registry
        self.frames = Counter(
            "featherwire_frames_total",
            "Frames and refinements analysed, by bundle, state, and ok or the error's reason.",
            ["bundle", "state", "outcome"],
            registry=r,
        )
        self.tasks = Counter(
            "featherwire_tasks_total",
            "Tasks run on frames, by name, and ok or the error's reason.",
            ["task", "outcome"],
            registry=r,
        )
        self.feature_bytes = Counter(
            "featherwire_feature_bytes_total",
            "Bytes of bitstreams analysed, headers included.",
            ["bundle"],
            registry=r,
        )
        self.picture_bytes = Counter(
            "featherwire_picture_bytes_total",
            "Bytes that the same pictures have as plain RGB: what is saved is the difference.",
            ["bundle"],
            registry=r,
        )
        self.bits_per_pixel = Histogram(
            "featherwire_bits_per_pixel",
            "Rates of frames, of their whole bitstreams.",
            ["bundle"],
            buckets=_BITS_PER_PIXEL,
            registry=r,
        )
        self.stage_seconds = Histogram(
            "featherwire_stage_seconds",
            "Seconds of a frame in a stage: decode, reconstruct, task.NAME, picture; queue is the "
            "waiting before all of them, total from being handed to the engine to the outcome.",
            ["stage"],
            buckets=_SECONDS,
            registry=r,
        )
        self.queued = Gauge(
            "featherwire_stage_items", "Items inside a stage or waiting for it.", ["stage"],
            registry=r,
        )  # fmt: skip
        self.workers_alive = Gauge(
            "featherwire_workers_alive",
            "1 while frames can be analysed, 0 when a worker thread, or every process, has died.",
            registry=r,
        )
        self.worker_processes = Gauge(
            "featherwire_worker_processes", "Worker processes that run now.", registry=r
        )
        self.worker_deaths = Counter(
            "featherwire_worker_deaths_total",
            "Worker processes that ended by themselves, by the signal or exit status; start: those "
            "that could not be started.",
            ["cause"],
            registry=r,
        )
        self.resubmitted = Counter(
            "featherwire_frames_resubmitted_total",
            "Frames given to another worker because theirs had died.",
            registry=r,
        )
        self.engine_limit = Gauge(
            "featherwire_engine_limit",
            "Frames that the engine is given at a time; it follows what gets done.",
            registry=r,
        )
        self.database_up = Gauge(
            "featherwire_database_up",
            "1 while the log can be written to, 0 when it could not be for ten seconds.",
            registry=r,
        )
        self.unchanged = Counter(
            "featherwire_frames_unchanged_total",
            "Frames in which no value had changed, answered with the result of the one before.",
            registry=r,
        )
        self.reference_bytes = Gauge(
            "featherwire_reference_bytes",
            "Memory of the values that predicted frames refer to.",
            registry=r,
        )
        self.streams = Gauge("featherwire_streams", "Streams of devices open now.", registry=r)
        self.credits = Gauge(
            "featherwire_credits_outstanding",
            "Frames that devices may send now beyond those that wait for their result.",
            registry=r,
        )
        self.withheld = Counter(
            "featherwire_credits_withheld_total",
            "Times that a device at its quota had to wait for credits.",
            registry=r,
        )
        self.acknowledged = Counter(
            "featherwire_frames_acknowledged_total",
            "Frames acknowledged because they are durable, new ones and those sent again.",
            ["kind"],
            registry=r,
        )
        self.refused = Counter(
            "featherwire_refused_total",
            "Messages, calls and streams refused, by reason.",
            ["reason"],
            registry=r,
        )
        self.forgotten = Counter(
            "featherwire_records_forgotten_total",
            "What retention deleted: results for age or bytes, sessions, commands, audit entries.",
            ["reason"],
            registry=r,
        )
        self.certificate_expires_at = Gauge(
            "featherwire_certificate_expires_at",
            "When a certificate in use ends, in seconds since 1970: server, of its chain the "
            "first; client_ca, of the CAs of clients the last.",
            ["certificate"],
            registry=r,
        )
        self.subscribers = Gauge(
            "featherwire_subscribers", "Subscriptions to results open now.", registry=r
        )


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


class MetricsServer:
    """Serves ``/metrics`` until it is closed."""

    def __init__(self, metrics: Metrics, queues: Callable[[], dict[str, int]], listen: str) -> None:
        """queues: items by stage, asked at every scrape. listen: HOST:PORT, port 0 takes a free
        one. Raises FeatherwireError ``bind_failed``.
        """
        host, _, port = listen.rpartition(":")

        def items_of(stage: str) -> Callable[[], float]:
            return lambda: float(queues()[stage])

        for stage in queues():
            metrics.queued.labels(stage).set_function(items_of(stage))
        try:
            served = start_http_server(int(port), addr=host.strip("[]"), registry=metrics.registry)
        except OSError as error:
            raise FeatherwireError(
                "bind_failed", f"cannot serve metrics on {listen}: {error.strerror or error}"
            ) from None
        self._server: WSGIServer = served[0]
        self._thread: threading.Thread = served[1]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
