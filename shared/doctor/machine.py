"""Checks of the machine: ports, clock, folders on its disks, and programs of the system."""

from __future__ import annotations

import ctypes
import errno
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.doctor.finding import Finding, Role, State
from shared.limits import CLOCK_SET_S

AREA_NETWORK = "network"
AREA_CLOCK = "clock"
AREA_DISK = "disk"
AREA_PROGRAMS = "programs"

PORTS: Mapping[int, tuple[str, str]] = {
    7570: ("server", "--listen 127.0.0.1:7571"),
    8080: ("console", "--console 127.0.0.1:8081"),
    9464: ("metrics", "--metrics 127.0.0.1:9465"),
}
"""Ports that `featherwire-cloud serve` and its documents use: what for, and how to take another."""

LEAST_FREE_BYTES = 64 * 2**20
LOW_FREE_BYTES = 2**30
LAST_YEAR = 2100
_CLOCK_SAMPLE_S = 0.1
_CLOCK_SLACK_S = 0.05

_LISTENING = "0A"  # TCP's state in /proc/net/tcp
_STA_UNSYNC = 0x0040  # of adjtimex's status
_TIMEX_BYTES, _STATUS_OFFSET = 512, 40  # struct timex of 64-bit Linux

PROGRAMS: Mapping[str, tuple[Sequence[str], str, str]] = {
    "ffmpeg": (
        ("ffmpeg",),
        "cameras that another program reads: its JPEGs go to `stream` by standard input",
        "apt-get install ffmpeg",
    ),
    "postgresql": (
        ("initdb", "/usr/lib/postgresql/*/bin/initdb"),
        "a PostgreSQL server on this machine: for the log, and for its tests",
        "apt-get install postgresql",
    ),
}
"""Programs that something optional uses: names or paths of each, what for, and how to get it."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that a role writes to."""

    name: str
    path: Path
    option: str  # how another one is chosen
    roles: tuple[Role, ...]


def check_ports(ports: Mapping[int, tuple[str, str]] = PORTS) -> Iterator[Finding]:
    """Whether a server could listen on the usual ports of this machine, and who does if not."""
    for port, (purpose, other) in ports.items():
        name = f"port {port} ({purpose})"
        try:
            with socket.socket() as taker:
                taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taker.bind(("127.0.0.1", port))
                taker.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                yield Finding(AREA_NETWORK, name, "warning", f"cannot be taken: {error.strerror}")
                continue
            holder = port_holder(port)
            if holder is not None and "featherwire" in holder[1]:
                found = f"Featherwire listens (process {holder[0]})"
                yield Finding(AREA_NETWORK, name, "ok", found)
                continue
            who = "another process" if holder is None else f"process {holder[0]}: {holder[1]}"
            mend = f"featherwire-cloud serve {other}"
            yield Finding(AREA_NETWORK, name, "warning", f"taken by {who}", mend)
        else:
            yield Finding(AREA_NETWORK, name, "ok", "free")


def port_holder(port: int) -> tuple[int, str] | None:
    """The process that listens on a TCP port: its id and command line, at most 120 characters.

    None where it cannot be found: no /proc, or another user's process.
    """
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            words = row.split()
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    for process in sorted(Path("/proc").glob("[0-9]*")) if inodes else ():
        try:
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                return int(process.name), line.decode(errors="replace").strip()[:120]
        except OSError:
            continue
    return None


def clock_synchronised() -> bool | None:
    """Whether the kernel's clock is kept right by a time service; None where it cannot be asked."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return None
    state = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: only read
    try:
        if ctypes.CDLL(None).adjtimex(state) < 0:
            return None
    except (OSError, AttributeError):
        return None
    status = int.from_bytes(state.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], sys.byteorder)
    return not status & _STA_UNSYNC


def check_clock(
    now: datetime | None = None, *, synchronised: bool | None = None, drift_s: float | None = None
) -> Iterator[Finding]:
    """The wall clock: year, time service, and whether it jumps. What is not given is measured.

    drift_s: by how much the wall clock and the monotonic clock disagree about a tenth of a second.
    """
    moment = now or datetime.now(UTC)
    plausible = moment.timestamp() >= CLOCK_SET_S and moment.year < LAST_YEAR
    yield Finding(
        AREA_CLOCK,
        "date",
        "ok" if plausible else "problem",
        moment.isoformat(timespec="seconds")
        + ("" if plausible else ": certificates are refused, and captures are dated wrongly"),
        None if plausible else "timedatectl set-ntp true",
    )
    kept = clock_synchronised() if synchronised is None else synchronised
    yield Finding(
        AREA_CLOCK,
        "time service",
        "ok" if kept else "warning",
        {
            True: "synchronised",
            False: "not synchronised: times of capture may be wrong",
            None: "not known on this system",
        }[kept],
        None if kept else "timedatectl set-ntp true",
    )
    drift = _drift_s() if drift_s is None else drift_s
    steady = abs(drift) <= _CLOCK_SLACK_S
    yield Finding(
        AREA_CLOCK,
        "steadiness",
        "ok" if steady else "warning",
        "steady" if steady else f"the wall clock was set by {drift:+.2f} s while it was watched",
        None if steady else "timedatectl timesync-status",
    )


def check_folders(
    folders: Sequence[Folder], roles: Sequence[Role], *, free_bytes: int | None = None
) -> Iterator[Finding]:
    """Whether folders can be written to, and how much room their disks have.

    A folder that is not there yet is judged by the nearest one above it. Nothing is left behind.
    free_bytes: in place of what the disk says.
    """
    for folder in folders:
        needed = any(role in roles for role in folder.roles)
        worst: State = "problem" if needed else "warning"
        place = folder.path.expanduser().absolute()
        nearest = next(path for path in (place, *place.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=nearest):
                pass
            free = shutil.disk_usage(nearest).free if free_bytes is None else free_bytes
        except OSError as error:
            yield Finding(
                AREA_DISK,
                folder.name,
                worst,
                f"{place} cannot be written to: {error.strerror}",
                f"choose another with {folder.option}",
            )
            continue
        state: State = "ok" if free >= LOW_FREE_BYTES else "warning"
        there = "" if nearest == place else " (is made when it is needed)"
        yield Finding(
            AREA_DISK,
            folder.name,
            worst if free < LEAST_FREE_BYTES else state,
            f"{place}{there}: {free / 1e9:.1f} GB free",
            None if free >= LOW_FREE_BYTES else f"choose another disk with {folder.option}",
        )


def check_programs(
    programs: Mapping[str, tuple[Sequence[str], str, str]] = PROGRAMS,
) -> Iterator[Finding]:
    """Programs of the system that are not Python packages; all are optional."""
    for name, (places, purpose, mend) in programs.items():
        path = next(filter(None, map(_find, places)), None)
        yield Finding(
            AREA_PROGRAMS,
            name,
            "ok" if path else "optional",
            path or f"missing; for {purpose}",
            None if path else mend,
        )


def _find(place: str) -> str | None:
    if "/" not in place:
        return shutil.which(place)
    return next((str(path) for path in sorted(Path("/").glob(place[1:]), reverse=True)), None)


def _drift_s() -> float:
    wall, steady = time.time(), time.monotonic()
    time.sleep(_CLOCK_SAMPLE_S)
    return (time.time() - wall) - (time.monotonic() - steady)
