"""What an engine loads, as plain values: it travels to worker processes as JSON."""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cloud_server.engine.local import LocalEngine
from cloud_server.engine.pipeline import WorkerCounts
from cloud_server.tasks import open_task
from cloud_server.tasks.base import Task
from shared.bundle import Bundle, packaged_names
from shared.errors import BundleError, TaskError
from shared.weights import ModelStore


class EngineSpec(BaseModel):
    """Bundles, tasks, device, threads: all that ``LocalEngine.open`` needs, and no secrets.

    ``bundle`` and ``bundles`` as in the settings; ``bundle_ids`` are those that were found there.
    ``backends``: of tasks, by name. ``more_tasks``: openers of further tasks, as module:function.
    ``score_threshold`` and ``shown_score``: 0 to 1, see ``LocalEngine.open``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str | None = None
    bundles: tuple[str, ...] | None = None
    bundle_ids: tuple[str, ...] | None = None
    tasks: tuple[str, ...] = ()
    backends: dict[str, str | None] = {}
    more_tasks: dict[str, str] = {}
    device: str = "cpu"
    models_dir: Path | None = None
    torch_threads: int | None = None
    counts: WorkerCounts = WorkerCounts()
    score_threshold: float = 1.0
    shown_score: float | None = None

    def load_bundles(self) -> tuple[Bundle, ...]:
        """The bundle that clients shall use first, then those beside it; each once.

        Raises ``BundleError``; ``bundle_changed`` when they are not those of ``bundle_ids``.
        """
        names = packaged_names() if self.bundles is None else self.bundles
        first = Bundle.load(self.bundle)
        found = {first.id: first}
        for name in names:
            bundle = Bundle.load(name)
            found.setdefault(bundle.id, bundle)
        if self.bundle_ids is not None and tuple(found) != self.bundle_ids:
            raise BundleError(
                "bundle_changed",
                "a bundle's files have changed since the server started; start it again",
            )
        return tuple(found.values())

    async def open(
        self,
        bundles: Sequence[Bundle] | None = None,
        more_tasks: Mapping[str, Callable[[], Task]] | None = None,
    ) -> LocalEngine:
        """An engine in this process. ``bundles``: where they have been loaded already.

        Raises ``FeatherwireError``: of bundles, tails, a device that cannot be used.
        """
        if self.torch_threads is not None:
            import torch

            torch.set_num_threads(self.torch_threads)
        check_device(self.device)
        if bundles is None:
            bundles = await asyncio.to_thread(self.load_bundles)
        openers: dict[str, Callable[[], Task]] = {}
        # Where no bundle makes pictures there is nothing that these could be run on.
        if any(bundle.manifest.pictures for bundle in bundles):
            openers |= self._openers()
        openers |= {name: imported(path) for name, path in self.more_tasks.items()}
        return await LocalEngine.open(
            *bundles,
            tasks=openers | dict(more_tasks or {}),
            device=self.device,
            workers=self.counts,
            score_threshold=self.score_threshold,
            shown_score=self.shown_score,
        )

    def _openers(self) -> dict[str, Callable[[], Task]]:
        store = ModelStore(models_dirs=[self.models_dir] if self.models_dir else [])
        return {
            name: functools.partial(
                open_task,
                name,
                store,
                backend=self.backends.get(name),
                device=self.device,
                score_threshold=self.shown_score,
            )
            for name in self.tasks
        }


def imported(path: str) -> Callable[[], Task]:
    """The function that ``module:function`` names. Raises ``TaskError("not_importable")``."""
    module, _, name = path.partition(":")
    try:
        found: Callable[[], Task] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskError("not_importable", f"{path} cannot be imported: {error}") from None
    return found


def import_path(opener: Callable[[], Task]) -> str:
    """The ``module:function`` of an opener. Raises ``TaskError("not_importable")``."""
    module = getattr(opener, "__module__", None)
    name = getattr(opener, "__qualname__", "")
    path = f"{module}:{name}"
    if module in (None, "__main__") or not name.isidentifier() or imported(path) is not opener:
        raise TaskError(
            "not_importable",
            f"worker processes cannot import {path}: it is not a function of a module",
        )
    return path


def check_device(device: str) -> None:
    """Raise ``TaskError("bad_device")`` where torch cannot use ``device``."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TaskError("bad_device", f"device {device!r} cannot be used: {reason}") from None
