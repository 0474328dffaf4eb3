"""What is installed: the release, and libraries that only an extra brings."""

from __future__ import annotations

import json
import os
import shlex
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

PROJECT = "featherwire"
NO_RELEASE = "0"


def package_version() -> str:
    """The release that is installed; ``NO_RELEASE`` when it runs from a source tree."""
    found = _distribution()
    return NO_RELEASE if found is None else found.version


def install_command(*extras: str, again: bool = False) -> str:
    """A command that gets extras for this Python, from where this was installed from: a checkout, a
    wheel, a repository, or else the package index.

    again: what is there already is installed once more.
    """
    where = _requirement(_distribution(), f"[{','.join(extras)}]" if extras else "")
    return f"{_pip()} install {'--force-reinstall ' if again else ''}{where}"


def _distribution() -> Distribution | None:
    from importlib import metadata  # it takes as long to import as half of a command's help

    try:
        return metadata.distribution(PROJECT)
    except metadata.PackageNotFoundError:
        return None


def _pip() -> str:
    active = os.environ.get("VIRTUAL_ENV")
    if active and Path(active) == Path(sys.prefix):
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"


def _requirement(found: Distribution | None, extras: str) -> str:
    """What pip is given, quoted for a shell."""
    checkout = Path(__file__).resolve().parents[1]
    if found is None and (checkout / "pyproject.toml").is_file():
        return shlex.quote(f"{_folder(checkout)}{extras}")
    origin = json.loads((found and found.read_text("direct_url.json")) or "{}")
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        at = f"{vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', '')}".rstrip("@")
        return shlex.quote(f"{PROJECT}{extras} @ {at}")
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    if path is not None and path.exists():
        text = shlex.quote(f"{_folder(path)}{extras}")
        return f"-e {text}" if origin.get("dir_info", {}).get("editable") else text
    return shlex.quote(f"{PROJECT}{extras}")


def _folder(path: Path) -> str:
    return "." if path == Path.cwd() else str(path)


def require(module: str, extra: str, what: str, error: type[FeatherwireError]) -> ModuleType:
    """The module. Raises ``error`` with the reason ``missing_extra``.

    what: for which it is needed, such as ``"RTSP"``.
    """
    try:
        return import_module(module)
    except ImportError as missing:
        raise error(
            "missing_extra",
            f"{what} needs the extra {extra}; get it with: {install_command(extra)} ({missing})",
            extra=extra,
        ) from None
