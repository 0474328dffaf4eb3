"""Puts a server together from its settings: bundles, tasks, engine, gRPC."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence

import structlog

from cloud_server.auth.interceptor import Authenticator
from cloud_server.auth.startup import check_tokens, check_transport
from cloud_server.consumers.servicer import ResultServicer
from cloud_server.database import Database
from cloud_server.engine import LocalEngine, TaskStatus, WorkerCounts
from cloud_server.engine.local import TaskRunner
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.quota import Quota
from cloud_server.fleet.servicer import FleetServicer
from cloud_server.ingest.bundles import BundleServicer
from cloud_server.ingest.limits import StreamLimits
from cloud_server.ingest.refinement import RefinePolicy
from cloud_server.ingest.served import ServedBundles
from cloud_server.ingest.server import Server, TlsFiles
from cloud_server.ingest.servicer import IngestServicer
from cloud_server.ingest.sessions import PictureLimits
from cloud_server.models import ModelStore
from cloud_server.reconstruct.reconstructor import makes_pictures
from cloud_server.release import package_version
from cloud_server.results.feed import Feed
from cloud_server.results.log import ResultLog
from cloud_server.results.retention import Limits as RetentionLimits
from cloud_server.results.retention import Retention
from cloud_server.settings import ServerSettings
from cloud_server.storage import open_database
from cloud_server.tails import DEFAULT_THRESHOLD
from cloud_server.tasks import open_task, task_names
from cloud_server.telemetry import Metrics, ObservedEngine
from shared.bundle import Bundle, packaged_names
from shared.errors import FeatherwireError, ModelError, TaskError

FETCH_ALL = "featherwire-cloud models fetch"


async def open_server(
    settings: ServerSettings, *, more_tasks: Mapping[str, Callable[[], TaskRunner]] | None = None
) -> tuple[Server, LocalEngine, tuple[Bundle, ...]]:
    """Load everything; the server does not listen yet. Raises ``FeatherwireError``.

    The bundles are those that are served, the one first that clients shall use.

    ``more_tasks`` opens tasks of the caller's own, by name, beside those of the settings. Tasks
    whose weights are missing are logged by name, with the command that gets them; when that is
    all tasks, or one whose back end the settings name, this raises ModelError.
    """
    check_transport(settings)
    _check_names(settings)
    _check_device(settings.device)
    log = await asyncio.to_thread(_open_log, settings)
    try:
        await asyncio.to_thread(check_tokens, settings, log.database)
        return await _open_around(log, settings, more_tasks)
    except BaseException:
        await asyncio.to_thread(log.database.close)
        raise


async def _open_around(
    result_log: ResultLog,
    settings: ServerSettings,
    more_tasks: Mapping[str, Callable[[], TaskRunner]] | None,
) -> tuple[Server, LocalEngine, tuple[Bundle, ...]]:
    if settings.torch_threads is not None:
        import torch

        torch.set_num_threads(settings.torch_threads)
    bundles = await asyncio.to_thread(_load_bundles, settings)
    policy = _refine_policy(settings, bundles)
    engine = await LocalEngine.open(
        *bundles,
        # Where no bundle makes pictures there is nothing that these could be run on.
        tasks={
            **(_task_openers(settings) if any(map(makes_pictures, bundles)) else {}),
            **(more_tasks or {}),
        },
        device=settings.device,
        workers=WorkerCounts(
            decode=settings.decode_workers,
            reconstruct=settings.reconstruct_workers,
            task=settings.task_workers,
            picture=settings.picture_workers,
            queue_size=settings.queue_size,
            max_batch=settings.max_batch,
            max_delay_s=settings.max_batch_delay_s,
        ),
        score_threshold=DEFAULT_THRESHOLD if policy is None else policy.low,
    )
    metrics = Metrics()
    observed = ObservedEngine(engine, metrics, *bundles)
    log = structlog.get_logger()
    for status in engine.tasks.values():
        if status.picture_error is not None:
            log.warning("task_unavailable", task=status.name, **status.picture_error.to_dict())
    try:
        _check_usable(settings, engine.tasks)
    except FeatherwireError:
        await engine.close()
        raise
    served = ServedBundles(bundles)
    stream_limits = StreamLimits(
        credits=settings.credits,
        kept_credits=settings.kept_credits,
        max_pixels_in_flight=settings.max_pixels_in_flight,
        max_bytes_in_flight=settings.max_bytes_in_flight,
        frame_deadline_s=settings.frame_deadline_s,
        deadline_per_megapixel_s=settings.deadline_per_megapixel_s,
        write_timeout_s=settings.write_timeout_s,
    )
    fleet = await asyncio.to_thread(_open_fleet, result_log.database, settings)
    ingest = IngestServicer(
        observed,
        log=result_log,
        bundles=served,
        fleet=fleet,
        refine_policy=policy,
        metrics=metrics,
        server_version=package_version(),
        max_message_bytes=settings.max_message_bytes,
        max_streams=settings.max_streams,
        max_calls=settings.max_calls,
        stream_limits=stream_limits,
        kept_pictures=PictureLimits(
            kept_pictures=settings.kept_pictures, kept_picture_bytes=settings.kept_picture_bytes
        ),
    )
    results = ResultServicer(
        result_log,
        engine,
        served,
        max_subscribers=settings.max_subscribers,
        max_calls=settings.max_calls,
        stream_limits=stream_limits,
    )
    max_age_s = None if settings.keep_days is None else settings.keep_days * 86400
    metrics.subscribers.set_function(lambda: results.subscribers)
    server = Server(
        observed,
        ingest,
        await asyncio.to_thread(BundleServicer, *bundles),
        results,
        FleetServicer(
            fleet,
            served,
            max_watchers=settings.max_subscribers,
            write_timeout_s=settings.write_timeout_s,
        ),
        log=result_log,
        retention=Retention(
            result_log, RetentionLimits(max_age_s, settings.keep_bytes), metrics=metrics
        ),
        metrics=metrics,
        metrics_listen=settings.metrics,
        max_message_bytes=settings.max_message_bytes,
        drain_deadline_s=settings.drain_deadline_s,
        tls=_tls(settings),
        authenticator=None
        if settings.insecure
        else Authenticator(result_log.database, metrics=metrics),
    )
    return server, engine, bundles


def _open_log(settings: ServerSettings) -> ResultLog:
    database = open_database(settings, package_version())
    structlog.get_logger().info("log_opened", place=database.place)
    try:
        feed = Feed(max_records=settings.subscriber_buffer)
        return ResultLog(database, window=settings.dedupe_window, feed=feed)
    except BaseException:
        database.close()
        raise


def _open_fleet(database: Database, settings: ServerSettings) -> Fleet:
    quota = Quota(
        settings.quota_frames, settings.quota_bytes, settings.quota_pixels, settings.quota_burst_s
    )
    return Fleet(database, quota)


def _load_bundles(settings: ServerSettings) -> tuple[Bundle, ...]:
    """The bundle of the settings, then those beside it; each once."""
    names = packaged_names() if settings.bundles is None else settings.bundles
    first = Bundle.load(settings.bundle)
    bundles = {first.id: first}
    for name in names:
        bundle = Bundle.load(name)
        bundles.setdefault(bundle.id, bundle)
    return tuple(bundles.values())


def _refine_policy(settings: ServerSettings, bundles: Sequence[Bundle]) -> RefinePolicy | None:
    if settings.refine_band is None:
        return None
    named = settings.refine_bundle or bundles[0].id
    for bundle in bundles:
        if named in (bundle.manifest.name, bundle.id):
            if settings.refine_state > bundle.manifest.coarsest_state:
                raise FeatherwireError(
                    "invalid_settings",
                    f"refine_state: bundle {bundle.manifest.name} has states 0 to "
                    f"{bundle.manifest.coarsest_state}",
                )
            return RefinePolicy(*settings.refine_band, bundle.short_id, settings.refine_state)
    known = ", ".join(bundle.manifest.name for bundle in bundles)
    raise FeatherwireError(
        "invalid_settings", f"refine_bundle: {named!r} is not served here; there is: {known}"
    )


def _check_names(settings: ServerSettings) -> None:
    known = task_names()
    for name in settings.tasks:
        if name not in known:
            raise TaskError(
                "unknown_task", f"no task {name!r}; known are {', '.join(known)}", task=name
            )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TaskError("bad_device", f"device {device!r} cannot be used: {reason}") from None


def _check_usable(settings: ServerSettings, tasks: Mapping[str, TaskStatus]) -> None:
    """Raise when a back end that was named cannot run, or when no task on pictures can at all."""
    for name, backend in _backends(settings).items():
        error = tasks[name].picture_error if name in tasks else None
        if backend is not None and error is not None:
            raise error
    errors = [one.picture_error for one in tasks.values() if one.picture_error is not None]
    if not settings.tasks or not errors or any(one.on_pictures for one in tasks.values()):
        return
    if len(errors) == 1:
        raise errors[0]
    raise ModelError(
        "weights_missing",
        f"none of {', '.join(settings.tasks)} can run, and `--tasks none` was not asked for",
        command=FETCH_ALL,
    )


def _backends(settings: ServerSettings) -> dict[str, str | None]:
    return {"detection": settings.detector, "segmentation": settings.segmenter}


def _task_openers(settings: ServerSettings) -> dict[str, Callable[[], TaskRunner]]:
    store = ModelStore(models_dirs=[settings.models_dir] if settings.models_dir else [])
    backends = _backends(settings)
    return {
        name: functools.partial(
            open_task,
            name,
            store,
            backend=backends.get(name),
            device=settings.device,
        )
        for name in settings.tasks
    }


def _tls(settings: ServerSettings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
