"""A server put together from its settings: log, bundles, tasks, engine, fleet, gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

import structlog

from cloud_server.auth.access import Authenticator
from cloud_server.consumers.servicer import ResultServicer
from cloud_server.database import Database
from cloud_server.engine import Engine, FairEngine, TaskStatus, WorkerCounts
from cloud_server.engine.processes import ProcessEngine
from cloud_server.engine.ray import RayEngine, RayScale
from cloud_server.engine.spec import EngineSpec, check_device, import_path
from cloud_server.fleet.audit import FleetRetention
from cloud_server.fleet.audit import Limits as FleetLimits
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.quota import Quota
from cloud_server.fleet.servicer import FleetServicer
from cloud_server.fleet.words import told_apart
from cloud_server.ingest.bundles import BundleServicer, ServedBundles
from cloud_server.ingest.flow import StreamLimits
from cloud_server.ingest.refinement import RefinePolicy
from cloud_server.ingest.servicer import IngestServicer
from cloud_server.ingest.sessions import PictureLimits
from cloud_server.results.feed import Feed
from cloud_server.results.log import ResultLog
from cloud_server.results.retention import Limits as RetentionLimits
from cloud_server.results.retention import Retention
from cloud_server.results.shared_log import SharedLog
from cloud_server.serve.certificates import TlsFiles
from cloud_server.serve.observed import ObservedEngine
from cloud_server.serve.server import Server
from cloud_server.serve.settings import ServerSettings
from cloud_server.serve.startup import check_tokens, check_transport, open_database
from cloud_server.tasks import task_names
from cloud_server.tasks.base import Task
from cloud_server.telemetry.metrics import Metrics
from shared.bundle import Bundle
from shared.errors import FeatherwireError, ModelError, TaskError
from shared.installation import package_version
from shared.results import DEFAULT_THRESHOLD

FETCH_ALL = "featherwire-cloud models fetch"


async def open_server(
    settings: ServerSettings, *, more_tasks: Mapping[str, Callable[[], Task]] | None = None
) -> tuple[Server, Engine, tuple[Bundle, ...]]:
    """Load everything; the server does not listen yet. Raises ``FeatherwireError``.

    The bundles are those that are served, the one first that clients shall use.

    ``more_tasks`` opens tasks of the caller's own, by name, beside those of the settings; with
    worker processes these are functions of modules, which the workers import. Tasks
    whose weights are missing are logged by name, with the command that gets them; when that is
    all tasks, or one whose back end the settings name, this raises ModelError.
    """
    check_transport(settings)
    _check_names(settings)
    if not settings.workers and settings.engine != "ray":  # workers check it themselves
        await asyncio.to_thread(check_device, settings.device)
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
    more_tasks: Mapping[str, Callable[[], Task]] | None,
) -> tuple[Server, Engine, tuple[Bundle, ...]]:
    spec = _engine_spec(settings)
    bundles = await asyncio.to_thread(spec.load_bundles)
    policy = _refine_policy(settings, bundles)
    metrics = Metrics()
    engine = await _open_engine(spec, settings, bundles, policy, more_tasks or {}, metrics)
    fair = FairEngine(engine)
    observed = ObservedEngine(fair, metrics, *bundles)
    metrics.engine_limit.set_function(lambda: float(fair.limit))
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
    fleet.registry.bundle_names = told_apart(
        (one.id, one.manifest.name, one.manifest.version) for one in bundles
    )
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
        share=fair.share,
        reference_bytes=settings.reference_bytes,
        reuse_results=settings.reuse_results,
    )
    results = ResultServicer(
        result_log,
        fair,
        served,
        ingest.references,
        max_subscribers=settings.max_subscribers,
        max_calls=settings.max_calls,
        stream_limits=stream_limits,
    )
    shared_log = await asyncio.to_thread(ingest.share, result_log) if settings.shared_log else None
    metrics.subscribers.set_function(lambda: results.subscribers)
    server = Server(
        observed,
        ingest,
        await asyncio.to_thread(BundleServicer, *bundles),
        results,
        FleetServicer(
            fleet,
            served.ids,
            tasks=frozenset(engine.tasks),
            needs_token=not settings.insecure,
            max_watchers=settings.max_subscribers,
            write_timeout_s=settings.write_timeout_s,
        ),
        log=result_log,
        retention=_retention(result_log, settings, ingest, metrics, shared_log),
        shared_log=shared_log,
        metrics=metrics,
        metrics_listen=settings.metrics,
        max_message_bytes=settings.max_message_bytes,
        drain_deadline_s=settings.drain_deadline_s,
        tls=_tls(settings),
        authenticator=None
        if settings.insecure
        else Authenticator(result_log.database, metrics=metrics, refused=fleet.refusals.note),
    )
    return server, engine, bundles


async def _open_engine(
    spec: EngineSpec,
    settings: ServerSettings,
    bundles: Sequence[Bundle],
    policy: RefinePolicy | None,
    more_tasks: Mapping[str, Callable[[], Task]],
    metrics: Metrics,
) -> Engine:
    """The engine in this process, or in as many others as the settings say."""
    spec = spec.model_copy(
        update={"score_threshold": DEFAULT_THRESHOLD if policy is None else policy.low}
    )
    on_ray = settings.engine == "ray"
    if settings.workers == 0 and not on_ray:
        return await spec.open(bundles, more_tasks)
    threads = max(1, (os.cpu_count() or 1) // max(1, settings.workers))
    if on_ray:
        threads = max(1, int(settings.ray_num_cpus))
    spec = spec.model_copy(
        update={
            "bundle_ids": tuple(bundle.id for bundle in bundles),
            "more_tasks": {name: import_path(opener) for name, opener in more_tasks.items()},
            "torch_threads": settings.torch_threads or threads,
        }
    )
    if on_ray:
        return await RayEngine.open(
            spec,
            _ray_scale(settings),
            address=settings.ray_address,
            metrics=metrics,
            log_level=settings.log_level,
        )
    return await ProcessEngine.open(
        spec, settings.workers, metrics=metrics, log_level=settings.log_level
    )


def _engine_spec(settings: ServerSettings) -> EngineSpec:
    return EngineSpec(
        bundle=settings.bundle,
        bundles=settings.bundles,
        tasks=settings.tasks,
        backends=_backends(settings),
        device=settings.device,
        models_dir=settings.models_dir,
        torch_threads=settings.torch_threads,
        shown_score=settings.shown_score,
        counts=WorkerCounts(
            decode=settings.decode_workers,
            reconstruct=settings.reconstruct_workers,
            task=settings.task_workers,
            picture=settings.picture_workers,
            queue_size=settings.queue_size,
            max_batch=settings.max_batch,
            max_delay_s=settings.max_batch_delay_s,
        ),
    )


def _ray_scale(settings: ServerSettings) -> RayScale:
    return RayScale(
        min_replicas=settings.ray_min_replicas,
        max_replicas=settings.ray_max_replicas,
        num_cpus=settings.ray_num_cpus,
        num_gpus=settings.ray_num_gpus,
        target_ongoing=settings.ray_target_ongoing,
        max_ongoing=settings.ray_max_ongoing,
        max_in_flight=settings.ray_max_in_flight,
    )


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


def _retention(
    log: ResultLog,
    settings: ServerSettings,
    ingest: IngestServicer,
    metrics: Metrics,
    shared_log: SharedLog | None,
) -> Retention:
    idle_days = settings.keep_session_days or settings.keep_days
    if shared_log is not None:
        idle_days = None  # which sessions have a stream is known to their own server alone
    fleet_limits = FleetLimits(
        audit_age_s=_seconds(settings.keep_audit_days),
        audit_entries=settings.keep_audit_entries,
        command_age_s=_seconds(settings.keep_command_days),
        commands=settings.keep_commands,
    )
    return Retention(
        log,
        RetentionLimits(_seconds(settings.keep_days), settings.keep_bytes, _seconds(idle_days)),
        metrics=metrics,
        sessions_in_use=lambda: ingest.sessions_in_use,
        further=[FleetRetention(log.database, fleet_limits, metrics).run_once],
        ours=lambda: shared_log is None or shared_log.leads,
    )


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * 86400


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
        f"none of {', '.join(settings.tasks)} can run; get their weights, or use `--tasks none`",
        command=FETCH_ALL,
    )


def _backends(settings: ServerSettings) -> dict[str, str | None]:
    return {"detection": settings.detector, "segmentation": settings.segmenter}


def _tls(settings: ServerSettings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
