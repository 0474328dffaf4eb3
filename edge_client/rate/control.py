"""A device's rate: its own budget, the operator's policy, and what the network takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence

from edge_client.rate.bucket import BUCKET_S, Bucket, cost
from edge_client.rate.costs import Told
from edge_client.rate.link import LinkModel
from edge_client.rate.steering import SAFE_SHARE, Steering
from edge_client.rate.stream import Limits, StreamClock, StreamRate
from shared.bitstream import Bitstream
from shared.bundle import Manifest, StateSpec
from shared.errors import BudgetError
from shared.targets import RateTarget
from shared.wire.commands import RatePolicy

LOOK_AGAIN_S = 0.05
BURST_S = 1.0
"""So many seconds of a budget go at once, where frames are not those of a stream."""
DEFAULT_FRAMES_PER_SECOND = 1.0
FIRST_FPS = 10.0
"""Frames a second of a stream of which nothing is known yet."""

_SMOOTHING = 0.1


class RateControl:
    """Chooses the states of frames, and when they may be sent. Thread-safe.

    Without a budget, its own or the operator's, it leaves the state as it was asked for, but for
    the operator's policy, and makes a frame wait only where more would be under way than the
    network takes in a few seconds.
    """

    def __init__(
        self,
        bits_per_second: float | None = None,
        frames_per_second: float = DEFAULT_FRAMES_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
        *,
        stream: bool = False,
    ) -> None:
        """bits_per_second: the budget on the wire. frames_per_second: the state is the finest with
        which that many frames fit; more are sent when there are more and they fit. clock: seconds
        that never go back. stream: where frames are predicted, bits a pixel are an average over
        them, and all frames that come have to fit: see :meth:`plan`. Raises
        ``BudgetError("bad_target")``.
        """
        if bits_per_second is not None and not 0 < bits_per_second < float("inf"):
            raise BudgetError("bad_target", "a bandwidth must be a finite number above 0")
        if not 0 < frames_per_second < float("inf"):
            raise BudgetError("bad_target", "a frame rate must be a finite number above 0")
        self._own = None if bits_per_second is None else bits_per_second / 8
        self._frames_per_second = frames_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._policy = RatePolicy()
        self._bucket: Bucket | None = None
        self._link = LinkModel()
        self._steering: Steering | None = None
        self._shape: tuple[object, ...] = ()
        # Until it is known how many come: who begins too fine has to make up for it.
        first_fps = max(frames_per_second, FIRST_FPS)
        self._stream_clock = StreamClock(first_fps) if stream else None
        self._stream: StreamRate | None = None
        self._stream_shape: tuple[object, ...] = ()
        self._link_steering: Steering | None = None
        self._ratio = 1.0
        self._encoded = 0
        self._last_frame_s: float | None = None
        self._set_bucket()

    @property
    def budget_bytes_per_second(self) -> float | None:
        """The smaller of the device's own budget and the operator's."""
        return self._bucket.rate if self._bucket is not None else None

    @property
    def active(self) -> bool:
        """Whether a budget or a policy limits what a picture may cost."""
        return self._bucket is not None or self._policy != RatePolicy()

    def steers(self, wanted: RateTarget) -> bool:
        """Whether it has a say in what a picture costs for which ``wanted`` is asked."""
        averages = self._stream_clock is not None and wanted.bits_per_pixel is not None
        return self.active or averages

    @property
    def queue_delay_s(self) -> float:
        """How much longer the last frame was under way than the quickest."""
        return self._link.queue_delay_s

    @property
    def policy(self) -> RatePolicy:
        """The operator's rate policy."""
        return self._policy

    def set_policy(self, policy: RatePolicy) -> None:
        """Follow the operator's policy, within the device's own budget."""
        with self._lock:
            self._policy = policy
            self._set_bucket()
            self._shape = ()

    # -- states ----------------------------------------------------------------------------------

    def target(self, wanted: RateTarget, states: Sequence[StateSpec], pixels: int) -> RateTarget:
        """The rate at which to encode a picture: ``wanted``, or a coarser one.

        states: the bundle's. pixels: of the picture. A target in bits, bytes or decibels is left
        as it is, and only the frame rate follows the bandwidth.
        """
        wanted = self._commanded(wanted, max(row.state for row in states))
        if self._bucket is None or wanted not in (RateTarget(), RateTarget(state=wanted.state)):
            return wanted
        coarse_first = sorted(states, key=lambda row: -row.state)
        with self._lock:
            index = self._choose(coarse_first, pixels)
        state = coarse_first[index].state
        return RateTarget(state=state if wanted.state is None else max(state, wanted.state))

    def encoded(self, state: StateSpec, pixels: int, size: int) -> None:
        """Note that a picture at this state took ``size`` bytes; the next ones are expected to
        take as many."""
        expected = state.typical_bits_per_pixel * pixels / 8
        if expected > 0 and size > 0:
            with self._lock:
                # One picture moves the mean by half of itself at most.
                ratio = min(max(size / expected, self._ratio / 2), self._ratio * 2)
                self._encoded += 1
                self._ratio += max(_SMOOTHING, 1 / (self._encoded + 1)) * (ratio - self._ratio)

    def plan(
        self,
        wanted: RateTarget,
        manifest: Manifest,
        size: tuple[int, int],
        pixels: int,
        *,
        held: int | None,
        taken_s: float | None = None,
    ) -> Plan | None:
        """What the next frame of a stream of predicted frames may take; None where no rate of the
        stream is given, which ``target`` is for.

        manifest: of the bundle. size: width and height of the photo. pixels: what the bundle codes.
        held: the state of the frame that this one can refer to, None for a key frame. taken_s: when
        the photo was taken, in seconds since any time. A state that is wanted, by the operator too,
        is the finest that is taken.

        Raises BudgetError ``budget_too_small`` where bits a pixel are given, and the frames before
        have taken so many more of the coarsest state that this one must be left out.
        """
        clock = self._stream_clock
        if clock is None:
            return None
        states = manifest.states
        wanted = self._commanded(wanted, max(row.state for row in states))
        if wanted.psnr_db is not None or wanted.max_bytes is not None:
            return None
        frame_bytes = wanted.budget_bytes(*size)
        if self._bucket is None and frame_bytes is None:
            return None
        with self._lock:
            if frame_bytes is not None and frame_bytes < 1:
                raise BudgetError("budget_too_small", "a frame may take less than a byte")
            now_s = clock.frame(self._clock(), taken_s)
            fps = clock.fps
            if self._policy.max_frames_per_second is not None:
                fps = min(fps, self._policy.max_frames_per_second)
            shape = (states, pixels)
            if self._stream is None or shape != self._stream_shape:
                self._stream = StreamRate(states, manifest.finest_of, pixels)
                self._stream_shape, self._link_steering = shape, Steering(len(states))
            stream = self._stream
            budget = None if self._bucket is None else self._bucket.rate
            stream.limit(Limits(budget, frame_bytes), fps, now_s)
            link = self._link.rate(self._clock())
            state = stream.choose(
                held,
                now_s,
                self._through,
                finest=wanted.state or 0,
                link_bytes=float("inf") if link is None else link.bytes_per_second * BUCKET_S,
            )
        return Plan(RateTarget(state=state), self._lock, stream, now_s, held)

    def _through(self, ceiling: int) -> int:
        assert self._stream is not None
        assert self._link_steering is not None
        # A budget for which this very ceiling is the finest that fits.
        budget = self._stream.load(ceiling) * 1.001 / SAFE_SHARE
        found = self._link_steering.choose(self._clock(), self._stream.load, budget, self._link)
        return min(ceiling, found)

    def _commanded(self, wanted: RateTarget, coarsest: int) -> RateTarget:
        policy = self._policy
        if policy.state is not None:  # an operator need not know every bundle's states
            return RateTarget(state=min(policy.state, coarsest))
        if policy.bits_per_pixel is not None:
            return RateTarget(bits_per_pixel=policy.bits_per_pixel)
        if policy.frame_bytes is not None:
            return RateTarget(max_bytes=policy.frame_bytes)
        return wanted

    def _choose(self, states: Sequence[StateSpec], pixels: int) -> int:
        assert self._bucket is not None
        bits = tuple(row.typical_bits_per_pixel for row in states)
        shape = (bits, pixels)
        if self._steering is None or shape != self._shape:
            self._steering, self._shape = Steering(len(states)), shape
        fps = self._frames_per_second
        if self._policy.max_frames_per_second is not None:
            fps = min(fps, self._policy.max_frames_per_second)

        def load(index: int) -> float:
            return cost(round(bits[index] * pixels / 8 * self._ratio)) * fps

        budget = self._bucket.rate
        return self._steering.choose(self._clock(), load, budget, self._link)

    # -- frames ----------------------------------------------------------------------------------

    def wait_s(self, message_bytes: int) -> float:
        """Seconds after which to ask again whether a frame may go; 0 when it may now."""
        with self._lock:
            now_s = self._clock()
            wait_s = 0.0
            if self._policy.max_frames_per_second is not None and self._last_frame_s is not None:
                next_s = self._last_frame_s + 1.0 / self._policy.max_frames_per_second
                wait_s = max(0.0, next_s - now_s)
            if self._bucket is None:
                free = self._link.may_flood(message_bytes, now_s)
            else:
                wait_s = max(wait_s, self._bucket.wait_s(cost(message_bytes), now_s))
                free = self._link.may_send(now_s)
            wait_s = wait_s if free else max(wait_s, LOOK_AGAIN_S)
            if wait_s > 0 and self._stream_clock is not None:
                self._stream_clock.held_up()
            return wait_s

    def posted(self, key: Hashable | None, message_bytes: int, *, frame: bool = True) -> None:
        """Note that a message goes out. key: names it until it is acknowledged; None when it
        never is.

        What is no frame goes at once, and the frames after it wait for it.
        """
        with self._lock:
            now_s = self._clock()
            if frame:
                self._last_frame_s = now_s
            elif self._stream is not None and self._stream_clock is not None:
                self._stream.other(cost(message_bytes), self._stream_clock.now_s)
            if key is not None:
                self._link.sent(key, message_bytes, now_s)
            if self._bucket is not None:
                self._bucket.spend(cost(message_bytes), now_s)

    def acknowledged(self, key: Hashable, held_s: float = 0.0) -> None:
        """Note that the server has the message of that key. held_s: seconds between its coming
        there and the server's saying so."""
        with self._lock:
            self._link.acknowledged(key, self._clock(), held_s)

    def lost(self) -> None:
        """Note that the stream has ended, and with it all that was under way."""
        with self._lock:
            self._link.lost()

    def _set_bucket(self) -> None:
        budgets = [b for b in (self._own, self._policy.bytes_per_second) if b is not None]
        now_s = self._clock()
        if not budgets:
            self._bucket = None
        elif self._bucket is None:
            bucket_s = BURST_S if self._stream_clock is None else BUCKET_S
            self._bucket = Bucket(min(budgets), now_s, bucket_s=bucket_s)
        else:
            self._bucket.set_rate(min(budgets), now_s)


