"""The state of each frame of a stream of key and predicted frames, within a rate of the stream.

A rate is kept by the average; a bucket (`bucket`) says how far a frame may be above it now.

- *Ceiling*: the finest state whose frames, key frames included, fit into the rate by what they are
  expected to take (`costs`). It goes up with a margin and after a while, and down only when the
  bucket is low: a busy second is what the bucket is for.
- *Key frame*: the finest state up to the ceiling that leaves a quarter of the bucket.
- *Refinement*: where the frame before was coarser than the ceiling, one state finer as soon as the
  layer, which costs about what it does in a key frame, leaves that quarter too. So a key frame that
  was coarse, and a scene that has come to rest, become finer step by step.
- *Fit*: a frame that came out larger than what may go, as a cut or a sudden movement does, is sent
  at the finest of its states that fits. Nothing is coded twice for that.

A state that had to be left soon after it was entered is tried again later and later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_client.rate.bucket import Bucket, cost, message_of
from edge_client.rate.costs import StateCosts, Told
from shared.bitstream import Bitstream
from shared.bundle import StateSpec
from shared.errors import BudgetError

RESERVE = 0.25
"""Of the bucket: what key frames and refinements leave to the frames after them."""
UP_SHARE = 0.9
"""Of the rate: what a finer state may need."""
DOWN_SHARE = 0.85
FULL_SHARE = 1.0
HOLD_S = 1.0
MAX_HOLD_S = 32.0
FAILED_S = 8.0
"""A state that is left so soon after it was entered was too fine."""
OTHER_FPS = 1.5
"""So many times the frames a second are another stream, of which all is thought anew."""
MOST_WAIT_S = 60.0
"""For a key frame of the coarsest state; a rate at which it takes longer is none for a stream."""
KNOWN_FRAMES = 4
_INTERVAL_STEP = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stream may take: bytes a second on the wire, and bytes of files a frame; None is no
    limit."""

    bytes_per_second: float | None = None
    frame_bytes: float | None = None


