"""The engine inside the server's process: worker threads around codec, reconstructor, tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cloud_server.engine.api import EngineFrame, TaskStatus
from cloud_server.engine.picture import encode_picture
from cloud_server.engine.stage import Done, Stage, StoppableHandler
from cloud_server.reconstruct import Reconstructor
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.codec import Latents, open_codec
from shared.errors import BundleError, FeatherwireError, TaskError
from shared.results import AnalysisResult, ModelInfo, TaskResult
from shared.wire import FrameOutcome, Picture, PictureRequest

Image = NDArray[np.uint8]
A = TypeVar("A")
B = TypeVar("B")

LARGE_PIXELS = 4_000_000
"""Pictures of more pixels are reconstructed by a worker of their own, so that others pass them."""


class TaskRunner(Protocol):
    """What the engine needs of a task; see ``cloud_server.tasks``."""

    @property
    def models(self) -> list[ModelInfo]: ...

    def run(self, images: Sequence[Image]) -> list[TaskResult]: ...


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """Threads for each stage, and how frames are put together.

    ``queue_size`` bounds each stage; ``max_delay_s`` is how long a reconstruction may wait for
    others of its shape.
    """

    decode: int = 1
    reconstruct: int = 1
    task: int = 1
    picture: int = 1
    queue_size: int = 16
    max_batch: int = 4
    max_task_batch: int = 1
    max_delay_s: float = 0.005


class LocalEngine:
    """Stages of threads; one model instance a thread. Made by ``LocalEngine.open``."""

    def __init__(self, bundle: Bundle, workers: WorkerCounts) -> None:
        self._bundle = bundle
        self._tasks: dict[str, TaskStatus] = {}
        queue = workers.queue_size
        self._decode: Stage[Bitstream, Latents] = Stage("decode", queue_size=queue)
        self._reconstruct: Stage[Latents, Image] = Stage(
            "reconstruct",
            queue_size=max(queue, workers.max_batch),
            max_batch=workers.max_batch,
            max_delay_s=workers.max_delay_s,
            key=latent_shapes,
            expecting=lambda: self._decode.pending > 0,
        )
        self._reconstruct_large: Stage[Latents, Image] = Stage(
            "reconstruct-large", queue_size=queue
        )
        self._picture: Stage[tuple[Image, PictureRequest], Picture] = Stage(
            "picture", queue_size=queue
        )
        self._task_stages: dict[str, Stage[Image, TaskResult]] = {}
        self._workers = workers

    @classmethod
    async def open(
        cls,
        bundle: Bundle,
        *,
        tasks: Mapping[str, Callable[[], TaskRunner]] | None = None,
        device: str = "cpu",
        workers: WorkerCounts | None = None,
    ) -> LocalEngine:
        """Load every model and start the workers.

        ``tasks`` opens each task by name, once for each of its workers. A task whose opener
        raises is reported in ``engine.tasks`` as unavailable, and the rest go on; a codec or
        reconstructor that cannot be opened raises.
        """
        engine = cls(bundle, workers or WorkerCounts())
        await asyncio.to_thread(engine._open, dict(tasks or {}), device)
        return engine

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        return dict(self._tasks)

    @property
    def alive(self) -> bool:
        return all(stage.alive for stage in self._stages())

    async def submit(self, frame: EngineFrame) -> FrameOutcome:
        started = time.perf_counter()
        milliseconds: dict[str, float] = {}
        try:
            async with asyncio.timeout(frame.deadline_s):
                image = await self._image(frame, milliseconds)
        except TimeoutError:
            return FrameOutcome(error=_deadline_exceeded(frame.deadline_s))
        except FeatherwireError as error:
            return FrameOutcome(error=error)
        return await self._analyse(frame, image, milliseconds, started)

    async def close(self) -> bool:
        return all(await asyncio.gather(*(stage.close() for stage in self._stages())))

    # -- start-up ----------------------------------------------------------------------------

    def _open(self, tasks: dict[str, Callable[[], TaskRunner]], device: str) -> None:
        workers = self._workers
        codecs = [open_codec(self._bundle) for _ in range(workers.decode)]
        self._decode.start([_each(codec.decode) for codec in codecs])
        self._reconstruct.start_stoppable(
            [self._open_reconstructor(device) for _ in range(workers.reconstruct)]
        )
        self._reconstruct_large.start_stoppable([self._open_reconstructor(device)])
        self._picture.start([_each(_encode) for _ in range(workers.picture)])
        for name, open_one in tasks.items():
            self._open_task(name, open_one)

    def _open_reconstructor(self, device: str) -> StoppableHandler[Latents, Image]:
        reconstructor = Reconstructor.from_bundle(self._bundle, device=device)
        return lambda batch, should_stop: reconstructor.reconstruct(batch, should_stop=should_stop)

    def _open_task(self, name: str, open_one: Callable[[], TaskRunner]) -> None:
        try:
            runners = [open_one() for _ in range(self._workers.task)]
        except FeatherwireError as error:
            self._tasks[name] = TaskStatus(name, unavailable=error)
            return
        stage: Stage[Image, TaskResult] = Stage(
            f"task.{name}",
            queue_size=self._workers.queue_size,
            max_batch=self._workers.max_task_batch,
        )
        stage.start([runner.run for runner in runners])
        self._task_stages[name] = stage
        self._tasks[name] = TaskStatus(name, models=tuple(runners[0].models))

    def _stages(self) -> list[Stage[Any, Any]]:
        return [
            self._decode,
            self._reconstruct,
            self._reconstruct_large,
            self._picture,
            *self._task_stages.values(),
        ]

    # -- one frame ---------------------------------------------------------------------------

    async def _image(self, frame: EngineFrame, milliseconds: dict[str, float]) -> Image | None:
        """The reconstruction, uint8 HxWx3; None when nothing asks for it."""
        if frame.bitstream.bundle_id != self._bundle.short_id:
            raise BundleError(
                "bundle_mismatch",
                f"the frame was written with bundle {frame.bitstream.bundle_id.hex()}..., this "
                f"server decodes {self._bundle.id}; fetch that one with BundleService.GetBundle, "
                "or send without a bundle of your own, and encode the photo again",
                bundle_id=self._bundle.id,
            )
        decoded = await self._decode.run(frame.bitstream)
        _note(milliseconds, "decode", decoded)
        if frame.picture is None and not any(name in self._task_stages for name in frame.tasks):
            return None
        large = frame.bitstream.width * frame.bitstream.height > LARGE_PIXELS
        lane = self._reconstruct_large if large else self._reconstruct
        reconstructed = await lane.run(decoded.value)
        _note(milliseconds, "reconstruct", reconstructed)
        return reconstructed.value

    async def _analyse(
        self,
        frame: EngineFrame,
        image: Image | None,
        milliseconds: dict[str, float],
        started: float,
    ) -> FrameOutcome:
        """Run the tasks and encode the picture side by side; what is late or fails says so."""
        jobs: dict[str, asyncio.Task[Done[TaskResult]]] = {}
        errors: dict[str, FeatherwireError] = {}
        for name in dict.fromkeys(frame.tasks):
            if name in self._task_stages and image is not None:
                jobs[name] = asyncio.create_task(self._task_stages[name].run(image))
            else:
                errors[name] = self._cannot_run(name)
        picture_job: asyncio.Task[Done[Picture]] | None = None
        if frame.picture is not None and image is not None:
            picture_job = asyncio.create_task(self._picture.run((image, frame.picture)))
        everything = [*jobs.values(), *([picture_job] if picture_job else [])]
        try:
            if everything:
                remaining_s = frame.deadline_s - (time.perf_counter() - started)
                await asyncio.wait(everything, timeout=max(0.0, remaining_s))
        finally:
            for job in everything:
                job.cancel()  # no effect on those that are done
        results: dict[str, TaskResult] = {}
        for name, job in jobs.items():
            done = _outcome_of(job, frame.deadline_s)
            if isinstance(done, Done):
                _note(milliseconds, f"task.{name}", done)
                results[name] = done.value
            else:
                errors[name] = done
        encoded = _outcome_of(picture_job, frame.deadline_s) if picture_job else None
        if isinstance(encoded, Done):
            _note(milliseconds, "picture", encoded)
        milliseconds["total"] = (time.perf_counter() - started) * 1e3
        return FrameOutcome(
            analysis=self._analysis(frame.bitstream, results, milliseconds),
            task_errors=errors,
            picture=encoded.value if isinstance(encoded, Done) else None,
            picture_error=encoded if isinstance(encoded, FeatherwireError) else None,
        )

    def _analysis(
        self, bitstream: Bitstream, results: dict[str, TaskResult], milliseconds: dict[str, float]
    ) -> AnalysisResult:
        payload_bytes = bitstream.file_bytes
        return AnalysisResult(
            width=bitstream.width,
            height=bitstream.height,
            state=bitstream.state,
            bundle_id=self._bundle.id,
            payload_bytes=payload_bytes,
            bits_per_pixel=bitstream.bits_per_pixel,
            tasks=results,
            milliseconds=milliseconds,
        )

    def _cannot_run(self, name: str) -> FeatherwireError:
        status = self._tasks.get(name)
        if status is not None and status.unavailable is not None:
            return status.unavailable
        known = ", ".join(sorted(self._tasks)) or "none"
        return TaskError("unknown_task", f"no task {name!r} on this server; it has: {known}")


def latent_shapes(latents: Latents) -> Hashable:
    """What two frames must share to be reconstructed in one batch: the shape of every scale."""
    return tuple((name, array.shape) for name, array in sorted(latents.scales.items()))


def _each(function: Callable[[A], B]) -> Callable[[list[A]], list[B]]:
    """A handler of batches from a function of one item."""
    return lambda items: [function(item) for item in items]


def _encode(item: tuple[Image, PictureRequest]) -> Picture:
    return encode_picture(*item)


def _note(milliseconds: dict[str, float], name: str, done: Done[Any]) -> None:
    """Add a stage's time; waiting times of all stages are summed as ``queue``."""
    milliseconds[name] = done.run_ms
    milliseconds["queue"] = milliseconds.get("queue", 0.0) + done.queue_ms


def _outcome_of(job: asyncio.Task[Done[B]], deadline_s: float) -> Done[B] | FeatherwireError:
    """What a finished or abandoned job came to."""
    if not job.done() or job.cancelled():
        return _deadline_exceeded(deadline_s)
    error = job.exception()
    if error is None:
        return job.result()
    if isinstance(error, FeatherwireError):
        return error
    raise error


def _deadline_exceeded(deadline_s: float) -> FeatherwireError:
    return FeatherwireError(
        "deadline_exceeded", f"not done within {deadline_s:g} s", deadline_s=deadline_s
    )
