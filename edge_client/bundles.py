"""The bundles that a device has: given, packaged, kept in a folder, or fetched from a server.

What a server hands over is kept in a folder, and a transfer that was cut goes on where it was:

    ID.zip                complete, and checked when it is opened
    ID-SHA256.part        what has come of a zip with that sum

Several processes may share the folder: one at a time writes a part.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO

from shared.bundle import Bundle, packaged_bundle_of
from shared.errors import BundleError, SessionError
from shared.files import try_lock
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import bundles_pb2, bundles_pb2_grpc
from shared.rpc.channel import Channel
from shared.rpc.errors import CallError, error_from_call

BundleSource = Bundle | str | Path
"""A bundle, or the folder, zip or name that one is loaded from."""

CACHE_VARIABLE = "FEATHERWIRE_BUNDLE_CACHE"
CACHE_BYTES = 1 << 30
"""Of all bundles and parts in the folder; those used longest ago go first."""

_ID_DIGITS = frozenset("0123456789abcdef")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def default_cache_dir() -> Path:
    """Where fetched bundles are kept: FEATHERWIRE_BUNDLE_CACHE, or the user's cache folder."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "featherwire" / "bundles"


class DeviceBundles:
    """What a device was given, and what else it can have without asking, or from its server."""

    def __init__(
        self,
        server: str,
        first: BundleSource | None,
        also: Iterable[BundleSource],
        cache: BundleCache,
    ) -> None:
        """They are loaded when they are first needed, which raises ``BundleError``."""
        self._server = server
        self._first = first
        self._also = tuple(also)
        self._cache = cache
        self._found: dict[bytes, Bundle | None] = {}

    @cached_property
    def first(self) -> Bundle | None:
        """The bundle that was given; None leaves it to the server."""
        return None if self._first is None else _load(self._first)

    @cached_property
    def also(self) -> tuple[Bundle, ...]:
        """Further bundles that were given."""
        return tuple(map(_load, self._also))

    @cached_property
    def named(self) -> dict[str, Bundle]:
        """Those of ``also`` that were given by name, by that."""
        pairs = zip(self._also, self.also, strict=True)
        return {str(source): found for source, found in pairs if not isinstance(source, Bundle)}

    def at_hand(self, bundle_id: str) -> Bundle | None:
        """The bundle of that id, if no server need be asked for it."""
        for bundle in (self.first, *self.also):
            if bundle is not None and bundle.id == bundle_id:
                return bundle
        return _packaged(bundle_id) or self._cache.find(bundle_id)

    def of_short_id(self, short_id: bytes) -> Bundle | None:
        """The bundle of a frame that was made before, if it is at hand; by the first eight bytes of
        its id, or the fewer of a file."""
        if short_id not in self._found:
            digits = short_id.hex()
            self._found[short_id] = next(
                (
                    one
                    for one in (self.first, *self.also)
                    if one and short_id and one.short_id.startswith(short_id)
                ),
                None,
            ) or (packaged_bundle_of(short_id) or (self._cache.find(digits) if digits else None))
        return self._found[short_id]

    def obtain(self, channel: Channel, bundle_id: str, *, must_keep: bool = True) -> Bundle:
        """The bundle of that id, at hand or fetched; raises as ``BundleCache.obtain`` does."""
        return self.at_hand(bundle_id) or self._cache.obtain(
            channel, self._server, bundle_id, must_keep=must_keep
        )


