"""Checks of what pip installed: Python, the base packages, the extras, and packages that clash."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata

from shared.doctor.finding import Finding, Role
from shared.installation import PROJECT, install_command

AREA = "install"

PURPOSES: Mapping[str, str] = {
    "edge": "encoding photos on a device, and sending them",
    "gpu": "the same as edge, with the network on an NVIDIA GPU",
    "stream": "RTSP, video files and V4L2 cameras as sources",
    "mqtt": "results to an MQTT broker",
    "webhook": "results to signed webhooks",
    "cloud": "the server, and decoding",
    "cloud-gpu": "the same as cloud, with tails on an NVIDIA GPU",
    "tasks": "detection, segmentation and landmarks on pictures",
    "console": "the operator's console in a browser",
    "postgres": "the log of frames and results in PostgreSQL",
    "ray": "the engine on a Ray cluster",
    "telemetry": "OpenTelemetry traces",
    "ultralytics": "YOLO detectors and segmenters (AGPL-3.0)",
    "train": "training and measuring bundles",
    "jxl": "JPEG XL among the codecs that benchmarks compare with (GPL-3.0)",
    "demo": "the photos and the page of `make demo`",
    "docs": "building the documents",
    "dev": "tests and checks of the source code",
}
"""Extras by name, and what each is for."""

# Any one alternative of each group must be whole.
_NEEDS: Mapping[Role, Sequence[Sequence[str]]] = {
    "edge": (("edge", "gpu"),),
    "cloud": (("cloud", "cloud-gpu"), ("tasks",)),
    "train": (("train",),),
}
_MAY_WANT: Mapping[Role, frozenset[str]] = {
    "edge": frozenset({"edge", "gpu", "stream", "mqtt", "webhook", "telemetry"}),
    "cloud": frozenset(
        {
            *("cloud", "cloud-gpu", "tasks", "console", "postgres", "ray", "telemetry"),
            *("ultralytics", "mqtt", "webhook"),
        }
    ),
    "train": frozenset({"train", "jxl", "ultralytics"}),
}
_ALTERNATIVES = (("edge", "gpu"), ("cloud", "cloud-gpu"))  # at most one of each pair
# Packages that only an installation with this role has.
_SIGNS: Mapping[Role, Sequence[str]] = {
    "edge": ("onnxruntime", "onnxruntime-gpu"),
    "cloud": ("grpcio-health-checking", "diffusers"),
    "train": ("compressai",),
}
# Packages that put files in the same places, so that at most one of a row may be installed.
_CLASHES: Sequence[Sequence[str]] = (
    ("onnxruntime", "onnxruntime-gpu"),
    (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
)

_SHOWN = 6  # missing packages that are named

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$")
_EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")
_CLAUSE = re.compile(r"^(>=|<=|==|!=|>|<)\s*(.+)$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the project asks for: a package, its own extras, and the versions that are allowed."""

    name: str
    extras: tuple[str, ...]
    specifier: str

    def allows(self, version: str) -> bool:
        """Whether a version is allowed, by its release numbers alone."""
        return all(_holds(version, clause) for clause in self.specifier.split(",") if clause)