class StreamRate:
    """Steers one stream. Times are seconds of a clock that never goes back. Not thread-safe."""

    def __init__(
        self, states: Sequence[StateSpec], finest_of: Callable[[int], int], pixels: int
    ) -> None:
        """states: the bundle's. finest_of: of a state the finest of its chain. pixels: of a
        frame."""
        self._coarse_first = sorted(states, key=lambda row: -row.state)
        self.states = tuple(row.state for row in self._coarse_first)
        """By index: the coarsest is 0."""
        self.costs = StateCosts(
            [row.typical_bits_per_pixel * pixels / 8 for row in self._coarse_first],
            [finest_of(state) for state in self.states],
        )
        self._limits = Limits()
        self._seconds: Bucket | None = None
        self._frames: Bucket | None = None
        self._fps = 1.0
        self._frame = 0
        self._extra = 0.0
        self._link_bytes = float("inf")
        self._ceiling: int | None = None
        self._last: int | None = None
        self._entered_s = self._looked_s = float("-inf")
        self._hold_s = HOLD_S

    # -- what it may take ------------------------------------------------------------------------

    def limit(self, limits: Limits, fps: float, now_s: float) -> None:
        """What holds from now on. fps: frames a second that there will be."""
        if not self._fps / OTHER_FPS < fps < self._fps * OTHER_FPS:
            self._ceiling = None
        self._fps = fps
        if limits.bytes_per_second is None:
            self._seconds = None
        elif self._seconds is None:
            self._seconds = Bucket(limits.bytes_per_second, now_s)
        elif limits != self._limits:
            self._seconds.set_rate(limits.bytes_per_second, now_s)
        if limits.frame_bytes is None:
            self._frames = None
        elif self._frames is None:
            self._frames = Bucket(limits.frame_bytes, self._frame, unit_s=fps)
        else:
            self._frames.set_rate(limits.frame_bytes, self._frame, unit_s=fps)
        if limits != self._limits:
            self._limits, self._ceiling = limits, None

    def load(self, index: int) -> float:
        """Bytes a second on the wire of a state, key frames included."""
        return cost(self.costs.mean(index) + self._extra) * self._fps

    def _share(self, index: int) -> float:
        """Of what the stream may take; above 1 it is too much."""
        shares = [0.0]
        if self._seconds is not None:
            shares.append(self.load(index) / self._seconds.rate)
        if self._frames is not None:
            shares.append((self.costs.mean(index) + self._extra) / self._frames.rate)
        return max(shares)

    def _room(self, now_s: float) -> tuple[float, float]:
        """Bytes of the first bundle's file that may go now, and with a reserve."""
        rooms = [(self._link_bytes, self._link_bytes)]
        if self._seconds is not None:
            room, spare = self._seconds.room(now_s), RESERVE * self._seconds.capacity
            rooms.append((message_of(room), message_of(room - spare)))
        if self._frames is not None:
            room, spare = self._frames.room(self._frame), RESERVE * self._frames.capacity
            rooms.append((room, room - spare))
        full, kept = (min(column) for column in zip(*rooms, strict=True))
        return full - self._extra, kept - self._extra

    def _low(self, now_s: float) -> bool:
        buckets = [(self._seconds, now_s), (self._frames, float(self._frame))]
        return any(
            bucket is not None and bucket.room(at) < RESERVE * bucket.capacity
            for bucket, at in buckets
        )

    # -- a frame ---------------------------------------------------------------------------------

    def choose(
        self,
        held: int | None,
        now_s: float,
        through: Callable[[int], int],
        *,
        finest: int = 0,
        link_bytes: float = float("inf"),
    ) -> int:
        """The state of the next frame.

        held: the state of the frame that it can refer to, None where it will be a key frame.
        through: of an index the finest one, up to it, that the network takes. finest: the finest
        state that is wanted. link_bytes: that the network takes in a bucket's time.

        Raises BudgetError ``budget_too_small`` where bits a pixel are given and frames of the
        coarsest state have taken so many more that this one must be left out, and where a key frame
        of it takes more than a minute at the rate.
        """
        self._frame += 1
        self._link_bytes = link_bytes
        if self._seconds is not None and cost(self.costs.key(0)) > MOST_WAIT_S * self._seconds.rate:
            key_frame, bits_s = self.costs.key(0), 8 * self._seconds.rate
            raise BudgetError(
                "budget_too_small",
                f"a key frame of the coarsest state takes some {key_frame:.0f} bytes: more than "
                f"{MOST_WAIT_S:.0f} seconds' worth of {bits_s:g} bits a second",
            )
        if self._frames is not None and self._frames.room(self._frame) < -self._debt():
            raise BudgetError(
                "budget_too_small",
                f"a frame may take {self._limits.frame_bytes:.0f} bytes on average, and even the "
                "coarsest state takes more",
            )
        top = max((i for i, state in enumerate(self.states) if state >= finest), default=0)
        ceiling = min(through(self._look(now_s)), top)
        _, spare = self._room(now_s)
        if held is None:
            fits = [i for i in range(ceiling + 1) if self.costs.key(i) <= spare]
            index = max(fits, default=0)
        else:
            index = self._from(self.states.index(held), ceiling, spare, now_s)
        if index != self._last:
            self._entered(index, now_s)
        return self.states[index]

    def _from(self, held: int, ceiling: int, spare: float, now_s: float) -> int:
        if ceiling <= held:
            return ceiling
        settled = now_s - self._entered_s >= (HOLD_S if held < (self._last or 0) else self._hold_s)
        if settled and self.costs.change(held, held + 1) <= spare:
            return held + 1
        return held

    def _entered(self, index: int, now_s: float) -> None:
        last, self._last = self._last, index
        if last is not None and index < last:
            soon = now_s - self._entered_s < FAILED_S
            self._hold_s = min(MAX_HOLD_S, 2 * self._hold_s) if soon else HOLD_S
        self._entered_s = now_s

    def _look(self, now_s: float) -> int:
        """The ceiling."""
        here = self._ceiling
        finest = len(self.states) - 1
        if here is None:
            here = max((i for i in range(finest + 1) if self._share(i) <= UP_SHARE), default=0)
        elif self._share(here) > FULL_SHARE and self._low(now_s):
            # What the bucket gave is missing from the window for its time.
            here = max((i for i in range(here) if self._share(i) <= DOWN_SHARE), default=0)
        elif here < finest and now_s - self._looked_s >= self._hold_s:
            fits = [i for i in range(here + 1, finest + 1) if self._share(i) <= UP_SHARE]
            here = max(fits, default=here)
        if here != self._ceiling:
            self._ceiling, self._looked_s = here, now_s
        return here

    def fit(self, bitstream: Bitstream, now_s: float) -> int:
        """The state at which a frame is sent that was encoded: its own, or a coarser one."""
        room, spare = self._room(now_s)
        most = spare if bitstream.reference is None else room
        if bitstream.file_bytes <= most:
            return bitstream.state
        sizes = bitstream.cumulative_bytes()
        fits = [state for state, size in sizes.items() if size <= most]
        return min(fits, default=max(sizes))

    def made(self, told: Told, sent: Bitstream, file_bytes: int, now_s: float) -> None:
        """A frame is made. told: in indices. file_bytes: of all bundles' parts that are sent."""
        self.costs.learn(told)
        self._extra += 0.3 * (file_bytes - sent.file_bytes - self._extra)
        if self._seconds is not None:
            self._seconds.spend(cost(file_bytes), now_s)
        if self._frames is not None:
            self._frames.spend(file_bytes, self._frame)
        index = self.states.index(sent.state)
        if index != self._last:
            self._entered(index, now_s)

    def other(self, wire_bytes: float, now_s: float) -> None:
        """Something else is sent."""
        if self._seconds is not None:
            self._seconds.spend(wire_bytes, now_s)

    def _debt(self) -> float:
        assert self._frames is not None
        return max(self._frames.capacity, self.costs.key(0) + self._extra)