class Plan:
    """What was decided of a frame of a stream, and what has come of it."""

    def __init__(
        self,
        target: RateTarget,
        lock: threading.Lock,
        stream: StreamRate,
        now_s: float,
        held: int | None,
    ) -> None:
        """Use ``RateControl.plan``."""
        self.target = target
        """The rate at which it is to be encoded."""
        self._lock = lock
        self._stream = stream
        self._now_s = now_s
        self._held = held
        self._sizes: dict[int, int] = {}

    def fit(self, bitstream: Bitstream) -> int:
        """The state to which the frame, as it was encoded, has to be cut: its own where it fits."""
        with self._lock:
            self._sizes = dict(bitstream.cumulative_bytes())
            return self._stream.fit(bitstream, self._now_s)

    def made(self, sent: Bitstream, file_bytes: int) -> None:
        """Note what is sent of the frame: the first bundle's part, and the bytes of all parts."""
        states = self._stream.states
        coarsest_told = sent.state if self.target.state is None else self.target.state
        # What regions add is learned as if the rest cost more.
        sizes = self._sizes or {max(coarsest_told, sent.state): sent.file_bytes}
        with self._lock:
            self._stream.made(
                Told(
                    {states.index(state): size for state, size in sizes.items()},
                    None
                    if sent.reference is None or self._held is None
                    else states.index(self._held),
                ),
                sent,
                file_bytes,
                self._now_s,
            )
