"""One frame's way through the engine: who does which task, and what comes of it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from cloud_server.engine.api import EngineFrame, EngineOutcome
from cloud_server.engine.lane import BundleLane, Image, shown
from cloud_server.engine.stage import Done
from codec import Latents, no_picture
from shared.errors import FeatherwireError, TaskError
from shared.results import AnalysisResult, TaskResult
from shared.wire import Picture, PictureRequest

if TYPE_CHECKING:
    from cloud_server.engine.local import LocalEngine

T = TypeVar("T")

Job = asyncio.Task[Done[TaskResult]]


class FrameRun:
    """Runs one frame; ``outcome`` is called once."""

    def __init__(self, engine: LocalEngine, frame: EngineFrame) -> None:
        self._engine = engine
        self._frame = frame
        self._started = time.perf_counter()
        self._milliseconds: dict[str, float] = {}
        self._lanes: list[BundleLane] = []
        self._latents: list[Latents] = []
        self._jobs: list[asyncio.Task[Any]] = []
        self._image: asyncio.Task[Done[Image]] | None = None

    async def outcome(self) -> EngineOutcome:
        """Analyse; every failure is in what is returned.

        Of a frame of which nothing is asked the features are not decoded.
        """
        try:
            self._lanes = [self._engine.lane_of(one) for one in self._frame.bitstreams]
            if self._frame.asks_nothing:
                return self._gather({}, {}, None)
            async with asyncio.timeout(self._frame.deadline_s):
                await self._decode()
        except TimeoutError:
            return EngineOutcome(error=_deadline_exceeded(self._frame.deadline_s))
        except FeatherwireError as error:
            return EngineOutcome(error=error)
        return await self._analyse()

    async def _decode(self) -> None:
        """All bitstreams; one that is damaged is the whole frame's error."""
        jobs = [
            self._start(lane.decode(bitstream))
            for lane, bitstream in zip(self._lanes, self._frame.bitstreams, strict=True)
        ]
        try:
            for done in await asyncio.gather(*jobs):
                self._note("decode", done)
                self._latents.append(done.value)
        finally:
            self._cancel()

    async def _analyse(self) -> EngineOutcome:
        """Run the tasks and encode the picture side by side; what is late or fails says so."""
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
                picture = no_picture(self._lanes[0].bundle)
            else:
                picture = self._start(self._encode(frame.picture))
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
        image = None if self._image is None else self._result_of(self._image)
        if isinstance(image, Done):
            self._note("reconstruct", image)
        results: dict[str, TaskResult] = {}
        doubts: list[float] = []
        for name, job in jobs.items():
            done = self._result_of(job)
            if isinstance(done, Done):
                self._note(f"task.{name}", done)
                results[name], unsure = shown(done.value)
                doubts += unsure
            else:
                errors[name] = done
        encoded = self._result_of(picture) if isinstance(picture, asyncio.Task) else picture
        if isinstance(encoded, Done):
            self._note("picture", encoded)
        if isinstance(image, FeatherwireError) and not results:
            return EngineOutcome(error=image)
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
            bundle_id=self._lanes[0].bundle.id,
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
            lane, _ = tail
            if lane.bundle.short_id != refined and self._makes_pictures(refined):
                tail = None
        if tail is not None:
            lane, latents = tail
            return self._start(lane.tail(name, latents))
        if on_picture:
            return self._start(self._run_on_picture(name))
        if self._engine.on_pictures(name):
            return self._needs_picture(name)
        return self._engine.cannot_run(name)

    def _tail_source(self, task: str) -> tuple[BundleLane, Latents] | None:
        """The bundle whose tail does ``task``, the refined one first, and its features."""
        sources = [
            (lane, latents)
            for lane, latents in zip(self._lanes, self._latents, strict=True)
            if task in lane.models
        ]
        sources.sort(key=lambda source: source[0].bundle.short_id != self._frame.refined)
        return sources[0] if sources else None

    def _picture_source(self) -> tuple[BundleLane, Latents] | None:
        """The bundle that makes the picture, and its features."""
        for lane, latents in zip(self._lanes, self._latents, strict=True):
            if lane.makes_pictures:
                return lane, latents
        return None

    def _makes_pictures(self, short_id: bytes) -> bool:
        return any(lane.makes_pictures for lane in self._lanes if lane.bundle.short_id == short_id)

    def _needs_picture(self, name: str) -> TaskError:
        carried = ", ".join(lane.bundle.manifest.name for lane in self._lanes)
        known = ", ".join(dict.fromkeys(task for lane in self._lanes for task in lane.models))
        return TaskError(
            "needs_picture",
            f"{name} needs a picture, and bundle {carried} carries features for {known} alone",
            task=name,
        )

    # -- jobs ------------------------------------------------------------------------------------

    async def _picture(self) -> Image:
        """The reconstruction, uint8 HxWx3, made once however many ask."""
        if self._image is None:
            source = self._picture_source()
            assert source is not None, "asked for of frames with a picture only"
            lane, latents = source
            self._image = self._start(lane.reconstruct(latents))
        return (await asyncio.shield(self._image)).value

    async def _run_on_picture(self, name: str) -> Done[TaskResult]:
        return await self._engine.run_task(name, await self._picture())

    async def _encode(self, request: PictureRequest) -> Done[Picture]:
        return await self._engine.encode(await self._picture(), request)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        job = asyncio.create_task(work)
        self._jobs.append(job)
        return job

    def _cancel(self) -> None:
        """Give up what is still running; what has failed has been heard."""
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
            return _deadline_exceeded(self._frame.deadline_s)
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
