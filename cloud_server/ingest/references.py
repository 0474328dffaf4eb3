"""References: the values that predicted frames look at, beside their sessions.

    frame ──▶ admit ──▶ its reference ── in memory? ─────────────┐
                            │ no: frames of the log, back to     ├──▶ decode, in a thread ──▶ values
                            └──── the key frame, decoded again ──┘

A predicted frame is decoded before it is kept, so that what is in the log can be decoded from the
log. Its reference is the frame as it was first sent: refinements of it came later, and the device
knew nothing of them. Key frames are decoded when something refers to them.

Frames of one session come one after the other, since their stream awaits each; sessions side by
side. Everything but decoding runs on the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog

from cloud_server.engine import Decoded
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.sessions import OwnedCache
from cloud_server.results.log import ResultLog
from cloud_server.results.records import SessionKey
from codec.base import CloudCodec, Latents, open_cloud
from shared.bitstream import Bitstream
from shared.errors import BitstreamError, FeatherwireError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.requests import parse_frame

KEPT = 8
"""Frames of a session and bundle whose values are kept: as far back as references are quick."""

MAX_BYTES = 256 * 2**20
"""Of the values of all sessions."""

MAX_GROUP = 1024
"""Frames of a group of pictures: as many are decoded again, at most, for one that is in no memory.
"""

LONG_GROUP = MAX_GROUP - 256
"""From so many on a device is asked for a key frame: what is on its way until then is taken."""

Owner = tuple[SessionKey, bytes]
"""Session, and short id of the bundle."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Held:
    """What is known of a frame that others may refer to: its values, or a key frame that has not
    been decoded; ``group`` is the sequence of its key frame, ``length`` the frames from there on.

    Values are packed: a seventh to a tenth of the memory, for 0.3 to 0.6 ms.
    """

    group: int
    length: int
    packed: bytes = b""
    bitstream: Bitstream | None = None

    @property
    def size_bytes(self) -> int:
        """Of memory, roughly."""
        if self.packed:
            return len(self.packed)
        return 0 if self.bitstream is None else self.bitstream.file_bytes


@dataclass(frozen=True, slots=True)
class Values:
    """What came of a frame's bitstreams: ``decoded`` is None for key frames.

    group: the first sequence that the frame cannot be decoded without, its own for a key frame.
    refers_to: sequences of its references. same_as: the frame before that has the same values, in
    all its bitstreams; None where there is none, or where that was not asked for. length: frames of
    the group so far.
    """

    decoded: tuple[Decoded | None, ...]
    group: int
    refers_to: tuple[int, ...] = ()
    same_as: int | None = None
    length: int = 1


