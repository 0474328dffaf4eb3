"""featherwire-edge send: photos to a server, findings and pictures back."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_client.cli.encode import (
    BestEffortOption,
    BppOption,
    BytesOption,
    JsonOption,
    PsnrOption,
    StateOption,
)
from shared.cli import (
    RATE_COLUMNS,
    Batch,
    ExitCode,
    Outcome,
    finite,
    stop_on_error,
    write_atomically,
)
from shared.errors import FeatherwireError, SessionError, TaskError

if TYPE_CHECKING:
    from edge_client.session import FrameResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("send")(send)


def send(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or .fwf files, any number.")],
    server: Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="Where to.")],
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAME,NAME",
            help="Tasks to run, or `none`. Default: all that the server has.",
        ),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture", help="Fetch the reconstructions too (needs -o).")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder: STEM.json for each photo, and STEM.png."),
    ] = None,
    state: StateOption = None,
    bpp: BppOption = None,
    max_bytes: BytesOption = None,
    psnr_db: PsnrOption = None,
    best_effort: BestEffortOption = False,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", help="Bundle folder, zip or name. Default: the server's."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="BUNDLE",
            help="Encode with this bundle too, and send that when the server asks for it.",
        ),
    ] = None,
    send_with: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="BUNDLE[:STATE]",
            help="Encode with this bundle too, and send both in one frame.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Name of this device. Default: its host name.")
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=0.1,
            parser=finite("seconds to wait", minimum=0.1),
            help="Seconds to wait for the server's answer.",
        ),
    ] = 10.0,
    deadline_s: Annotated[
        float | None,
        typer.Option(
            "--deadline",
            min=0.1,
            parser=finite("seconds for a frame", minimum=0.1),
            help="Seconds a frame may take. Default: the server's.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for one photo.")] = 1,
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's CAs.")] = False,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", help="PEM file of the server's CA; implies --tls.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file, for a server that wants one.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send photos as features; print what the server finds in them.

    As many photos are in flight as the server gives credits for. A photo that fails is reported
    and the rest go on. Where the server asks for more of a photo, what it finds then is a further
    line, saved as DIR/STEM.refined.json. With --picture each reconstruction is saved as
    DIR/STEM.png. When the server goes away, what came back is printed and saved all the same, and
    the rest are failures.
    """
    # Before gRPC is imported: it would write its own lines between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from edge_client.session import EdgeSession, TlsClientFiles, split_address
    from shared.codec import RateTarget
    from shared.wire.requests import parse_tasks

    if picture and output is None:
        raise typer.BadParameter("--picture needs a folder", param_hint="-o")
    files = TlsClientFiles(tls_ca, tls_certificate, tls_key)
    try:
        split_address(server)
        files.check()
        wanted = None if tasks is None else parse_tasks(_names(tasks))
    except SessionError as error:
        sys.stderr.write(f"error: {error.message} [{error.reason}]\n")
        raise typer.Exit(ExitCode.USAGE) from None
    with_states = {_source(text): _state(text) for text in send_with or ()}
    use_tls = tls or files != TlsClientFiles()
    batch = Batch(
        as_json=as_json,
        columns={
            "photo": "photo",
            **RATE_COLUMNS,
            "round_trip_ms": "ms",
            "found": "found",
        },
    )
    outcome = Outcome()
    with stop_on_error(as_json=as_json):
        RateTarget(state, bpp, max_bytes, psnr_db)
        session = EdgeSession(
            server,
            device=device,
            bundle=bundle,
            also=[*dict.fromkeys((*(also or ()), *with_states))],
            tasks=wanted,
            threads=threads,
            tls=files if use_tls else None,
            connect_timeout_s=timeout_s,
            deadline_s=deadline_s,
        )
        with session:
            _check_tasks(wanted or (), [*session.available_tasks, *session.unavailable_tasks])
            results = session.stream(
                photos,
                picture=picture,
                state=state,
                bits_per_pixel=bpp,
                max_bytes=max_bytes,
                psnr_db=psnr_db,
                best_effort=best_effort,
                send_with=with_states,
            )
            ended = _take_all(results, photos, output, batch, outcome)
    order = {str(path): number for number, path in enumerate(photos)}
    outcome.results.sort(key=lambda record: (order[record["photo"]], record["refined"]))
    outcome.failures.sort(key=lambda record: order[record["file"]])
    try:
        batch.report(outcome)
    except typer.Exit:
        if ended is None:
            raise
    if ended is not None:
        raise typer.Exit(ExitCode.UNREACHABLE)
    if any("task_errors" in record or "picture_error" in record for record in outcome.results):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _check_tasks(wanted: Iterable[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            raise TaskError(
                "unknown_task",
                f"this server has no task {name!r}; it has {', '.join(known) or 'none'}",
                task=name,
            )


def _take_all(
    results: Iterator[FrameResult],
    photos: Sequence[Path],
    output: Path | None,
    batch: Batch,
    outcome: Outcome,
) -> FeatherwireError | None:
    """Note every result. When the session ends early: why, and each photo without one fails."""
    waiting = Counter(str(photo) for photo in photos)
    try:
        for result in results:
            waiting[str(result.source)] -= not result.refined
            _take(result, output, batch, outcome)
    except FeatherwireError as error:
        for photo in waiting.elements():
            _fail(Path(photo), error, outcome)
        return error
    return None


def _fail(photo: Path, error: FeatherwireError, outcome: Outcome) -> None:
    outcome.failures.append({"file": str(photo), **error.to_dict()})
    sys.stderr.write(f"error: {photo}: {error.message} [{error.reason}]\n")


def _take(result: FrameResult, output: Path | None, batch: Batch, outcome: Outcome) -> None:
    """Note one result, and save it when there is a folder."""
    photo = Path(result.source)
    if result.analysis is None:
        unknown = SessionError("no_result", "the server sent neither findings nor an error")
        _fail(photo, result.error or unknown, outcome)
        return
    record: dict[str, Any] = {
        "photo": str(photo),
        "sequence": result.sequence,
        "refined": result.refined,
        "bundle": result.bundle_id.hex(),
        "state": result.state,
        "passes": result.passes,
        "bytes": result.payload_bytes,
        "bits_per_pixel": round(result.analysis.bits_per_pixel, 6),
        "round_trip_ms": round(result.round_trip_ms, 2),
        "found": _found(result),
        "analysis": result.analysis.to_dict(),
    }
    if result.task_errors:
        record["task_errors"] = {name: e.to_dict() for name, e in result.task_errors.items()}
    if result.picture_error is not None:
        record["picture_error"] = result.picture_error.to_dict()
    for error in (*result.task_errors.values(), result.picture_error):
        if error is not None:
            sys.stderr.write(f"error: {photo}: {error.message} [{error.reason}]\n")
    stem = f"{photo.stem}.refined" if result.refined else photo.stem
    try:
        if output is not None:
            if result.picture is not None:
                target = batch.claim(output / f"{stem}.png", photo)
                write_atomically(target, result.picture.data)
                record["picture"] = str(target)
            target = batch.claim(output / f"{stem}.json", photo)
            write_atomically(target, json.dumps(record, indent=1).encode() + b"\n")
            record["file"] = str(target)
    except FeatherwireError as failure:
        _fail(photo, failure, outcome)
    except OSError as failure:
        _fail(photo, FeatherwireError("io_error", str(failure)), outcome)
    else:
        outcome.results.append(record)


def _found(result: FrameResult) -> str:
    """How many of what, such as ``2 person, 1 bus; 3 faces; tabby 71%; road 40%, sky 22%``."""
    parts = []
    for task in result.tasks.values():
        if task.faces is not None:
            parts.append(f"{len(task.faces)} faces")
        elif task.classes is not None:
            parts.append(", ".join(f"{c.class_name} {c.score:.0%}" for c in task.classes[:1]))
        elif task.regions is not None:
            parts.append(", ".join(f"{r.class_name} {r.share:.0%}" for r in task.regions[:3]))
        else:
            names = Counter(item.class_name for item in task.detections or task.instances or ())
            parts.append(", ".join(f"{count} {name}" for name, count in names.most_common()))
    return "; ".join(part for part in parts if part) or "-"


def _source(text: str) -> str:
    """The bundle of ``BUNDLE[:STATE]``."""
    source, _, state = text.rpartition(":")
    return source if source and state.isdigit() else text


def _state(text: str) -> int | None:
    """The state of ``BUNDLE[:STATE]``; None is the finest."""
    return None if _source(text) == text else int(text.rpartition(":")[2])


def _names(text: str) -> list[str]:
    names = text.replace(",", " ").split()
    return [] if names == ["none"] else names
