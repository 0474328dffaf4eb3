"""A bundle pipeline: decoders, reconstructors and tails of one bundle, each on threads of a stage.

All that is known of a codec here is its contract (`codec.base`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cloud_server.engine.api import Decoded
from cloud_server.engine.stage import Done, Stage, StoppableHandler
from codec.base import PLAIN, CloudCodec, Latents, Pixels, Rendering, Tail, open_cloud
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.results import (
    Detection,
    Face,
    Instance,
    ModelInfo,
    TaskResult,
)

Received = tuple[Bitstream, Decoded | None]
"""A bitstream, and what it was decoded to where it was already."""

Painted = tuple[Latents, Pixels]
"""What a picture was made of, and the picture: uint8 [height, width, 3]."""

Rendered = tuple[Latents, Rendering, Painted | None]
"""What a picture is made of, and how; and one that was made before, which it may be like."""

A = TypeVar("A")
B = TypeVar("B")

FACE = "face"
"""The class of faces, which results do not name, in a bundle's advice."""

LARGE_PIXELS = 4_000_000
"""Pictures of more pixels are reconstructed by a worker of their own, so that others pass them."""


LAST_PICTURES_BYTES = 256 * 2**20
"""Of the last pictures of streams that are kept to be painted over."""


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """Threads for each stage, and how frames are put together.

    ``queue_size`` bounds each stage; ``max_delay_s`` is how long a reconstruction, or a tail, may
    wait for others of its shape.
    """

    decode: int = 1
    reconstruct: int = 1
    task: int = 1
    picture: int = 1
    queue_size: int = 16
    max_batch: int = 4
    max_task_batch: int = 1
    max_delay_s: float = 0.005

    @property
    def width(self) -> int:
        """Frames that are worked on at a time, in the stage with the most threads."""
        return max(self.decode, self.reconstruct, self.task, self.picture)


