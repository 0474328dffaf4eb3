"""Weights by name: from a local folder, else from the cache; fetched only when asked.

    models_dirs (read only)  ─┐
    cache_dir (what fetch writes) ─┴─▶ path(name): a file whose SHA-256 is the catalogue's

A file appears in the cache by one atomic rename after its hash was checked, so that processes
that fetch the same model at the same time, or are killed while they do, leave no half file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from shared.errors import ModelError
from shared.weights.catalogue import CATALOGUE, ModelEntry, PackageSource, UrlSource
from shared.weights.containers import to_safetensors
from shared.weights.convert import CONVERTERS
from shared.weights.download import (
    copy_member,
    copy_url,
    download_archive,
    file_sha256,
    read_member,
)

CACHE_VARIABLE = "FEATHERWIRE_MODELS"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model and its file here; ``state`` is ``missing`` when there is none."""

    name: str
    state: Literal["cached", "local", "missing", "invalid"]
    path: str | None
    file_bytes: int
    sha256: str
    version: str
    licence: str
    source: str
    purpose: str
    default: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ModelStore:
    """The models of a catalogue, in ``cache_dir`` and in the folders searched before it.

    ``cache_dir`` is by default ``$FEATHERWIRE_MODELS``, else ``~/.cache/featherwire/models``.
    In ``models_dirs`` a file may lie at ``NAME/FILE`` or at ``FILE``.
    """

    def __init__(
        self,
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        models_dirs: Sequence[str | os.PathLike[str]] = (),
        catalogue: Iterable[ModelEntry] = CATALOGUE,
    ) -> None:
        self.cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self.models_dirs = tuple(Path(folder) for folder in models_dirs)
        self._entries = {entry.name: entry for entry in catalogue}
        self._verified: dict[Path, tuple[int, int, int]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    @property
    def default_names(self) -> tuple[str, ...]:
        """What the built-in tasks need."""
        return tuple(entry.name for entry in self._entries.values() if entry.default)

    def entry(self, name: str) -> ModelEntry:
        """The catalogue's entry. Raises ModelError(``unknown_model``)."""
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries))
            raise ModelError("unknown_model", f"no model {name!r}; known are {known}") from None

    def path(self, name: str) -> Path:
        """The verified file of a model. Never downloads.

        Raises ModelError: ``unknown_model``, ``weights_missing``, or ``weights_invalid`` for a
        file whose hash is not the catalogue's.
        """
        entry = self.entry(name)
        present = [path for path in self._candidates(entry) if path.is_file()]
        for path in present:
            if self._is_valid(path, entry):
                return path
        command = f"featherwire-cloud models fetch {name}"
        if present:
            raise ModelError(
                "weights_invalid",
                f"{present[0]} is not the file that the catalogue means by {name!r} "
                f"(its SHA-256 should be {entry.sha256})",
                command=command,
                model=name,
            )
        raise ModelError(
            "weights_missing", f"the weights of {name!r} are not here", command=command, model=name
        )

    def fetch(self, *names: str, report: Callable[[str], None] | None = None) -> dict[str, Path]:
        """Make the named models (none: the default set) present; their verified paths.

        An archive that holds several of them is downloaded once. ``report`` is called with a line
        about each step. Raises ModelError: ``unknown_model``, ``no_pip``,
        ``download_failed``, ``hash_mismatch``, ``damaged``, ``too_large``, ``cache_unusable``.
        """
        wanted = [self.entry(name) for name in names or self.default_names]
        missing = [entry for entry in wanted if not self._is_here(entry)]
        by_source: dict[str, list[ModelEntry]] = {}
        for entry in missing:
            by_source.setdefault(_archive_key(entry), []).append(entry)
        for entries in by_source.values():
            try:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                self._fetch_together(entries, report or (lambda _: None))
            except OSError as error:
                raise ModelError(
                    "cache_unusable", f"cannot write the models to {self.cache_dir}: {error}"
                ) from error
        return {entry.name: self.path(entry.name) for entry in wanted}

    def list(self) -> Sequence[ModelStatus]:
        """Every model of the catalogue; sizes are looked at, hashes are not."""
        return [self._status(entry, check_hash=False) for entry in self._entries.values()]

    def verify(self, *names: str) -> Sequence[ModelStatus]:
        """The named models (none: the default set and whatever is here), hashed anew."""
        if names:
            chosen = [self.entry(name) for name in names]
        else:
            chosen = [
                entry
                for entry in self._entries.values()
                if entry.default or any(path.is_file() for path in self._candidates(entry))
            ]
        return [self._status(entry, check_hash=True) for entry in chosen]

    def _candidates(self, entry: ModelEntry) -> Sequence[Path]:
        places = [folder / entry.name / entry.file for folder in self.models_dirs]
        places += [folder / entry.file for folder in self.models_dirs]
        return [*places, self.cache_dir / entry.name / entry.file]

    def _is_here(self, entry: ModelEntry) -> bool:
        return any(
            path.is_file() and self._is_valid(path, entry) for path in self._candidates(entry)
        )

    def _is_valid(self, path: Path, entry: ModelEntry) -> bool:
        """Whether the file has the entry's hash; hashed again only after the file changed."""
        try:
            stat = path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._verified.get(path) == seen:
                return True
            if stat.st_size != entry.file_bytes or file_sha256(path) != entry.sha256:
                return False
        except OSError:
            return False
        self._verified[path] = seen
        return True

    def _status(self, entry: ModelEntry, *, check_hash: bool) -> ModelStatus:
        state: Literal["cached", "local", "missing", "invalid"] = "missing"
        found: Path | None = None
        if check_hash:
            self._verified.clear()
        for path in self._candidates(entry):
            if not path.is_file():
                continue
            sized = path.stat().st_size == entry.file_bytes
            if self._is_valid(path, entry) if check_hash else sized:
                found = path
                state = "cached" if path.is_relative_to(self.cache_dir) else "local"
                break
            found, state = found or path, "invalid"
        return ModelStatus(
            name=entry.name,
            state=state,
            path=None if found is None else str(found),
            file_bytes=entry.file_bytes,
            sha256=entry.sha256,
            version=entry.version,
            licence=entry.licence,
            source=str(entry.source),
            purpose=entry.purpose,
            default=entry.default,
        )

    def _fetch_together(self, entries: Sequence[ModelEntry], report: Callable[[str], None]) -> None:
        """Fetch entries that come out of one archive (or the one file of a URL)."""
        with tempfile.TemporaryDirectory(dir=self.cache_dir, prefix=".fetch-") as name:
            folder = Path(name)
            source = entries[0].source
            if isinstance(source, UrlSource):
                report(f"downloading {source.url}")
                for entry in entries:
                    self._install(entry, folder, None)
                return
            report(f"downloading {source.requirement}")
            archive = download_archive(source, folder)
            for entry in entries:
                report(f"taking {entry.name} out of {source.requirement}")
                self._install(entry, folder, archive)

    def _install(self, entry: ModelEntry, folder: Path, archive: Path | None) -> None:
        incoming = folder / f"{entry.name}.incoming"
        with incoming.open("wb") as stream:
            digest = _receive(entry, archive, stream)
        if digest != entry.incoming_sha256:
            raise ModelError(
                "hash_mismatch",
                f"{entry.source} has the SHA-256 {digest}, not {entry.incoming_sha256}",
                model=entry.name,
            )
        if entry.converter is not None:
            convert = CONVERTERS.get(entry.converter)
            if convert is None:
                raise ModelError("unknown_converter", f"no converter {entry.converter!r}")
            incoming.write_bytes(to_safetensors(convert(incoming.read_bytes())))
            if file_sha256(incoming) != entry.sha256:
                raise ModelError(
                    "hash_mismatch", f"{entry.name} came out of its conversion with another hash"
                )
        target = self.cache_dir / entry.name / entry.file
        target.parent.mkdir(parents=True, exist_ok=True)
        notice = folder / f"{entry.name}.notice"
        notice.write_text(_notice(entry, archive), encoding="utf-8")
        os.replace(notice, target.with_name("NOTICE.txt"))
        os.replace(incoming, target)


