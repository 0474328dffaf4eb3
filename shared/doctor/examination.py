"""All checks, in their order, and the report of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.bundle.bundle import PACKAGED_FOLDER
from shared.doctor.finding import Finding, Role
from shared.doctor.install import Installed, check_packages, check_python, roles_of
from shared.doctor.machine import (
    Folder,
    check_clock,
    check_folders,
    check_ports,
    check_programs,
)
from shared.doctor.runtime import check_runtimes
from shared.doctor.stored import check_bundles, check_weights
from shared.weights import ModelStore


@dataclass(frozen=True, slots=True)
class Places:
    """Folders to look at in place of the default ones; None is the default, or none at all."""

    data: Path | None = None
    spool: Path | None = None
    bundles: Path = PACKAGED_FOLDER
    models: tuple[Path, ...] = ()  # searched before the model store's cache

    def folders(self) -> list[Folder]:
        """What is written to, and by which role."""
        home = Path.home()
        share = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
        fetched = os.environ.get("FEATHERWIRE_BUNDLE_CACHE") or cache / "featherwire" / "bundles"
        found = [
            Folder("data folder", self.data or share / "featherwire", "--data", ("cloud",)),
            Folder(
                "fetched bundles", Path(fetched), "the variable FEATHERWIRE_BUNDLE_CACHE", ("edge",)
            ),
            Folder(
                "model store", ModelStore().cache_dir, "the variable FEATHERWIRE_MODELS", ("cloud",)
            ),
        ]
        if self.spool is not None:
            found.append(Folder("spool", self.spool, "--spool", ("edge",)))
        return found


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and for which roles it was judged."""

    release: str | None
    roles: tuple[Role, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that these roles need is missing or broken."""
        return all(finding.state != "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "version": self.release,
            "roles": list(self.roles),
            "healthy": self.healthy,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def examine(
    roles: Sequence[Role] | None = None,
    places: Places | None = None,
    *,
    installed: Installed | None = None,
) -> Report:
    """Check this installation and this machine; takes some seconds.

    roles: what it must be able to do; None: what its packages show it to be for.
    places: folders to look at; None: the default ones. installed: None is this environment.
    """
    environment = installed or Installed.here()
    wanted = tuple(roles) if roles is not None else roles_of(environment)
    chosen = places or Places()
    findings = (
        *check_python(),
        *check_packages(environment, wanted, others=roles is None),
        *check_runtimes(environment, wanted),
        *check_bundles(chosen.bundles),
        *_check_what_is_stored(chosen, wanted),
        *check_ports(),
        *check_clock(),
        *check_programs(),
    )
    return Report(environment.release, wanted, findings)


def _check_what_is_stored(places: Places, roles: Sequence[Role]) -> Iterator[Finding]:
    """Weights and folders, most of which are in the user's home by default."""
    try:
        store, folders = ModelStore(models_dirs=places.models), places.folders()
    except RuntimeError:
        found = "this user has none, and HOME is not set"
        yield Finding("disk", "home folder", "problem", found, "export HOME=/var/lib/featherwire")
        return
    yield from check_weights(store, roles)
    yield from check_folders(folders, roles)