class References:
    """The values of all sessions. Made and used on one event loop; ``close`` ends its threads."""

    def __init__(
        self,
        bundles: ServedBundles,
        log: ResultLog,
        *,
        max_bytes: int = MAX_BYTES,
        limits: Limits = DEFAULT_LIMITS,
        compare: bool = True,
    ) -> None:
        """compare: whether ``Values.same_as`` is wanted."""
        self._bundles = bundles
        self._log = log
        self._limits = limits
        self._compare = compare
        self._newest: OwnedCache[Held] = OwnedCache(max_bytes=max_bytes, max_entries_per_owner=KEPT)
        # Of frames that are read from the log: they must not push out what streams need next.
        self._read: OwnedCache[Held] = OwnedCache(
            max_bytes=max_bytes // 4, max_entries_per_owner=KEPT
        )
        self._reading: WeakValueDictionary[Owner, asyncio.Lock] = WeakValueDictionary()
        self._codecs: dict[bytes, CloudCodec[Any]] = {}
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "references")
        # Long rows of stored frames leave room for those that come.
        self._readers = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "stored-frames")

    @property
    def total_bytes(self) -> int:
        """Bytes of memory that all values take, roughly."""
        return self._newest.total_bytes + self._read.total_bytes

    def close(self) -> None:
        """End the threads when they have done what they are at."""
        for threads in (self._threads, self._readers):
            threads.shutdown(wait=False, cancel_futures=True)

    # -- frames that come ------------------------------------------------------------------------

    async def admit(
        self,
        key: SessionKey,
        sequence: int,
        bitstreams: Sequence[Bitstream],
        logged: Callable[[], Awaitable[None]],
        *,
        followed: bool = True,
    ) -> Values:
        """Decode what is predicted of a frame that came, and keep it for those that follow.

        logged: returns once all frames before this one are in the log, or are not to be. followed:
        whether others may refer to this one. Raises ``reference_lost`` where the reference is not
        to be had, ``reference_mismatch`` where it is another frame, what the codec raises,
        ``BundleError("bundle_mismatch")``, and ``StorageError``.
        """
        if all(one.reference is None for one in bitstreams):
            for one in bitstreams if followed else ():
                self._keep((key, one.bundle_id), sequence, Held(sequence, 1, bitstream=one))
            return Values((None,) * len(bitstreams), sequence)
        before: list[Held | None] = []
        waited = False
        for one in bitstreams:
            found = None
            if one.reference is not None:
                self._bundles.of(one.bundle_id)
                wanted = _referred(sequence, one)
                found = self._newest.get((key, one.bundle_id), wanted)
                if found is None and not waited:
                    await logged()
                    waited = True
                if found is None:
                    if await self._log.knows(key, sequence):
                        # It is no new frame: the log says what became of it.
                        return Values((None,) * len(bitstreams), sequence)
                    found = await self._from_log(key, one.bundle_id, wanted)
            before.append(found)
        values, held = await self._decode(sequence, bitstreams, before, self._threads)
        for one, reference, kept in zip(bitstreams, before, held, strict=True):
            owner = (key, one.bundle_id)
            if reference is not None and reference.length == 1:  # now that it is decoded
                self._note(self._newest, owner, reference.group, reference)
            self._keep(owner, sequence, kept)
        return values

    def drop(self, key: SessionKey, sequence: int, bitstreams: Sequence[Bitstream]) -> None:
        """Forget what ``admit`` kept of a frame that did not get into the log after all."""
        for one in bitstreams:
            self._newest.drop((key, one.bundle_id), sequence)

    # -- frames that are in the log --------------------------------------------------------------

    async def values(
        self, key: SessionKey, sequence: int, bitstreams: Sequence[Bitstream], *, refined: bool
    ) -> Values:
        """The same of a frame that is in the log; ``bitstreams`` are what it came with, or what
        refinements have made of that. Raises as ``admit`` does."""
        if not refined:
            there = [self._in_memory((key, one.bundle_id), sequence) for one in bitstreams]
            found = [one for one in there if one is not None and one.packed]
            if len(found) == len(bitstreams):
                return self._known(sequence, bitstreams, found)
        before = [
            None
            if one.reference is None
            else await self._held(key, one.bundle_id, _referred(sequence, one))
            for one in bitstreams
        ]
        if all(one is None for one in before):
            return Values((None,) * len(bitstreams), sequence)
        values, held = await self._decode(sequence, bitstreams, before, self._readers)
        for one, kept in zip(bitstreams, held, strict=True):
            if not refined:
                self._note(self._read, (key, one.bundle_id), sequence, kept)
        return values

    async def _held(self, key: SessionKey, bundle_id: bytes, sequence: int) -> Held:
        found = self._in_memory((key, bundle_id), sequence)
        return found or await self._from_log(key, bundle_id, sequence)

    async def _from_log(self, key: SessionKey, bundle_id: bytes, sequence: int) -> Held:
        """Decode a frame of the log from the nearest one that is in memory, or its key frame."""
        owner = (key, bundle_id)
        lock = self._reading.setdefault(owner, asyncio.Lock())
        async with lock:
            chain, before = await self._chain(key, bundle_id, sequence)
            for number, bitstream in reversed(chain):
                if bitstream.reference is None:
                    before = Held(number, 1, bitstream=bitstream)
                else:
                    try:
                        _, (before,) = await self._decode(
                            number, (bitstream,), (before,), self._readers
                        )
                    except BitstreamError as error:
                        raise reference_lost(
                            f"frame {number}, which leads to frame {sequence}, cannot be "
                            f"decoded: {error.message}"
                        ) from None
                self._note(self._read, owner, number, before)
        assert before is not None, "a chain begins with a key frame, or behind one in memory"
        return before

    async def _chain(
        self, key: SessionKey, bundle_id: bytes, sequence: int
    ) -> tuple[list[tuple[int, Bitstream]], Held | None]:
        """What leads to a frame, itself first, and what is in memory of the frame before these."""
        owner = (key, bundle_id)
        chain: list[tuple[int, Bitstream]] = []
        rows: dict[int, bytes] = {}
        wanted = sequence
        while len(chain) < MAX_GROUP:
            found = self._in_memory(owner, wanted)
            if found is not None:
                return chain, found
            if wanted not in rows:
                rows = dict(await self._log.frames_back(key, wanted))
            message = rows.get(wanted)
            bitstream = (
                None
                if message is None
                else await _in(self._readers, _of_bundle, message, bundle_id, self._limits)
            )
            if bitstream is None:
                raise reference_lost(f"frame {wanted} is not kept, or has nothing of this bundle")
            chain.append((wanted, bitstream))
            if bitstream.reference is None:
                return chain, None
            wanted = _referred(wanted, bitstream)
        raise reference_lost(f"it is more than {MAX_GROUP} frames after its key frame")

    # -- decoding --------------------------------------------------------------------------------

    async def _decode(
        self,
        sequence: int,
        bitstreams: Sequence[Bitstream],
        before: Sequence[Held | None],
        threads: Executor,
    ) -> tuple[Values, list[Held]]:
        """Decode the bitstreams that have a reference, each upon its own."""
        for one in before:
            if one is not None and one.length >= MAX_GROUP:
                raise reference_lost(
                    f"its group of pictures has {MAX_GROUP} frames, which is the most"
                )
        try:
            return await _in(threads, self._decode_now, sequence, bitstreams, before)
        except FeatherwireError:
            raise
        except Exception as error:  # noqa: BLE001  # a codec may raise anything; it fails one frame
            structlog.get_logger().error("decoding_failed", exc_info=error)
            raise FeatherwireError(
                "internal_error", f"a predicted frame could not be decoded: {type(error).__name__}"
            ) from None

    def _decode_now(
        self, sequence: int, bitstreams: Sequence[Bitstream], before: Sequence[Held | None]
    ) -> tuple[Values, list[Held]]:
        decoded: list[Decoded | None] = []
        held: list[Held] = []
        same = True
        for bitstream, reference in zip(bitstreams, before, strict=True):
            if reference is None:
                decoded.append(None)
                held.append(Held(sequence, 1, bitstream=bitstream))
                same = False
                continue
            codec = self._codec(bitstream.bundle_id)
            latents = codec.decode(bitstream, reference=_latents_of(codec, reference))
            packed = codec.pack(latents)
            same = same and packed == reference.packed
            decoded.append(Decoded(latents, codec, packed))
            held.append(Held(reference.group, reference.length + 1, packed))
        refers_to = tuple({_referred(sequence, one) for one in bitstreams if one.reference})
        return Values(
            tuple(decoded),
            min(one.group for one in held),
            refers_to,
            refers_to[0] if same and self._compare and len(refers_to) == 1 else None,
            max(one.length for one in held),
        ), held

    def _codec(self, bundle_id: bytes) -> CloudCodec[Any]:
        """The bundle's codec, opened once. Raises ``BundleError("bundle_mismatch")``."""
        codec = self._codecs.get(bundle_id)
        if codec is None:
            codec = self._codecs[bundle_id] = open_cloud(self._bundles.of(bundle_id))
        return codec

    # -- memory ----------------------------------------------------------------------------------

    def _keep(self, owner: Owner, sequence: int, held: Held) -> None:
        """Keep a frame that came; one that was there stays, for it is the one that is logged."""
        if self._newest.get(owner, sequence) is None and self._bundles.serves(owner[1]):
            self._note(self._newest, owner, sequence, held)

    def _in_memory(self, owner: Owner, sequence: int) -> Held | None:
        return self._newest.get(owner, sequence) or self._read.get(owner, sequence)

    def _known(
        self, sequence: int, bitstreams: Sequence[Bitstream], held: Sequence[Held]
    ) -> Values:
        """The values of a frame that is in memory, with the codecs that decoded it."""
        decoded = [
            Decoded(codec=self._codec(bitstream.bundle_id), packed=one.packed)
            for bitstream, one in zip(bitstreams, held, strict=True)
        ]
        return Values(tuple(decoded), min(one.group for one in held))

    @staticmethod
    def _note(cache: OwnedCache[Held], owner: Owner, sequence: int, held: Held) -> None:
        cache.put(owner, sequence, held, held.size_bytes)


