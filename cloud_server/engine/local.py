"""The engine inside one process: worker threads around codecs, networks and tasks.

Worker processes and replicas on Ray each hold one of these.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from PIL import Image

from cloud_server.engine.api import EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.pipeline import BundlePipeline, Showing, WorkerCounts, each
from cloud_server.engine.stage import Done, Stage
from cloud_server.engine.waiting import deadline_exceeded
from cloud_server.tasks.base import Task
from codec.base import Latents, Pixels, Rendering, no_picture, rendering_for_tasks
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BundleError, FeatherwireError, PhotoError, TaskError
from shared.results import DEFAULT_THRESHOLD, AnalysisResult, ModelInfo, TaskResult
from shared.wire import Picture, PictureEncoding, PictureRequest
from shared.wire.transport import MAX_PICTURE_BYTES

DEFAULT_WEBP_QUALITY = 90


class LocalEngine:
    """Stages of threads; one model instance a thread. Made by ``LocalEngine.open``."""

    def __init__(self, workers: WorkerCounts, shown_score: float | None = None) -> None:
        self._workers = workers
        self.shown_score = shown_score
        self._pipelines: dict[bytes, BundlePipeline] = {}
        self._tasks: dict[str, TaskStatus] = {}
        self._unavailable: dict[str, FeatherwireError] = {}
        self._task_stages: dict[str, Stage[Pixels, TaskResult]] = {}
        self._picture: Stage[tuple[Pixels, PictureRequest], Picture] = Stage(
            "picture", queue_size=workers.queue_size
        )

    @classmethod
    async def open(
        cls,
        *bundles: Bundle,
        tasks: Mapping[str, Callable[[], Task]] | None = None,
        device: str = "cpu",
        workers: WorkerCounts | None = None,
        score_threshold: float = DEFAULT_THRESHOLD,
        shown_score: float | None = None,
    ) -> LocalEngine:
        """Load every model and start the workers.

        ``bundles``: one or more, the one that clients shall use first. ``tasks`` opens each task on
        pictures by name, once for each of its workers. A task whose opener raises is reported in
        ``engine.tasks`` as unavailable, and the rest go on; a codec, reconstructor or tail that
        cannot be opened raises. ``score_threshold``: down to which tails report ``doubts``.
        ``shown_score``: from which score results show everything (``tasks`` must find it), in place
        of what bundles advise.
        """
        engine = cls(workers or WorkerCounts(), shown_score)
        await asyncio.to_thread(
            engine._open,
            bundles,
            dict(tasks or {}),
            device,
            min(score_threshold, DEFAULT_THRESHOLD, 1.0 if shown_score is None else shown_score),
        )
        return engine

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        return dict(self._tasks)

    @property
    def alive(self) -> bool:
        return all(stage.alive for stage in self._stages())

    @property
    def width(self) -> int:
        return self._workers.width

    @property
    def queues(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for stage in self._stages():
            found[stage.name] = found.get(stage.name, 0) + stage.pending
        return found

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        return await FrameRun(self, frame).outcome()

    async def close(self) -> bool:
        return all(await asyncio.gather(*(stage.close() for stage in self._stages())))

    # -- for the run of a frame ------------------------------------------------------------------

    def pipeline_of(self, bitstream: Bitstream) -> BundlePipeline:
        """The pipeline of a bitstream's bundle. Raises ``BundleError("bundle_mismatch")``."""
        pipeline = self._pipelines.get(bitstream.bundle_id)
        if pipeline is None:
            raise unknown_bundle(
                bitstream.bundle_id, [one.bundle for one in self._pipelines.values()]
            )
        return pipeline

    def on_pictures(self, task: str) -> bool:
        """Whether the task can run on a picture here."""
        return task in self._task_stages

    def cannot_run(self, task: str) -> FeatherwireError:
        """Why a task cannot be run on the picture of a frame that has one."""
        if task in self._unavailable:
            return self._unavailable[task]
        if task in self._tasks:
            named = [
                one.bundle.manifest.name for one in self._pipelines.values() if task in one.models
            ]
            return TaskError(
                "needs_features",
                f"{task} runs on features of bundle {' or '.join(named)} alone on this server",
                task=task,
            )
        known = ", ".join(sorted(self._tasks)) or "none"
        return TaskError("unknown_task", f"no task {task!r} on this server; it has: {known}")

    async def run_task(self, task: str, image: Pixels) -> Done[TaskResult]:
        """Run a task on a picture, uint8 HxWx3."""
        return await self._task_stages[task].run(image)

    async def encode(self, image: Pixels, request: PictureRequest) -> Done[Picture]:
        """Encode a picture as it was asked for."""
        return await self._picture.run((image, request))

    # -- start-up --------------------------------------------------------------------------------

    def _open(
        self,
        bundles: Sequence[Bundle],
        tasks: dict[str, Callable[[], Task]],
        device: str,
        score_threshold: float,
    ) -> None:
        for bundle in bundles:
            self._pipelines[bundle.short_id] = BundlePipeline(
                bundle, self._workers, device=device, score_threshold=score_threshold
            )
        self._picture.start([each(_encode) for _ in range(self._workers.picture)])
        for name, open_one in tasks.items():
            self._open_task(name, open_one)
        for pipeline in self._pipelines.values():
            for name, models in pipeline.models.items():
                self._add_tail(name, models)

    def _open_task(self, name: str, open_one: Callable[[], Task]) -> None:
        try:
            runners = [open_one() for _ in range(self._workers.task)]
        except FeatherwireError as error:
            self._unavailable[name] = error
            self._tasks[name] = TaskStatus(
                name, unavailable=error, on_pictures=False, picture_error=error
            )
            return
        stage: Stage[Pixels, TaskResult] = Stage(
            f"task.{name}",
            queue_size=self._workers.queue_size,
            max_batch=self._workers.max_task_batch,
        )
        stage.start([runner.run for runner in runners])
        self._task_stages[name] = stage
        self._tasks[name] = TaskStatus(name, models=tuple(runners[0].models))

    def _add_tail(self, name: str, models: tuple[ModelInfo, ...]) -> None:
        on_pictures = name in self._task_stages
        before = self._tasks[name].models if name in self._tasks else ()
        new = tuple(model for model in models if model not in before)
        self._tasks[name] = TaskStatus(
            name,
            models=before + new,
            on_pictures=on_pictures,
            on_features=True,
            picture_error=self._unavailable.get(name),
        )

    def _stages(self) -> list[Stage[Any, Any]]:
        pipelines = [stage for pipeline in self._pipelines.values() for stage in pipeline.stages]
        return [*pipelines, self._picture, *self._task_stages.values()]