class BundleCache:
    """A folder of bundles, of at most ``max_bytes``. Thread-safe."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        max_bytes: int = CACHE_BYTES,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """folder: the user's cache folder when None; it is made when it is first needed."""
        self.folder = folder or default_cache_dir()
        self._max_bytes = max_bytes
        self._limits = limits
        self._lock = threading.Lock()

    def find(self, bundle_id: str) -> Bundle | None:
        """The bundle of that id (or of the id that begins so), where it is here and sound."""
        if not bundle_id or not set(bundle_id) <= _ID_DIGITS:
            return None
        for path in sorted(self.folder.glob(f"{bundle_id}*.zip")):
            with suppress(BundleError, OSError):
                found = Bundle.load(path, limits=self._limits)
                if found.id == path.stem:
                    with suppress(OSError):
                        os.utime(path)
                    return found
        return None

    def obtain(
        self,
        channel: Channel,
        server: str,
        bundle_id: str,
        *,
        must_keep: bool = False,
        timeout_s: float = 300.0,
    ) -> Bundle:
        """The bundle from the folder, or from the server.

        must_keep: the bundle is on the disk when this returns; otherwise a full or read-only disk
        costs no more than the cache. timeout_s: of one call; one that brought something is
        followed by another. Raises ``BundleError``: forged_bundle and bad_transfer for what is not
        what was announced, limit_exceeded, bad_zip, disk_full, io_error; the server's own error
        (not_found); and ``SessionError`` when the transfer was cut, of which what came is kept.
        """
        found = self.find(bundle_id)
        if found is not None:
            return found
        with self._lock, self._part(bundle_id, must_keep=must_keep) as part:
            transfer = _Transfer(channel, server, bundle_id, self._limits)
            data = transfer.run(part, timeout_s)
            bundle = Bundle.from_zip_bytes(data, limits=self._limits, origin=f"server {server}")
            if bundle.id != bundle_id:
                raise BundleError(
                    "forged_bundle",
                    f"the server named bundle {bundle_id} but handed over {bundle.id}",
                )
            part.complete(self.folder / f"{bundle_id}.zip")
            self._make_room(keep=bundle_id)
            return bundle

    @contextmanager
    def _part(self, bundle_id: str, *, must_keep: bool) -> Iterator[_Part]:
        part = _Part(self.folder, bundle_id, must_keep=must_keep)
        try:
            yield part
        except BundleError:
            part.discard()  # what is wrong now will not be right later
            raise
        finally:
            part.close()

    def _make_room(self, keep: str) -> None:
        """Delete what was used longest ago until the rest fits."""
        found = []
        for path in (*self.folder.glob("*.zip"), *self.folder.glob("*.part")):
            with suppress(OSError):
                facts = path.stat()
                found.append((path.stem == keep, facts.st_mtime, facts.st_size, path))
        total = sum(size for _, _, size, _ in found)
        for kept, _, size, path in sorted(found, key=lambda one: one[:2]):
            if total <= self._max_bytes or kept:
                return
            with suppress(OSError):
                path.unlink()
            total -= size


