"""Loading, checking and packing bundles."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from shared.bundle.advice import ADVICE_NAME, MAX_ADVICE_BYTES, NO_ADVICE, Advice
from shared.bundle.manifest import BundleFile, Manifest, Side
from shared.errors import BundleError
from shared.limits import DEFAULT_LIMITS, Limits

MANIFEST_NAME = "manifest.json"
PACKAGED_FOLDER: Final = Path(__file__).resolve().parent.parent / "bundles"
DEFAULT_NAME: Final = "picture"
_MAX_MANIFEST_BYTES = 2**20
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


class _Files(Protocol):
    """Where a bundle's files come from."""

    def read(self, name: str, limit: int) -> bytes:
        """The file's bytes; BundleError ``missing_file`` or ``limit_exceeded``."""


class Bundle:
    """A manifest and the files it names. Every file's hash is checked when it is read."""

    def __init__(self, manifest: Manifest, files: _Files, origin: str) -> None:
        """Use :meth:`load`, :meth:`from_zip_bytes` or :meth:`create`."""
        self.manifest = manifest
        self.origin = origin
        self.id = manifest.id
        self._files = files

    @property
    def short_id(self) -> bytes:
        """The first eight bytes of the id, as .fwf files carry it."""
        return bytes.fromhex(self.id[:16])

    @cached_property
    def advice(self) -> Advice:
        """How the bundle is best used: nothing said, where it has no advice.json.

        Raises BundleError ``bad_advice``, ``limit_exceeded``.
        """
        try:
            data = self._files.read(ADVICE_NAME, MAX_ADVICE_BYTES)
        except BundleError as error:
            if error.reason != "missing_file":
                raise
            return NO_ADVICE
        return self._fitting(data)

    def advised(self, advice: Advice) -> Bundle:
        """The same bundle with other advice, which nobody writes yet. Raises BundleError
        ``bad_advice`` where that does not fit."""
        made = Bundle(self.manifest, self._files, self.origin)
        made.advice = self._fitting(advice.to_bytes())
        return made

    def _fitting(self, advice: bytes) -> Advice:
        decoders = [one.name for one in self.manifest.pictures if not one.generated]
        return Advice.parse(advice, len(self.manifest.states), decoders)

    @classmethod
    def load(cls, source: str | Path | None = None, *, limits: Limits = DEFAULT_LIMITS) -> Bundle:
        """Open a folder or a zip; ``None`` is the picture bundle that comes with Featherwire.

        Raises BundleError: ``not_found``, ``missing_file``, ``bad_manifest``, ``bad_zip``,
        ``limit_exceeded``. A word without a path separator names a bundle that comes with
        Featherwire.
        """
        path = _resolve(source)
        if path.is_dir():
            return cls._open(_Folder(path), str(path))
        if path.is_file():
            if path.stat().st_size > limits.max_bundle_bytes:
                raise BundleError("limit_exceeded", f"{path} is larger than a bundle may be")
            return cls.from_zip_bytes(path.read_bytes(), limits=limits, origin=str(path))
        raise BundleError("not_found", f"there is no bundle at {path}")

    @classmethod
    def from_zip_bytes(
        cls, data: bytes, *, limits: Limits = DEFAULT_LIMITS, origin: str = "zip"
    ) -> Bundle:
        """Open a zipped bundle held in memory. Raises BundleError as :meth:`load` does."""
        if len(data) > limits.max_bundle_bytes:
            raise BundleError("limit_exceeded", "the zip is larger than a bundle may be")
        return cls._open(_Zip(data, limits), origin)

    @classmethod
    def create(
        cls,
        folder: Path,
        manifest: Manifest,
        files: Mapping[str, bytes],
        sides: Mapping[str, Side] | None = None,
    ) -> Bundle:
        """Write a bundle into ``folder``; ``manifest.files`` is filled in from ``files``.

        sides: who needs a file, by name; as in ``manifest.files`` where that knows it, else both.
        """
        folder.mkdir(parents=True, exist_ok=True)
        known: dict[str, Side] = {name: entry.side for name, entry in manifest.files.items()}
        known |= sides or {}
        entries = {
            name: BundleFile(
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                side=known.get(name, "both"),
            )
            for name, data in files.items()
        }
        complete = Manifest.model_validate({**manifest.model_dump(), "files": entries})
        for name, data in files.items():
            (folder / name).write_bytes(data)
        text = json.dumps(complete.to_values(), indent=1, sort_keys=True)
        (folder / MANIFEST_NAME).write_text(text + "\n")
        return cls(complete, _Folder(folder), str(folder))

    def read(self, name: str) -> bytes:
        """A file of the bundle. Raises BundleError ``missing_file`` or ``hash_mismatch``."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError("missing_file", f"bundle {self.manifest.name} has no file {name}")
        data = self._files.read(name, entry.size_bytes)
        if len(data) != entry.size_bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(
                "hash_mismatch", f"{name} of bundle {self.manifest.name} is not what it should be"
            )
        return data

    def read_arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """An .npz file's arrays, never pickled ones. Raises BundleError ``bad_arrays``."""
        data = self.read(name)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
            raise BundleError("bad_arrays", f"{name}: {error}") from None

    def verify(self) -> None:
        """Read every file once. Raises what :meth:`read` and :attr:`advice` raise."""
        _ = self.advice
        for name in self.manifest.files:
            self.read(name)

    def to_zip(self, side: Side = "both") -> bytes:
        """The bundle as one zip, the same bytes every time; for one side, what that side needs.

        (A device needs no decoder weights; the manifest, and so the id, stay the same.)
        """
        advice = self.advice.for_edge() if side == "edge" else self.advice
        others = {"edge": "cloud", "cloud": "edge", "both": None}[side]
        names = [n for n, entry in self.manifest.files.items() if entry.side != others]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            manifest = json.dumps(self.manifest.to_values(), sort_keys=True)
            contents = {MANIFEST_NAME: manifest.encode()}
            if advice != NO_ADVICE:
                contents[ADVICE_NAME] = advice.to_bytes()
            contents |= {name: self.read(name) for name in sorted(names)}
            for name, data in contents.items():
                archive.writestr(zipfile.ZipInfo(name, _FIXED_DATE), data)
        return buffer.getvalue()

    @classmethod
    def _open(cls, files: _Files, origin: str) -> Bundle:
        manifest = Manifest.parse(files.read(MANIFEST_NAME, _MAX_MANIFEST_BYTES))
        return cls(manifest, files, origin)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, limit: int) -> bytes:
        path = self._path / name
        if not path.is_file():
            raise BundleError("missing_file", f"{path} is missing")
        if path.stat().st_size > limit:
            raise BundleError("limit_exceeded", f"{path} is larger than {limit} bytes")
        return path.read_bytes()