def default_cache_dir() -> Path:
    """``$FEATHERWIRE_MODELS``, else ``~/.cache/featherwire/models``."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache/featherwire/models"


def _receive(entry: ModelEntry, archive: Path | None, stream: IO[bytes]) -> str:
    if isinstance(entry.source, UrlSource):
        return copy_url(entry.source.url, stream, max_bytes=entry.incoming_bytes)
    assert archive is not None
    return copy_member(archive, entry.source.member, stream, max_bytes=entry.incoming_bytes)


def _archive_key(entry: ModelEntry) -> str:
    if isinstance(entry.source, PackageSource):
        return entry.source.archive_sha256
    return entry.source.url


def _notice(entry: ModelEntry, archive: Path | None) -> str:
    text = (
        f"{entry.file}: {entry.purpose}\n{entry.notice}\n"
        f"Licence of the weights: {entry.licence}\nSource: {entry.source}\n"
        f"SHA-256: {entry.sha256}\n"
    )
    if entry.converter is not None:
        text += f"Converted ({entry.converter}) from a file of SHA-256 {entry.source_sha256}\n"
    source = entry.source
    if isinstance(source, PackageSource) and source.licence_member and archive is not None:
        licence = read_member(archive, source.licence_member).decode("utf-8", "replace")
        text += f"\nLicence file of {source.requirement}:\n\n{licence}"
    return text