class LastPictures:
    """The last picture of each stream and rendering, those that were used last, of so many bytes.

    Used on one event loop.
    """

    def __init__(self, max_bytes: int = LAST_PICTURES_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._painted: OrderedDict[Hashable, Painted] = OrderedDict()

    def get(self, key: Hashable) -> Painted | None:
        """The last one, if it is here."""
        if key in self._painted:
            self._painted.move_to_end(key)
        return self._painted.get(key)

    def put(self, key: Hashable, painted: Painted) -> None:
        """Keep one in place of the last."""
        before = self._painted.pop(key, None)
        self._bytes += painted[1].nbytes - (0 if before is None else before[1].nbytes)
        self._painted[key] = painted
        while self._bytes > self._max_bytes:
            _, (_, picture) = self._painted.popitem(last=False)
            self._bytes -= picture.nbytes


class BundlePipeline:
    """Stages of threads for bitstreams of one bundle; one codec, network or tail a thread."""

    def __init__(
        self,
        bundle: Bundle,
        workers: WorkerCounts,
        *,
        device: str = "cpu",
        score_threshold: float | None = None,
    ) -> None:
        """Load every model and start the workers; slow, so call it off the event loop.

        score_threshold: down to which tails shall report detections (0 to 1), where that is below
        what results show. Raises BundleError, ModelError or TaskError.
        """
        self.bundle = bundle
        self.makes_pictures = bool(bundle.manifest.pictures)
        self.models: dict[str, tuple[ModelInfo, ...]] = {}
        """The tails' models, by task."""
        self._decode: Stage[Received, Latents] = Stage(
            self._name("decode"), queue_size=workers.queue_size
        )
        self._reconstruct: Stage[Rendered, Pixels] = self._batching(
            "reconstruct", workers, lambda item: (item[0].batch_key, item[1])
        )
        self._reconstruct_large: Stage[Rendered, Pixels] = Stage(
            self._name("reconstruct-large"), queue_size=workers.queue_size
        )
        self._last = LastPictures()
        self._tails: dict[str, Stage[Latents, TaskResult]] = {}
        # All models, and advice, first: what cannot be opened leaves no threads behind.
        _ = bundle.advice
        codec = open_cloud(bundle)
        count = workers.reconstruct + 1 if self.makes_pictures else 0
        reconstructors = [_open_reconstructor(codec, device) for _ in range(count)]
        tails = _open_tails(codec, workers.task, device, score_threshold)
        self._decode.start([each(lambda item: _decode(codec, *item))] * workers.decode)
        if self.makes_pictures:
            self._reconstruct.start_stoppable(reconstructors[1:])
            self._reconstruct_large.start_stoppable(reconstructors[:1])
        for task, runners in tails.items():
            self._tails[task] = self._batching(
                f"tail.{task}", workers, lambda latents: latents.batch_key
            )
            self._tails[task].start([runner.run for runner in runners])
            self.models[task] = tuple(runners[0].models)

    @property
    def stages(self) -> list[Stage[Any, Any]]:
        """Those that run."""
        pictures = [self._reconstruct, self._reconstruct_large] if self.makes_pictures else []
        return [self._decode, *pictures, *self._tails.values()]

    async def decode(self, bitstream: Bitstream, decoded: Decoded | None = None) -> Done[Latents]:
        """The features that a bitstream encodes; as ``decoded`` has them, where that is given.

        Raises BitstreamError, ``reference_needed`` for a predicted frame alone.
        """
        return await self._decode.run((bitstream, decoded))

    async def reconstruct(
        self, latents: Latents, how: Rendering = PLAIN, *, stream: str = ""
    ) -> Done[Pixels]:
        """The picture, uint8 HxWx3; only of a bundle that ``makes_pictures``.

        stream: whose last picture is painted over where values have changed, which gives the same
        as all of it anew. Raises BundleError for a rendering that the bundle does not have.
        """
        large = latents.width * latents.height > LARGE_PIXELS
        stage = self._reconstruct_large if large else self._reconstruct
        done = await stage.run((latents, how, self._last.get((stream, how))))
        if stream:
            self._last.put((stream, how), (latents, done.value))
        return done

    async def tail(self, task: str, latents: Latents) -> Done[TaskResult]:
        """What a tail finds, down to the threshold that the pipeline was opened with."""
        return await self._tails[task].run(latents)

    def _name(self, stage: str) -> str:
        return f"{self.bundle.manifest.name}.{stage}"

    def _batching(
        self, stage: str, workers: WorkerCounts, key: Callable[[Any], Hashable]
    ) -> Stage[Any, Any]:
        return Stage(
            self._name(stage),
            queue_size=max(workers.queue_size, workers.max_batch),
            max_batch=workers.max_batch,
            max_delay_s=workers.max_delay_s,
            key=key,
            expecting=lambda: self._decode.pending > 0,
        )


@dataclass(frozen=True, slots=True)
class Showing:
    """From which score results show what was found.

    least: of a task whose bundle advises nothing. explicit: what a person has asked for, in place
    of both.
    """

    bundle: Bundle
    state: int
    least: float = 0.0
    explicit: float | None = None

    def shown(self, result: TaskResult) -> tuple[TaskResult, list[float]]:
        """``result`` as it is shown, and the scores of the detections that are not.

        Raises BundleError ``bad_advice``.
        """
        least = self._least(result)
        kept: dict[str, list[Any]] = {}
        for kind in ("detections", "instances", "faces"):
            found = getattr(result, kind)
            if found is not None:
                kept[kind] = [item for item in found if item.score >= least(_class_of(item))]
        hidden = [one.score for one in result.detections or () if one.score < least(_class_of(one))]
        return (result.model_copy(update=kept) if kept else result), hidden

    def _least(self, result: TaskResult) -> Callable[[str], float]:
        """The least score that is shown, by class."""
        explicit, models = self.explicit, (model.sha256 for model in result.model)
        if explicit is not None:
            return lambda name: explicit
        advised = self.bundle.advice.thresholds(result.task, models)
        if advised is None:
            return lambda name: self.least
        return lambda name: max(self.least, advised.of(name, self.state))


def _class_of(item: Detection | Instance | Face) -> str:
    return FACE if isinstance(item, Face) else item.class_name


def each(function: Callable[[A], B]) -> Callable[[list[A]], list[B]]:
    """A handler of batches from a function of one item."""
    return lambda items: [function(item) for item in items]


def _decode(codec: CloudCodec[Any], bitstream: Bitstream, decoded: Decoded | None) -> Latents:
    if decoded is not None:
        return decoded.unpack(codec)
    latents: Latents = codec.decode(bitstream)
    return latents


def _open_reconstructor(codec: CloudCodec[Any], device: str) -> StoppableHandler[Rendered, Pixels]:
    reconstructor = codec.open_reconstructor(device=device)

    def handle(batch: list[Rendered], should_stop: Callable[[], bool]) -> Sequence[Pixels]:
        how = batch[0][1]  # the same of all: they share a batch
        return reconstructor.reconstruct(
            [latents for latents, _, _ in batch],
            how,
            before=[before for _, _, before in batch],
            should_stop=should_stop,
        )

    return handle


def _open_tails(
    codec: CloudCodec[Any], count: int, device: str, score_threshold: float | None
) -> dict[str, list[Tail[Any]]]:
    """For each task as many tails as workers."""
    opened: dict[str, list[Tail[Any]]] = {}
    for _ in range(count):
        tails = codec.open_tails(device=device, score_threshold=score_threshold)
        for task, tail in tails.items():
            opened.setdefault(task, []).append(tail)
    return opened