@dataclass(frozen=True, slots=True)
class Installed:
    """Packages of a Python environment. Names are canonical: lower case, with hyphens.

    release: Featherwire's version, None where it runs from a source tree without being installed.
    by_extra: its requirements by the extra that brings them; those of the base have the key "".
    """

    release: str | None
    by_extra: Mapping[str, Sequence[Requirement]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Installed:
        """The environment of this process."""
        versions = {
            canonical(name): found.version
            for found in metadata.distributions()
            if (name := found.metadata["Name"])
        }
        try:
            own = metadata.distribution(PROJECT)
        except metadata.PackageNotFoundError:
            return cls(None, {}, versions)
        return cls(own.version, requirements(own.requires or ()), versions)

    def missing(self, extra: str) -> list[str]:
        """What of an extra (its own extras unfolded) is absent or of a version that is refused."""
        if extra not in self.by_extra:
            return [f"the extra {extra} itself"]
        lacks = []
        for one in self.by_extra[extra]:
            if canonical(one.name) == PROJECT:
                lacks += [lack for inner in one.extras for lack in self.missing(inner)]
                continue
            version = self.versions.get(canonical(one.name))
            if version is None:
                lacks.append(one.name)
            elif not one.allows(version):
                lacks.append(f"{one.name} {version} (needed: {one.specifier})")
        return sorted(set(lacks))


def canonical(name: str) -> str:
    """A package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: Iterable[str]) -> dict[str, list[Requirement]]:
    """Requirements of a package's metadata, by extra."""
    found: dict[str, list[Requirement]] = {"": []}
    for line in lines:
        parts = _REQUIREMENT.match(line.strip())
        if parts is None:
            continue
        name, extras, specifier, marker = parts.groups()
        extra = _EXTRA.search(marker or "")
        inner = tuple(canonical(word) for word in (extras or "").split(",") if word.strip())
        found.setdefault(canonical(extra[1]) if extra else "", []).append(
            Requirement(name, inner, specifier.replace(" ", ""))
        )
    return found


def roles_of(installed: Installed) -> tuple[Role, ...]:
    """What an environment is evidently for: those roles of which a telling package is there."""
    return tuple(
        role for role, signs in _SIGNS.items() if any(sign in installed.versions for sign in signs)
    )


def check_python(version: tuple[int, int, int] | None = None) -> Iterator[Finding]:
    """Python's version (None: of this process), and the platform."""
    major, minor, micro = version or sys.version_info[:3]
    supported = (3, 11) <= (major, minor) <= (3, 12)
    yield Finding(
        AREA,
        "python",
        "ok" if supported else "problem" if (major, minor) < (3, 11) else "warning",
        f"{major}.{minor}.{micro}" + ("" if supported else ": checked are 3.11 and 3.12"),
        None if supported else "python3.11 -m venv .venv",
    )
    yield Finding(AREA, "platform", "ok", f"{platform.platform()}, {platform.machine()}")


def check_packages(
    installed: Installed, roles: Sequence[Role], *, others: bool = True
) -> Iterator[Finding]:
    """The base, every extra, and packages that overwrite each other's files.

    others: extras of other roles too, which may be wanted.
    """
    if installed.release is None:
        yield Finding(
            AREA,
            PROJECT,
            "problem",
            "not installed, so that extras are not known; this is a source tree",
            install_command(),
        )
        return
    yield Finding(AREA, PROJECT, "ok", installed.release)
    lacks = installed.missing("")
    yield Finding(
        AREA,
        "base packages",
        "problem" if lacks else "ok",
        _lacking(lacks),
        install_command() if lacks else None,
    )
    needed = _needed_extras(installed, roles)
    unwanted = _beside_a_whole_one(installed)
    for extra, purpose in PURPOSES.items():
        if extra not in installed.by_extra or extra in unwanted:
            continue
        if not others and not any(extra in _MAY_WANT[role] for role in roles):
            continue
        lacks = installed.missing(extra)
        yield Finding(
            AREA,
            f"extra {extra}",
            "ok" if not lacks else "problem" if extra in needed else "optional",
            _lacking(lacks) + (f"; for {purpose}" if lacks else ""),
            install_command(extra) if lacks else None,
        )
    if not roles:
        yield Finding(
            AREA,
            "roles",
            "warning",
            "neither edge nor cloud is installed: only `featherwire-edge inspect` and `truncate` "
            "work",
            install_command("edge"),
        )
    yield from _clashes(installed)


def _needed_extras(installed: Installed, roles: Sequence[Role]) -> set[str]:
    """The extras whose absence is a problem: of alternatives none when one of them is whole."""
    needed = set()
    for role in roles:
        for alternatives in _NEEDS[role]:
            if not any(not installed.missing(extra) for extra in alternatives):
                needed.add(alternatives[0])
    return needed


def _beside_a_whole_one(installed: Installed) -> set[str]:
    """Of two extras that exclude each other, the one that is not there beside the one that is."""
    found = set()
    for plain, with_gpu in _ALTERNATIVES:
        if not installed.missing(plain):
            found.add(with_gpu)
        elif not installed.missing(with_gpu):
            found.add(plain)
    return found


def _clashes(installed: Installed) -> Iterator[Finding]:
    for family in _CLASHES:
        present = [name for name in family if name in installed.versions]
        if len(present) > 1:
            # Both leave with each other's files, so the one to keep is installed again.
            mend = f"pip uninstall -y {' '.join(present)} && pip install {present[0]}"
            if family[0] == "onnxruntime":
                mend += f" (or {present[1]}, for a GPU)"
            yield Finding(
                AREA,
                f"only one {family[0].split('-')[0]}",
                "problem",
                f"{' and '.join(present)} overwrite each other's files",
                mend,
            )
        elif present:
            yield Finding(
                AREA,
                f"only one {family[0].split('-')[0]}",
                "ok",
                f"{present[0]} {installed.versions[present[0]]}",
            )


def _lacking(lacks: Sequence[str]) -> str:
    if not lacks:
        return "complete"
    more = f" and {len(lacks) - _SHOWN} more" if len(lacks) > _SHOWN else ""
    return f"missing: {', '.join(lacks[:_SHOWN])}{more}"


def _holds(version: str, clause: str) -> bool:
    found = _CLAUSE.match(clause)
    if found is None:
        return True
    operator, wanted = found.groups()
    ours, theirs = _release(version), _release(wanted)
    width = max(len(ours), len(theirs))
    ours += (0,) * (width - len(ours))
    theirs += (0,) * (width - len(theirs))
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
        ">": ours > theirs,
        "<": ours < theirs,
    }[operator]


def _release(version: str) -> tuple[int, ...]:
    digits = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in digits[0].split(".")) if digits else ()