async def _in(threads: Executor, work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)


def reference_lost(why: str) -> BitstreamError:
    """What is wrong with a predicted frame whose reference this server does not have."""
    return BitstreamError(
        "reference_lost",
        f"the frame that it is predicted from cannot be had: {why}; a key frame is needed",
    )


def _referred(sequence: int, bitstream: Bitstream) -> int:
    """The frame that a predicted one refers to. Raises ``reference_lost`` for none."""
    assert bitstream.reference is not None, "asked of predicted frames alone"
    wanted = sequence - bitstream.reference.distance
    if wanted < 1:
        raise reference_lost(f"frame {sequence} has none {bitstream.reference.distance} before it")
    return wanted


def _latents_of(codec: CloudCodec[Any], held: Held) -> Latents:
    """The values of a reference, decoded now where it is a key frame that was not yet."""
    latents: Latents
    if held.packed:
        latents = codec.unpack(held.packed)
        return latents
    assert held.bitstream is not None, "a key frame"
    try:
        latents = codec.decode(held.bitstream)
    except FeatherwireError as error:
        raise reference_lost(f"it cannot be decoded: {error.message}") from None
    held.packed = codec.pack(latents)
    return latents


def _of_bundle(message: bytes, bundle_id: bytes, limits: Limits) -> Bitstream | None:
    """A stored frame's bitstream of that bundle; None where it has none."""
    frame = parse_frame(ingest_pb2.Frame.FromString(message), limits)
    return next((one for one in frame.bitstreams if one.bundle_id == bundle_id), None)