class _Part:
    """What has come of a zip, in memory and in a file that a later process goes on with."""

    def __init__(self, folder: Path, bundle_id: str, *, must_keep: bool) -> None:
        self._folder, self._id, self._must_keep = folder, bundle_id, must_keep
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self.sha256 = ""
        self.data = bytearray()
        self._kept(self._resume)

    def begin(self, sha256: str) -> None:
        """Nothing has come yet of the zip with this sum."""
        self.discard()
        self.sha256 = sha256
        self._kept(self._create)

    def append(self, chunk: bytes) -> None:
        """More of it; it is with the system when this returns, so that a kill does not lose it."""
        self.data += chunk
        if self._file is not None:
            self._kept(lambda: self._write(chunk))

    def complete(self, target: Path) -> None:
        """All of it is here, and right."""

        def move() -> None:
            assert self._file is not None
            assert self._path is not None
            os.fsync(self._file.fileno())
            os.replace(self._path, target)
            self._path = None

        if self._file is not None:
            self._kept(move)

    def discard(self) -> None:
        """Forget what has come."""
        self.close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
        self._path = None
        self.sha256 = ""
        self.data.clear()

    def close(self) -> None:
        """Let the file go; it stays where it is."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _resume(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder.glob(f"{self._id}-*.part"), key=_size, reverse=True):
            if self._file is None and self._open(path, "r+b"):
                assert self._file is not None
                self.data += self._file.read()
                self.sha256 = path.stem.partition("-")[2]
                return

    def _create(self) -> None:
        self._open(self._folder / f"{self._id}-{self.sha256}.part", "w+b")

    def _open(self, path: Path, mode: str) -> bool:
        """Open and lock; False when another process is at it, which then keeps the bundle."""
        found = mode == "r+b" or path.exists()
        file: IO[bytes] = open(path, "r+b" if found else mode)  # noqa: SIM115  close() closes it
        if not try_lock(file.fileno()):
            file.close()
            return False
        if mode != "r+b":
            file.truncate(0)
        self._file, self._path = file, path
        return True

    def _write(self, chunk: bytes) -> None:
        assert self._file is not None
        self._file.write(chunk)
        self._file.flush()

    def _kept(self, work: Callable[[], None]) -> None:
        """Do something to the file; a disk that fails ends the transfer, or only the keeping."""
        try:
            work()
        except OSError as error:
            if self._must_keep:
                reason = "disk_full" if error.errno in _FULL else "io_error"
                raise BundleError(
                    reason, f"cannot keep bundle {self._id} in {self._folder}: {error.strerror}"
                ) from None
            path, data, sha256 = self._path, bytes(self.data), self.sha256
            self.close()
            if path is not None:
                with suppress(OSError):
                    path.unlink()
            self._path, self.data, self.sha256 = None, bytearray(data), sha256


class _Transfer:
    """Brings a zip from a server, from the offset up to which it is here."""

    def __init__(self, channel: Channel, server: str, bundle_id: str, limits: Limits) -> None:
        self._stub = bundles_pb2_grpc.BundleServiceStub(channel)
        self._server, self._id, self._limits = server, bundle_id, limits

    def run(self, part: _Part, timeout_s: float) -> bytes:
        """The whole zip, as it was announced."""
        resumed = len(part.data)
        while True:
            before = len(part.data)
            try:
                info = self._call(part, timeout_s)
            except SessionError as error:
                if error.reason != "deadline_exceeded" or len(part.data) <= before:
                    raise
                continue
            except BundleError as error:
                if error.reason not in {"bad_offset", "another_zip"}:
                    raise
                part.discard()
                resumed = 0
                continue
            if hashlib.sha256(part.data).hexdigest() == info.zip_sha256:
                return bytes(part.data)
            if not resumed:
                raise BundleError("bad_transfer", "the bundle arrived damaged")
            part.discard()  # a power cut may have damaged what was there
            resumed = 0

    def _call(self, part: _Part, timeout_s: float) -> bundles_pb2.BundleInfo:
        info: bundles_pb2.BundleInfo | None = None
        request = bundles_pb2.GetBundleRequest(bundle_id=self._id, offset_bytes=len(part.data))
        call = self._stub.GetBundle(request, timeout=timeout_s)
        try:
            for chunk in call:
                if info is None:
                    info = chunk.info
                    self._check(info, part)
                if (
                    chunk.offset_bytes != len(part.data)
                    or len(part.data) + len(chunk.data) > info.zip_bytes
                ):
                    raise BundleError("bad_transfer", "the server's chunks do not fit together")
                part.append(chunk.data)
        except CallError as error:
            raise error_from_call(error, self._server) from None
        finally:
            call.cancel()
        if info is None:
            if part.data and part.sha256:  # all of it was here
                return bundles_pb2.BundleInfo(zip_sha256=part.sha256)
            raise BundleError("bad_transfer", "the server handed over nothing")
        if len(part.data) < info.zip_bytes:
            raise BundleError("bad_transfer", "the server ended the transfer early")
        return info

    def _check(self, info: bundles_pb2.BundleInfo, part: _Part) -> None:
        if not 0 < info.zip_bytes <= self._limits.max_bundle_bytes:
            raise BundleError("limit_exceeded", f"the zip has {info.zip_bytes} bytes")
        if len(info.zip_sha256) != 64 or not set(info.zip_sha256) <= _ID_DIGITS:
            raise BundleError("bad_transfer", "the server announced no sum")
        if part.sha256 != info.zip_sha256:
            if part.data:
                raise BundleError("another_zip", "the server's zip is not the one that was begun")
            part.begin(info.zip_sha256)


def _packaged(bundle_id: str) -> Bundle | None:
    """The bundle of that id, where it comes with Featherwire and is not damaged."""
    with suppress(BundleError, ValueError):
        found = packaged_bundle_of(bytes.fromhex(bundle_id[:16]))
        return found if found is not None and found.id == bundle_id else None
    return None


def _load(source: BundleSource) -> Bundle:
    return source if isinstance(source, Bundle) else Bundle.load(source)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
