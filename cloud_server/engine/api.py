"""The contract of engines: a frame in, its outcome awaited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from codec.base import PLAIN, CloudCodec, Latents, Rendering
from shared.bitstream import Bitstream
from shared.errors import FeatherwireError
from shared.results import ModelInfo
from shared.wire import FrameOutcome, PictureRequest


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a bitstream was decoded to before the engine got it.

    ``latents``, or the bytes that their codec ``packed`` them to, or both: engines in other
    processes get the bytes. ``codec`` is one in this process that may pack and unpack them.
    """

    latents: Latents | None = None
    codec: CloudCodec[Any] | None = None
    packed: bytes = b""

    def pack(self) -> bytes:
        """As bytes, for another process of the same release."""
        if self.packed or self.codec is None:
            return self.packed
        return self.codec.pack(self.latents)

    def key_frame(self, version: int) -> Bitstream:
        """As a bitstream that stands alone; of what was decoded in this process."""
        assert self.codec is not None, "not what came from another process"
        return self.codec.key_frame(self.unpack(self.codec), version=version)

    def unpack(self, codec: CloudCodec[Any]) -> Latents:
        """As latents, by a codec of the same bundle. Raises BitstreamError ``bad_latents``."""
        if self.latents is not None:
            return self.latents
        unpacked: Latents = codec.unpack(self.packed)
        return unpacked


@dataclass(frozen=True, slots=True)
class EngineFrame:
    """One frame to analyse. ``deadline_s`` counts from ``submit``, or from its turn where frames
    wait for one (`cloud_server.engine.fair`): ``device`` has its fair share of those, and a frame
    with a ``patience_s`` waits no longer than that, as part of its deadline.

    ``bitstreams``: one or more encodings of the one picture, each by another bundle. A task that
    a tail of one of these bundles does runs on features; the others, and the picture itself, need
    a bundle that makes pictures. ``refined`` is the short id of the bundle whose layers have just
    come: a task that it has enough for runs on it, also where another bundle's tail could.
    ``decoded``, where there are any, are as many as ``bitstreams``: what those were decoded to
    already, as predicted ones must be, which only who has their references can decode; None has the
    engine decode that one.
    ``picture`` says how the picture is made; tasks see the bundle's plain one. ``stream`` names
    frames whose pictures are alike, one after the other: the engine paints what has changed since
    the last one, where it can. Empty: none is like this one.
    """

    bitstreams: tuple[Bitstream, ...]
    tasks: tuple[str, ...] = ()
    picture: PictureRequest | None = None
    deadline_s: float = 30.0
    refined: bytes | None = None
    decoded: tuple[Decoded | None, ...] = ()
    device: str = ""
    stream: str = ""
    patience_s: float | None = None

    @property
    def rendering(self) -> Rendering:
        """How the picture is made that is asked for."""
        wished = self.picture
        return PLAIN if wished is None else Rendering(wished.decoder or None, wished.seed)

    @property
    def asks_nothing(self) -> bool:
        """Whether the frame is only to be kept: its outcome is known at once."""
        return not self.tasks and self.picture is None

    @property
    def pixels(self) -> int:
        """Width times height of the picture."""
        return self.bitstreams[0].width * self.bitstreams[0].height

    @property
    def payload_bytes(self) -> int:
        """Bytes of all bitstreams, headers included."""
        return sum(bitstream.file_bytes for bitstream in self.bitstreams)


@dataclass(frozen=True, slots=True)
class EngineOutcome(FrameOutcome):
    """An outcome, and what devices and consumers do not get of it: ``doubts``.

    Those are scores (0 to 1) of detections below the threshold of results, down to the one that the
    engine was opened with.
    """

    doubts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A task of the engine, and why it cannot run when it cannot.

    ``on_features``: a tail of a bundle does it. ``on_pictures``: it runs on reconstructions.
    ``picture_error`` is why not, where it should; when a tail can do the task all the same,
    ``unavailable`` is None.
    """

    name: str
    models: tuple[ModelInfo, ...] = ()
    unavailable: FeatherwireError | None = None
    on_pictures: bool = True
    on_features: bool = False
    picture_error: FeatherwireError | None = None


class Engine(Protocol):
    """Analyses frames. ``submit`` may be awaited by any number of streams at once."""

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        """The tasks of this engine by name, usable or not."""

    @property
    def alive(self) -> bool:
        """Whether it can work: False once a thread, or all processes for a while, have died."""

    @property
    def width(self) -> int:
        """Frames that it works on at a time; given fewer, some of it idles."""

    @property
    def queues(self) -> dict[str, int]:
        """Items inside every stage or waiting for it, by the stage's name."""

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        """Analyse one frame. Failures are inside the outcome; only cancellation raises."""

    async def close(self) -> bool:
        """Stop the workers; False when one is still busy after a short while."""


class EngineAround:
    """An engine around another one, which it is but for what a subclass changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        """The tasks of the engine by name, usable or not."""
        return self._engine.tasks

    @property
    def alive(self) -> bool:
        """Whether the engine can work."""
        return self._engine.alive

    @property
    def width(self) -> int:
        """Frames that the engine works on at a time."""
        return self._engine.width

    @property
    def queues(self) -> dict[str, int]:
        """Items inside every stage or waiting for it."""
        return self._engine.queues

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        """Analyse one frame."""
        return await self._engine.submit(frame)

    async def close(self) -> bool:
        """Stop the workers; False when one is still busy after a short while."""
        return await self._engine.close()