def unknown_bundle(short_id: bytes, bundles: Sequence[Bundle]) -> BundleError:
    """What is wrong with a bitstream of a bundle that is not here."""
    ids = ", ".join(bundle.id for bundle in bundles)
    return BundleError(
        "bundle_mismatch",
        f"the frame was written with bundle {short_id.hex()}..., this server decodes {ids}; fetch "
        "that with BundleService.GetBundle, or send without a bundle of your own, and encode the "
        "photo again",
        bundle_id=bundles[0].id,
    )


def _encode(item: tuple[Pixels, PictureRequest]) -> Picture:
    return encode_picture(*item)


T = TypeVar("T")

Job = asyncio.Task[Done[TaskResult]]


class FrameRun:
    """Runs one frame; ``outcome`` is called once."""

    def __init__(self, engine: LocalEngine, frame: EngineFrame) -> None:
        self._engine = engine
        self._frame = frame
        self._started = time.perf_counter()
        self._milliseconds: dict[str, float] = {}
        self._pipelines: list[BundlePipeline] = []
        self._latents: list[Latents] = []
        self._jobs: list[asyncio.Task[Any]] = []
        self._images: dict[Rendering, asyncio.Task[Done[Pixels]]] = {}
        self._showing: dict[str, Showing] = {}

    async def outcome(self) -> EngineOutcome:
        """Analyse the frame; every failure is in what is returned.

        Of a frame of which nothing is asked the features are not decoded.
        """
        try:
            self._pipelines = [self._engine.pipeline_of(one) for one in self._frame.bitstreams]
            if self._frame.asks_nothing:
                return self._gather({}, {}, None)
            async with asyncio.timeout(self._frame.deadline_s):
                await self._decode()
        except TimeoutError:
            return EngineOutcome(error=deadline_exceeded(self._frame.deadline_s))
        except FeatherwireError as error:
            return EngineOutcome(error=error)
        return await self._analyse()

    async def _decode(self) -> None:
        """Decode all bitstreams; one that is damaged is the whole frame's error."""
        frame = self._frame
        decoded = frame.decoded or (None,) * len(frame.bitstreams)
        jobs = [
            self._start(pipeline.decode(bitstream, one))
            for pipeline, bitstream, one in zip(
                self._pipelines, frame.bitstreams, decoded, strict=True
            )
        ]
        try:
            for done in await asyncio.gather(*jobs):
                self._note("decode", done)
                self._latents.append(done.value)
        finally:
            self._cancel()

    async def _analyse(self) -> EngineOutcome:
        """Run tasks and encode the picture side by side; what is late or fails has its error."""
        frame = self._frame
        jobs: dict[str, Job] = {}
        errors: dict[str, FeatherwireError] = {}
        for name in dict.fromkeys(frame.tasks):
            job = self._task(name)
            if isinstance(job, FeatherwireError):
                errors[name] = job
            else:
                jobs[name] = job
        picture: asyncio.Task[Done[Picture]] | FeatherwireError | None = None
        if frame.picture is not None:
            if self._picture_source() is None:
                picture = no_picture(self._pipelines[0].bundle)
            else:
                picture = self._start(self._encode(frame.picture, frame.rendering))
        try:
            if self._jobs:
                remaining_s = frame.deadline_s - (time.perf_counter() - self._started)
                await asyncio.wait(self._jobs, timeout=max(0.0, remaining_s))
        finally:
            self._cancel()
        return self._gather(jobs, errors, picture)

    def _gather(
        self,
        jobs: dict[str, Job],
        errors: dict[str, FeatherwireError],
        picture: asyncio.Task[Done[Picture]] | FeatherwireError | None,
    ) -> EngineOutcome:
        no_image: FeatherwireError | None = None
        for made in self._images.values():
            image = self._result_of(made)
            if isinstance(image, Done):
                self._note("reconstruct", image)
            else:
                no_image = image
        results: dict[str, TaskResult] = {}
        doubts: list[float] = []
        for name, job in jobs.items():
            done = self._result_of(job)
            if isinstance(done, Done):
                self._note(f"task.{name}", done)
                results[name], unsure = self._showing[name].shown(done.value)
                doubts += unsure
            else:
                errors[name] = done
        encoded = self._result_of(picture) if isinstance(picture, asyncio.Task) else picture
        if isinstance(encoded, Done):
            self._note("picture", encoded)
        if no_image is not None and not results:
            return EngineOutcome(error=no_image)
        self._milliseconds["total"] = (time.perf_counter() - self._started) * 1e3
        return EngineOutcome(
            analysis=self._analysis(results),
            task_errors=errors,
            picture=encoded.value if isinstance(encoded, Done) else None,
            picture_error=encoded if isinstance(encoded, FeatherwireError) else None,
            doubts=tuple(doubts),
        )

    def _analysis(self, results: dict[str, TaskResult]) -> AnalysisResult:
        first = self._frame.bitstreams[0]
        payload_bytes = self._frame.payload_bytes
        return AnalysisResult(
            width=first.width,
            height=first.height,
            state=first.state,
            bundle_id=self._pipelines[0].bundle.id,
            payload_bytes=payload_bytes,
            bits_per_pixel=8.0 * payload_bytes / self._frame.pixels,
            tasks=results,
            milliseconds=self._milliseconds,
        )

    # -- who does what ---------------------------------------------------------------------------

    def _task(self, name: str) -> Job | FeatherwireError:
        """The task on its way: on features where a carried bundle has a tail for it, else on the
        picture; but on what was just refined, where that has enough for it."""
        tail = self._tail_source(name)
        on_picture = self._picture_source() is not None and self._engine.on_pictures(name)
        refined = self._frame.refined
        if tail is not None and on_picture and refined is not None:
            pipeline, _ = tail
            if pipeline.bundle.short_id != refined and self._makes_pictures(refined):
                tail = None
        if tail is not None:
            pipeline, latents = tail
            self._show(name, tail, DEFAULT_THRESHOLD)
            return self._start(pipeline.tail(name, latents))
        if on_picture:
            source = self._picture_source()
            assert source is not None
            self._show(name, source, 0.0)
            return self._start(self._run_on_picture(name))
        if self._engine.on_pictures(name):
            return self._needs_picture(name)
        return self._engine.cannot_run(name)

    def _show(self, name: str, source: tuple[BundlePipeline, Latents], least: float) -> None:
        """Note what the result of a task is shown by: a task on pictures knows its own ``least``,
        while tails give doubts too."""
        pipeline, latents = source
        self._showing[name] = Showing(
            pipeline.bundle, latents.state, least, self._engine.shown_score
        )

    def _tail_source(self, task: str) -> tuple[BundlePipeline, Latents] | None:
        """The bundle whose tail does ``task``, the refined one first, and its features."""
        sources = [
            (pipeline, latents)
            for pipeline, latents in zip(self._pipelines, self._latents, strict=True)
            if task in pipeline.models
        ]
        sources.sort(key=lambda source: source[0].bundle.short_id != self._frame.refined)
        return sources[0] if sources else None

    def _picture_source(self) -> tuple[BundlePipeline, Latents] | None:
        """The bundle that makes the picture, and its features."""
        for pipeline, latents in zip(self._pipelines, self._latents, strict=True):
            if pipeline.makes_pictures:
                return pipeline, latents
        return None

    def _makes_pictures(self, short_id: bytes) -> bool:
        return any(
            pipeline.makes_pictures
            for pipeline in self._pipelines
            if pipeline.bundle.short_id == short_id
        )

    def _needs_picture(self, name: str) -> TaskError:
        carried = ", ".join(pipeline.bundle.manifest.name for pipeline in self._pipelines)
        known = ", ".join(dict.fromkeys(task for one in self._pipelines for task in one.models))
        return TaskError(
            "needs_picture",
            f"{name} needs a picture, and bundle {carried} carries features for {known} alone",
            task=name,
        )

    # -- jobs ------------------------------------------------------------------------------------

    async def _picture(self, how: Rendering) -> Pixels:
        """The reconstruction, uint8 HxWx3, made once for each rendering however many ask."""
        source = self._picture_source()
        assert source is not None, "asked for of frames with a picture only"
        pipeline, latents = source
        if how.decoder == pipeline.bundle.manifest.pictures[0].name:
            how = replace(how, decoder=None)  # the one that is made without a name, too
        if how not in self._images:
            self._images[how] = self._start(
                pipeline.reconstruct(latents, how, stream=self._frame.stream)
            )
        return (await asyncio.shield(self._images[how])).value

    async def _run_on_picture(self, name: str) -> Done[TaskResult]:
        source = self._picture_source()
        assert source is not None, "asked for of frames with a picture only"
        how = rendering_for_tasks(source[0].bundle)
        return await self._engine.run_task(name, await self._picture(how))

    async def _encode(self, request: PictureRequest, how: Rendering) -> Done[Picture]:
        return await self._engine.encode(await self._picture(how), request)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        job = asyncio.create_task(work)
        self._jobs.append(job)
        return job

    def _cancel(self) -> None:
        """Cancel what is still running, and take note of the errors of what has failed."""
        for job in self._jobs:
            if job.done() and not job.cancelled():
                job.exception()
            job.cancel()  # no effect on those that are done
        self._jobs.clear()

    def _note(self, name: str, done: Done[Any]) -> None:
        """Add a stage's time; waiting times of all stages are summed as ``queue``."""
        times = self._milliseconds
        times[name] = times.get(name, 0.0) + done.run_ms
        times["queue"] = times.get("queue", 0.0) + done.queue_ms

    def _result_of(self, job: asyncio.Task[Done[T]]) -> Done[T] | FeatherwireError:
        """What a finished or abandoned job came to."""
        if not job.done() or job.cancelled():
            return deadline_exceeded(self._frame.deadline_s)
        error = job.exception()
        if error is None:
            return job.result()
        if isinstance(error, FeatherwireError):
            return error
        raise error


def encode_picture(
    image: Pixels, request: PictureRequest, *, max_bytes: int = MAX_PICTURE_BYTES
) -> Picture:
    """``image`` (uint8 HxWx3 RGB) as ``request`` wants it.

    Raises ``PhotoError("picture_too_large")`` when the encoded bytes exceed ``max_bytes``.
    """
    height, width = image.shape[:2]
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    match request.encoding:
        case PictureEncoding.PNG:
            # Level 1 costs a tenth more bytes than level 6 and a fifth of its time.
            picture.save(buffer, "PNG", compress_level=1)
        case PictureEncoding.WEBP:
            picture.save(buffer, "WEBP", quality=request.quality or DEFAULT_WEBP_QUALITY, method=2)
        case PictureEncoding.WEBP_LOSSLESS:
            picture.save(buffer, "WEBP", lossless=True, quality=20, method=1)
    data = buffer.getvalue()
    if len(data) > max_bytes:
        raise PhotoError(
            "picture_too_large",
            f"the picture takes {len(data)} bytes as {request.encoding}, more than the "
            f"{max_bytes} of one message; ask for webp",
            picture_bytes=len(data),
            max_bytes=max_bytes,
        )
    return Picture(request.encoding, width, height, data)
