"""Changing over to another bundle while the session runs, and back when it does not work.

    fetching ──> ready ──a photo──> trying ──> passed ──next photo──> in use ──its result──> done
        │                             │                                  │
        └─────────────────────────────┴──────── failed: the bundle before goes on ◄┘

The bundle is fetched, opened and tried in a thread of its own: it encodes one real photo, which
the server analyses outside of the session, so that no frame is lost to a bundle that does not work.
Only then, between two frames, does it take the place of the one before. The command is answered
when the first frame of the session with it has its result, and the choice is kept then; one that
fails is answered with the error. Frames keep the bundle that they were made with.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.backoff import Backoff
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError, FeatherwireError, PhotoError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.rpc.channel import Channel
from shared.rpc.errors import CallError, error_from_call
from shared.wire import FrameOutcome
from shared.wire.failures import is_retryable
from shared.wire.features import features_message

if TYPE_CHECKING:
    from edge_client.session.encoding import Photo, PhotoEncoder


MAX_TRIALS = 3
"""How often the process may die while it tries a bundle before that bundle is refused."""

TRIAL_TIMEOUT_S = 60.0

Done = Callable[[FeatherwireError | None], None]
"""Answers a command: with None when it was carried out."""

Keep = Callable[[str, Any], None]
"""Keeps a setting over restarts. Raises SpoolError."""


class Stage(enum.Enum):
    """How far a change has come."""

    FETCHING = enum.auto()
    READY = enum.auto()
    TRYING = enum.auto()
    PASSED = enum.auto()
    IN_USE = enum.auto()
    OVER = enum.auto()


@dataclass(slots=True, eq=False)
class _Change:
    bundle_id: str
    channel: Channel
    done: Done
    stage: Stage = Stage.FETCHING
    photo_encoder: PhotoEncoder | None = None
    before: PhotoEncoder | None = None
    backoff: Backoff = field(default_factory=Backoff)
    not_before_s: float = 0.0
    """By ``time.monotonic``: when the server may be asked again."""


class BundleUpdate:
    """At most one change at a time; a later command takes the place of the one before."""

    def __init__(
        self,
        obtain: Callable[[Channel, str], Bundle],
        encode_with: Callable[[Bundle], PhotoEncoder],
        keep: Keep,
        trials: dict[str, int] | None = None,
    ) -> None:
        """obtain: the bundle of an id, on the disk. encode_with: a new photo encoder. trials: as
        was kept under ``bundle_trials``."""
        self._obtain = obtain
        self._encode_with = encode_with
        self._keep = keep
        self._trials = dict(trials or {})
        self._lock = threading.Lock()
        self._change: _Change | None = None
        self.chosen: str | None = None
        """Id of the bundle that an operator has chosen, and that has worked."""
        self.photo_encoder: PhotoEncoder | None = None
        """Of the bundle in use, where a command has had to do with that; None: nothing has."""

    def take(self, channel: Channel, bundle_id: str, current_id: str | None, done: Done) -> None:
        """A command to use a bundle; ``done`` is called once it is clear what comes of it.

        current_id: of the bundle that is in use. Returns at once.
        """
        with self._lock:
            change = self._change
            if change is not None and change.bundle_id == bundle_id:
                change.done = done
                if change.stage is not Stage.FETCHING:
                    change.channel = channel
                    return
            if change is not None:
                self._give_way(change, same=change.bundle_id == bundle_id)
            if self.photo_encoder is not None:
                current_id = self.photo_encoder.bundle.id
            change = self._change = _Change(bundle_id, channel, done)
        if bundle_id == current_id:
            self._end(change, None)
            return
        threading.Thread(
            target=self._prepare, args=(change,), name="featherwire-bundle", daemon=True
        ).start()

    def refused(self) -> None:
        """This server does not take the bundle in use: sessions with it begin as without it."""
        self.close()
        self.photo_encoder = None

    def close(self) -> None:
        """Nothing more comes of a change that is not over; the server gives it again."""
        with self._lock:
            if self._change is not None:
                self._change.stage = Stage.OVER
                self._change = None

    # -- between frames, on the caller's thread --------------------------------------------------

    def wants_photo(self) -> bool:
        """Whether a photo would help: the bundle is here, and was not tried yet."""
        change = self._change
        return (
            change is not None
            and change.stage is Stage.READY
            and time.monotonic() >= change.not_before_s
        )

    def try_on(
        self,
        photo: Photo,
        encode: Callable[[PhotoEncoder, Photo], Bitstream],
        tasks_of: Callable[[Bundle], tuple[str, ...]],
    ) -> None:
        """Encode this photo with the new bundle, in the background."""
        with self._lock:
            change = self._change
            if change is None or change.stage is not Stage.READY or isinstance(photo, Bitstream):
                return
            change.stage = Stage.TRYING
        if isinstance(photo, np.ndarray):
            photo = photo.copy()  # a camera may write the next one into it
        threading.Thread(
            target=self._try,
            args=(change, photo, encode, tasks_of),
            name="featherwire-bundle",
            daemon=True,
        ).start()

    def settle(self, before: PhotoEncoder) -> PhotoEncoder:
        """The encoder for the next frame. before: the one that was used so far."""
        with self._lock:
            change = self._change
            if change is not None and change.stage is Stage.PASSED:
                change.before = before
                change.stage = Stage.IN_USE
                self.photo_encoder = change.photo_encoder
            return self.photo_encoder or before

    def previous(self, photo_encoder: PhotoEncoder) -> PhotoEncoder | None:
        """What there is to go back to while it is not clear that ``photo_encoder`` works."""
        with self._lock:
            change = self._change
            if change is None or change.stage is not Stage.IN_USE:
                return None
            return change.before if change.photo_encoder is photo_encoder else None

    def failed(self, error: Exception) -> None:
        """The bundle in use could not encode what the one before could."""
        change = self._change
        if change is not None and change.stage is Stage.IN_USE:
            self._end(change, _typed(error))

    # -- from the stream -------------------------------------------------------------------------

    def outcome(self, short_id: bytes, result_id: int, outcome: FrameOutcome) -> None:
        """A frame of this bundle has its result; ``result_id`` is 0 where it was not taken."""
        change = self._change
        if change is None or change.stage is not Stage.IN_USE or change.photo_encoder is None:
            return
        if change.photo_encoder.bundle.short_id != short_id:
            return
        error = outcome.error
        if error is None:
            self._end(change, None)
        elif isinstance(error, BundleError | BitstreamError) or (
            result_id == 0 and not is_retryable(error)
        ):
            self._end(change, error)

    # -- in the background -----------------------------------------------------------------------

    def _prepare(self, change: _Change) -> None:
        try:
            bundle = self._fetched(change)
            if bundle is None:
                return
            photo_encoder = self._encode_with(bundle)
            self._tried(change, lambda: photo_encoder.encoder(bundle))
        except Exception as error:  # noqa: BLE001  # whatever a bundle does, the device goes on
            self._end(change, _typed(error))
            return
        with self._lock:
            if change.stage is Stage.FETCHING:
                change.photo_encoder = photo_encoder
                change.stage = Stage.READY

    def _fetched(self, change: _Change) -> Bundle | None:
        """The bundle; None when the stream was lost, and the server will ask again."""
        while change.stage is Stage.FETCHING:
            try:
                return self._obtain(change.channel, change.bundle_id)
            except SessionError as error:
                if not (is_retryable(error) or error.reason == "closed"):
                    raise
                logging.getLogger(__name__).info("bundle: %s; trying again", error.message)
            except ValueError as error:
                if _is_closed(error):
                    return None
                raise
            time.sleep(change.backoff.next_s())
        return None

    def _try(
        self,
        change: _Change,
        photo: Photo,
        encode: Callable[[PhotoEncoder, Photo], Bitstream],
        tasks_of: Callable[[Bundle], tuple[str, ...]],
    ) -> None:
        photo_encoder = change.photo_encoder
        assert photo_encoder is not None
        try:
            bitstream = self._tried(change, lambda: encode(photo_encoder, photo))
        except PhotoError:  # another one may do
            self._again(change)
            return
        except Exception as error:  # noqa: BLE001  # whatever a bundle does, the device goes on
            self._end(change, _typed(error))
            return
        try:
            request = ingest_pb2.AnalyzeRequest(
                features=[features_message(bitstream)], tasks=tasks_of(photo_encoder.bundle)
            )
            stub = ingest_pb2_grpc.IngestServiceStub(change.channel)
            stub.Analyze(request, timeout=TRIAL_TIMEOUT_S)
        except Exception as failure:  # noqa: BLE001  # whatever a server does, the device goes on
            why = _typed(failure)
            if _is_closed(failure) or is_retryable(why) or why.reason == "closed":
                self._again(change)
            else:
                self._end(change, why)
            return
        with self._lock:
            if change.stage is Stage.TRYING:
                change.stage = Stage.PASSED

    def _again(self, change: _Change) -> None:
        with self._lock:
            if change.stage is Stage.TRYING:
                change.stage = Stage.READY
                change.not_before_s = time.monotonic() + change.backoff.next_s()

    def _tried(self, change: _Change, work: Callable[[], Any]) -> Any:
        """Do what may end the process; after the third time the bundle is refused instead."""
        count = self._trials.get(change.bundle_id, 0)
        if count >= MAX_TRIALS:
            raise BundleError(
                "trial_failed", f"the device has died {count} times while it tried this bundle"
            )
        self._keep("bundle_trials", {**self._trials, change.bundle_id: count + 1})
        try:
            return work()
        finally:
            self._keep("bundle_trials", self._trials)

    def _give_way(self, change: _Change, *, same: bool) -> None:
        """Another command has come. The lock is held."""
        if change.stage is Stage.IN_USE:
            self.photo_encoder = change.before
        change.stage = Stage.OVER
        if not same:
            change.done(SessionError("superseded", "a later command took its place"))

    def _end(self, change: _Change, error: FeatherwireError | None) -> None:
        """Answer, with the bundle in use, or the one before."""
        with self._lock:
            if change.stage is Stage.OVER or self._change is not change:
                return
            if self._trials.pop(change.bundle_id, None) is not None:
                with suppress(FeatherwireError):
                    self._keep("bundle_trials", self._trials)
            if error is None:
                try:
                    self._keep("chosen_bundle", change.bundle_id)
                except FeatherwireError as unkept:
                    error = unkept
                else:
                    self.chosen = change.bundle_id
            if error is not None and change.stage is Stage.IN_USE:
                self.photo_encoder = change.before
            change.stage = Stage.OVER
            change.before = None
            self._change = None
            done = change.done
        if error is not None:
            logging.getLogger(__name__).warning(
                "warning: bundle %s is not used: %s", change.bundle_id[:16], error.message
            )
        done(error)


def _is_closed(error: Exception) -> bool:
    """gRPC's word for a call by a channel that was closed: the stream is over."""
    return isinstance(error, ValueError) and "closed" in str(error).lower()


def _typed(error: Exception) -> FeatherwireError:
    if isinstance(error, FeatherwireError):
        return error
    if isinstance(error, CallError):
        return error_from_call(error, "the server")
    return BundleError("trial_failed", f"the bundle does not work here: {error}")