class StreamClock:
    """The time of a stream, and how many frames a second there are where nothing holds them up.

    Where frames say when they were taken it is their time that counts: of a file, which is read as
    quickly as it is sent, a rate means the same as of a camera.
    """

    def __init__(self, fps: float) -> None:
        """fps: frames a second as long as nothing is known."""
        self.fps = fps
        self.now_s = 0.0
        """Seconds of the stream, which never go back."""
        self._wall_s: float | None = None
        self._taken_s: float | None = None
        self._interval_s: float | None = None
        self._held_up = False
        self._frames = 0

    def held_up(self) -> None:
        """A frame has to wait: the time to the next one says nothing."""
        self._held_up = True

    def frame(self, wall_s: float, taken_s: float | None) -> float:
        """There is a frame; returns its time. wall_s: of a clock that never goes back. taken_s:
        when it was taken, if that is known, in seconds since any time."""
        if self._wall_s is not None:
            step_s = wall_s - self._wall_s
            if taken_s is not None and self._taken_s is not None and taken_s > self._taken_s:
                step_s = taken_s - self._taken_s
            self.now_s += step_s
            if step_s > 0 and not self._held_up:
                self._note(step_s)
        self._wall_s, self._taken_s, self._held_up = wall_s, taken_s, False
        return self.now_s

    def _note(self, interval_s: float) -> None:
        self._frames += 1
        if self._interval_s is None:
            self._interval_s = interval_s
        else:  # a pause of the source is no change of its rate
            interval_s = min(interval_s, 4 * self._interval_s)
            step = max(_INTERVAL_STEP, 1 / self._frames)
            self._interval_s += step * (interval_s - self._interval_s)
        if self._frames >= KNOWN_FRAMES:
            self.fps = 1 / self._interval_s
