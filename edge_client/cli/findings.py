"""Results of sent photos: recorded, saved to files, printed, and given to sinks."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.cli import RATE_COLUMNS, Batch, Outcome, in_words, write_atomically
from shared.errors import BundleError, FeatherwireError, SessionError
from shared.names import beside, printable, text_of
from shared.words import counted

if TYPE_CHECKING:
    from edge_client.session import EdgeSession, FrameResult
    from shared.sinks import Pumps, Report

COLUMNS = {"photo": "photo", **RATE_COLUMNS, "round_trip_ms": "ms", "found": "found"}
"""Of the table that people see."""


def take_all(
    results: Iterator[FrameResult],
    photos: Sequence[Path],
    output: Path | None,
    batch: Batch,
    outcome: Outcome,
) -> FeatherwireError | None:
    """Record every result. Returns why the session ended early; each photo without a result fails
    then."""
    waiting = Counter(text_of(photo) for photo in photos)
    try:
        for result in results:
            waiting[name_of(result)] -= not result.refined
            take(result, output, batch, outcome)
    except BundleError:
        raise  # no photo is at fault
    except FeatherwireError as error:
        for photo in waiting.elements():
            outcome.fail(Path(photo), error)
        return error
    return None


def tell_kept(outcome: Outcome, spool: Path, server: str, refusal: FeatherwireError | None) -> None:
    """Print how many frames wait in the spool, the command that delivers them, and why a server
    refused."""
    count = counted(len(outcome.kept), "frame is", "frames are")
    them = "it" if len(outcome.kept) == 1 else "them"
    if refusal is not None:
        sys.stderr.write(f"error: {refusal.message} [{refusal.reason}]\n")
        if outcome.kept:
            sys.stderr.write(f"{count} kept in {spool} until {server} lets this device in\n")
    elif outcome.kept:
        sys.stderr.write(
            f"{count} kept in {spool} (no server took {them}); `featherwire-edge flush --spool "
            f"{spool} --server {server}`, with the same --tls options, delivers {them}\n"
        )


def name_of(result: FrameResult) -> str:
    """What a frame was made of, as text; nothing where nobody knows."""
    return "" if result.source is None else text_of(str(result.source))


def take(result: FrameResult, output: Path | None, batch: Batch, outcome: Outcome) -> None:
    """Record one result, and save it when there is an output folder."""
    from shared.results import summarise

    # A frame that an earlier process has spooled may have had no file.
    photo = Path(name_of(result) or f"frame-{result.sequence}")
    if result.error is not None and result.error.reason == "spooled":
        outcome.kept.append({"file": str(photo), "sequence": result.sequence})
        return
    if result.analysis is None:
        unknown = SessionError("no_result", "the server sent neither findings nor an error")
        outcome.fail(photo, result.error or unknown)
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
        # A result of a stream before: nobody knows when the frame was sent.
        "round_trip_ms": round(result.round_trip_ms, 2) or None,
        "found": summarise(result.tasks.values()),
        "analysis": result.analysis.to_dict(),
    }
    if result.task_errors:
        record["task_errors"] = {name: e.to_dict() for name, e in result.task_errors.items()}
    if result.picture_error is not None:
        record["picture_error"] = result.picture_error.to_dict()
    for error in (*result.task_errors.values(), result.picture_error):
        if error is not None:
            where, what = printable(str(photo)), printable(error.message)
            sys.stderr.write(f"error: {where}: {what} [{error.reason}]\n")
    stem = f"{photo.stem}.refined" if result.refined else photo.stem
    try:
        if output is not None:
            if result.picture is not None:
                target = batch.claim(beside(output, stem, ".png"), photo)
                write_atomically(target, result.picture.data)
                record["picture"] = str(target)
            target = batch.claim(beside(output, stem, ".json"), photo)
            write_atomically(target, json.dumps(record, indent=1).encode() + b"\n")
            record["file"] = str(target)
    except FeatherwireError as failure:
        outcome.fail(photo, failure)
    except OSError as failure:
        outcome.fail(photo, FeatherwireError("io_error", in_words(failure)))
    else:
        outcome.results.append(record)


def tell_undelivered(sinks: Pumps) -> int:
    """Print which sinks did not get all results; returns how many results that were."""
    lost = 0
    for pump in sinks.pumps:
        dropped = sum(count for name, count in pump.counts.items() if name.startswith("dropped"))
        if dropped:
            why = f": {pump.error.message}" if pump.error is not None else ""
            missed = counted(dropped, "result")
            sys.stderr.write(f"error: {pump.sink.name} did not get {missed}{why}\n")
        lost += dropped
    return lost


def report_of(result: FrameResult, session: EdgeSession) -> Report:
    """The report of a result, as sinks get it."""
    import time

    from shared.sinks import Report

    return Report(
        device=session.device,
        session=session.session,
        sequence=result.sequence,
        source=name_of(result),
        captured_at=result.captured_at,
        completed_at=time.time(),
        bundle=result.bundle_id.hex(),
        state=result.state,
        payload_bytes=result.payload_bytes,
        round_trip_ms=round(result.round_trip_ms, 2) or None,
        refined=result.refined,
        cursor=result.cursor,
        analysis=result.analysis,
        error=result.error,
        task_errors=result.task_errors,
    )