class _Zip:
    def __init__(self, data: bytes, limits: Limits) -> None:
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
            entries = self._archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            raise BundleError("bad_zip", f"this is no readable zip: {error}") from None
        if len(entries) > 256 or sum(e.file_size for e in entries) > limits.max_bundle_bytes:
            raise BundleError("limit_exceeded", "the zip unpacks to more than a bundle may hold")
        self._sizes = {entry.filename: entry.file_size for entry in entries}

    def read(self, name: str, limit: int) -> bytes:
        if name not in self._sizes:
            raise BundleError("missing_file", f"the zip has no {name}")
        if self._sizes[name] > limit:
            raise BundleError("limit_exceeded", f"{name} is larger than {limit} bytes")
        try:
            with self._archive.open(name) as file:
                return file.read(limit + 1)
        except Exception as error:  # noqa: BLE001  zipfile raises what its decompressors do
            raise BundleError("bad_zip", f"{name}: {error}") from None


def _resolve(source: str | Path | None) -> Path:
    if source is None:
        return PACKAGED_FOLDER / DEFAULT_NAME
    if isinstance(source, str) and source.replace("-", "").isalnum() and not Path(source).exists():
        if (PACKAGED_FOLDER / source).is_dir():
            return PACKAGED_FOLDER / source
        known = ", ".join(packaged_names())
        raise BundleError("not_found", f"there is no bundle {source!r}; there is: {known}")
    return Path(source)


# -- bundles that come with Featherwire ------------------------------------------------------------


def packaged_names() -> tuple[str, ...]:
    """Names of the bundles that come with Featherwire."""
    return tuple(sorted(path.parent.name for path in PACKAGED_FOLDER.glob("*/manifest.json")))


def packaged_bundle_of(short_id: bytes) -> Bundle | None:
    """The packaged bundle with which a bitstream was made, by the first bytes of its id: eight, or
    as many as the file has."""
    for found, name in _short_ids().items():
        if short_id and found.startswith(short_id):
            return Bundle.load(PACKAGED_FOLDER / name)
    return None


def bundle_for(short_id: bytes, given: Bundle | None = None) -> Bundle:
    """What to open a bitstream with: the given bundle, the packaged one that wrote it, or the
    default one, whose codec says that the bitstream is not its own. Raises BundleError."""
    return given or packaged_bundle_of(short_id) or Bundle.load()


@cache
def _short_ids() -> dict[bytes, str]:
    found = {}
    for name in packaged_names():
        try:
            found[Bundle.load(PACKAGED_FOLDER / name).short_id] = name
        except BundleError:  # its own command says what is wrong with it
            continue
    return found
