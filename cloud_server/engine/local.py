"""The engine inside the server's process: worker threads around codecs, networks and tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cloud_server.engine.api import EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.frame import FrameRun
from cloud_server.engine.lane import BundleLane, Image, WorkerCounts, each
from cloud_server.engine.picture import encode_picture
from cloud_server.engine.stage import Done, Stage
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BundleError, FeatherwireError, TaskError
from shared.results import DEFAULT_THRESHOLD, ModelInfo, TaskResult
from shared.wire import Picture, PictureRequest


class TaskRunner(Protocol):
    """What the engine needs of a task on pictures; see ``cloud_server.tasks``."""

    @property
    def models(self) -> list[ModelInfo]: ...

    def run(self, images: Sequence[Image]) -> list[TaskResult]: ...


class LocalEngine:
    """Stages of threads; one model instance a thread. Made by ``LocalEngine.open``."""

    def __init__(self, workers: WorkerCounts) -> None:
        self._workers = workers
        self._lanes: dict[bytes, BundleLane] = {}
        self._tasks: dict[str, TaskStatus] = {}
        self._unavailable: dict[str, FeatherwireError] = {}
        self._task_stages: dict[str, Stage[Image, TaskResult]] = {}
        self._picture: Stage[tuple[Image, PictureRequest], Picture] = Stage(
            "picture", queue_size=workers.queue_size
        )

    @classmethod
    async def open(
        cls,
        *bundles: Bundle,
        tasks: Mapping[str, Callable[[], TaskRunner]] | None = None,
        device: str = "cpu",
        workers: WorkerCounts | None = None,
        score_threshold: float = DEFAULT_THRESHOLD,
    ) -> LocalEngine:
        """Load every model and start the workers.

        ``bundles``: one or more, the one that clients shall use first. ``tasks`` opens each task on
        pictures by name, once for each of its workers. A task whose opener raises is reported in
        ``engine.tasks`` as unavailable, and the rest go on; a codec, reconstructor or tail that
        cannot be opened raises. ``score_threshold``: down to which tails report ``doubts``.
        """
        engine = cls(workers or WorkerCounts())
        await asyncio.to_thread(
            engine._open,
            bundles,
            dict(tasks or {}),
            device,
            min(score_threshold, DEFAULT_THRESHOLD),
        )
        return engine

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        return dict(self._tasks)

    @property
    def alive(self) -> bool:
        return all(stage.alive for stage in self._stages())

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

    def lane_of(self, bitstream: Bitstream) -> BundleLane:
        """The bundle's part. Raises ``BundleError("bundle_mismatch")``."""
        lane = self._lanes.get(bitstream.bundle_id)
        if lane is None:
            raise unknown_bundle(bitstream.bundle_id, [one.bundle for one in self._lanes.values()])
        return lane

    def on_pictures(self, task: str) -> bool:
        """Whether the task can run on a picture here."""
        return task in self._task_stages

    def cannot_run(self, task: str) -> FeatherwireError:
        """Why a task cannot be run on the picture of a frame that has one."""
        if task in self._unavailable:
            return self._unavailable[task]
        if task in self._tasks:
            named = [one.bundle.manifest.name for one in self._lanes.values() if task in one.models]
            return TaskError(
                "needs_features",
                f"{task} runs on features of bundle {' or '.join(named)} alone on this server",
                task=task,
            )
        known = ", ".join(sorted(self._tasks)) or "none"
        return TaskError("unknown_task", f"no task {task!r} on this server; it has: {known}")

    async def run_task(self, task: str, image: Image) -> Done[TaskResult]:
        """A task on a picture, uint8 HxWx3."""
        return await self._task_stages[task].run(image)

    async def encode(self, image: Image, request: PictureRequest) -> Done[Picture]:
        """The picture as it was asked for."""
        return await self._picture.run((image, request))

    # -- start-up --------------------------------------------------------------------------------

    def _open(
        self,
        bundles: Sequence[Bundle],
        tasks: dict[str, Callable[[], TaskRunner]],
        device: str,
        score_threshold: float,
    ) -> None:
        for bundle in bundles:
            self._lanes[bundle.short_id] = BundleLane(
                bundle, self._workers, device=device, score_threshold=score_threshold
            )
        self._picture.start([each(_encode) for _ in range(self._workers.picture)])
        for name, open_one in tasks.items():
            self._open_task(name, open_one)
        for lane in self._lanes.values():
            for name, models in lane.models.items():
                self._add_tail(name, models)

    def _open_task(self, name: str, open_one: Callable[[], TaskRunner]) -> None:
        try:
            runners = [open_one() for _ in range(self._workers.task)]
        except FeatherwireError as error:
            self._unavailable[name] = error
            self._tasks[name] = TaskStatus(
                name, unavailable=error, on_pictures=False, picture_error=error
            )
            return
        stage: Stage[Image, TaskResult] = Stage(
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
        lanes = [stage for lane in self._lanes.values() for stage in lane.stages]
        return [*lanes, self._picture, *self._task_stages.values()]


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


def _encode(item: tuple[Image, PictureRequest]) -> Picture:
    return encode_picture(*item)
