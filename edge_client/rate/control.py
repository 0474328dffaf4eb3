"""A device's rate: its own budget, the operator's policy, and what the network takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence

from edge_client.rate.link import LinkModel
from edge_client.rate.steering import Steering
from shared.bundle import StateSpec
from shared.errors import BudgetError
from shared.targets import RateTarget
from shared.wire.commands import RatePolicy

LOOK_AGAIN_S = 0.05
DEFAULT_FRAMES_PER_SECOND = 1.0
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
    ) -> None:
        """bits_per_second: the budget on the wire. frames_per_second: the state is the finest with
        which that many frames fit; more are sent when there are more and they fit. clock: seconds
        that never go back. Raises ``BudgetError("bad_target")``.
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
        self._bucket: TokenBucket | None = None
        self._link = LinkModel()
        self._steering: Steering | None = None
        self._shape: tuple[object, ...] = ()
        self._ratio = 1.0
        self._encoded = 0
        self._last_frame_s: float | None = None
        self._set_bucket()

    @property
    def budget_bytes_per_second(self) -> float | None:
        """The smaller of the device's own budget and the operator's."""
        return self._bucket.bytes_per_second if self._bucket is not None else None

    @property
    def active(self) -> bool:
        """Whether a budget or a policy limits what a picture may cost."""
        return self._bucket is not None or self._policy != RatePolicy()

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

        budget = self._bucket.bytes_per_second
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
                wait_s = max(wait_s, self._bucket.wait_s(message_bytes, now_s))
                free = self._link.may_send(now_s)
            return wait_s if free else max(wait_s, LOOK_AGAIN_S)

    def posted(self, key: Hashable | None, message_bytes: int, *, frame: bool = True) -> None:
        """Note that a message goes out. key: names it until it is acknowledged; None when it
        never is.

        What is no frame goes at once, and the frames after it wait for it.
        """
        with self._lock:
            now_s = self._clock()
            if frame:
                self._last_frame_s = now_s
            if key is not None:
                self._link.sent(key, message_bytes, now_s)
            if self._bucket is not None:
                self._bucket.spend(message_bytes, now_s)

    def acknowledged(self, key: Hashable) -> None:
        """Note that the server has the message of that key."""
        with self._lock:
            self._link.acknowledged(key, self._clock())

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
            self._bucket = TokenBucket(min(budgets), now_s)
        else:
            self._bucket.set_rate(min(budgets), now_s)


BURST_S = 1.0
MESSAGE_BYTES = 96
"""Of gRPC and HTTP/2 around one message: headers of frames, the acknowledgements of settings."""
OVERHEAD = 1.01
"""Of long messages: a header of 9 bytes for each 16 KiB, and window updates."""


class TokenBucket:
    """In any time T at most ``bytes_per_second * (T + BURST_S)`` bytes pass, or one frame more
    than T's worth where a frame is larger than the burst."""

    def __init__(self, bytes_per_second: float, now_s: float) -> None:
        """Starts full. ``now_s``: of a clock that never goes back, here and below."""
        self._rate = bytes_per_second
        self._tokens = self._burst
        self._at_s = now_s

    @property
    def bytes_per_second(self) -> float:
        """The budget in bytes a second."""
        return self._rate

    @property
    def _burst(self) -> float:
        return self._rate * BURST_S

    def set_rate(self, bytes_per_second: float, now_s: float) -> None:
        """Change the budget from now on."""
        self._fill(now_s)
        self._rate = bytes_per_second
        self._tokens = min(self._tokens, self._burst)

    def wait_s(self, message_bytes: int, now_s: float) -> float:
        """Seconds until a message may go; 0 when it may now."""
        self._fill(now_s)
        missing = min(cost(message_bytes), self._burst) - self._tokens
        # Below a byte it is rounding, which would be waited for again and again.
        return missing / self._rate if missing > 1.0 else 0.0

    def spend(self, message_bytes: int, now_s: float) -> None:
        """Take a sent message off the budget; one larger than the burst leaves a debt."""
        self._fill(now_s)
        self._tokens -= cost(message_bytes)

    def _fill(self, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._tokens = min(self._burst, self._tokens + elapsed_s * self._rate)


def cost(message_bytes: int) -> float:
    """Bytes on the wire of a message, a little more than they are."""
    return message_bytes * OVERHEAD + MESSAGE_BYTES
