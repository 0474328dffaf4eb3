"""Ports, clock, disks and programs: real ones, and each kind of trouble with them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.doctor.machine import (
    Folder,
    check_clock,
    check_folders,
    check_ports,
    check_programs,
    clock_synchronised,
    port_holder,
)

LISTEN = (
    "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
    "print(s.getsockname()[1], flush=True); sys.stdin.read()"
)
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@contextmanager
def listener(name: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a process that listens; ``name`` is in its command line."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid


def test_a_free_port() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    (finding,) = check_ports({port: ("server", "--listen X")})
    assert (finding.name, finding.state) == (f"port {port} (server)", "ok")
    assert port_holder(port) is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc here")
def test_a_port_that_another_program_has_names_it() -> None:
    with listener("somebody-else") as (port, process):
        (finding,) = check_ports({port: ("server", "--listen 127.0.0.1:7571")})
    assert finding.state == "warning"
    assert f"process {process}: " in finding.found
    assert "python" in finding.found
    assert finding.mend == "featherwire-cloud serve --listen 127.0.0.1:7571"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc here")
def test_a_port_that_our_own_server_has_is_well() -> None:
    with listener("featherwire-cloud serve") as (port, process):
        holder = port_holder(port)
        assert holder is not None
        assert holder[0] == process


@pytest.mark.parametrize(
    ("holder", "state", "found"),
    [
        ((12, "python featherwire-cloud serve"), "ok", "Featherwire listens (process 12)"),
        (None, "warning", "taken by another process"),
    ],
)
def test_who_has_a_port(
    holder: tuple[int, str] | None, state: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.doctor.machine.port_holder", lambda port: holder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (finding,) = check_ports({taken.getsockname()[1]: ("server", "--listen X")})
    assert (finding.state, finding.found) == (state, found)


@pytest.mark.parametrize("year", [1970, 2024, 2100])
def test_a_year_that_cannot_be_is_a_problem(year: int) -> None:
    date, *_ = check_clock(NOW.replace(year=year), synchronised=True, drift_s=0.0)
    assert (date.state, date.mend) == ("problem", "timedatectl set-ntp true")


def test_a_clock_that_is_right() -> None:
    assert {one.state for one in check_clock(NOW, synchronised=True, drift_s=0.001)} == {"ok"}


def test_a_clock_that_nobody_keeps_right_and_one_that_jumps() -> None:
    date, service, steadiness = check_clock(NOW, synchronised=False, drift_s=-3.0)
    assert date.state == "ok"
    assert (service.state, service.mend) == ("warning", "timedatectl set-ntp true")
    assert (steadiness.state, steadiness.mend) == ("warning", "timedatectl timesync-status")
    assert "-3.00 s" in steadiness.found


def test_this_machine_s_clock_is_read() -> None:
    assert clock_synchronised() in (True, False, None)
    date, _, steadiness = check_clock()
    assert (date.state, steadiness.state) == ("ok", "ok")


def folder(path: Path) -> Folder:
    return Folder("spool", path, "--spool", ("edge",))


def test_a_folder_that_is_there_and_one_that_will_be(tmp_path: Path) -> None:
    there, made = check_folders([folder(tmp_path), folder(tmp_path / "a" / "b")], ["edge"])
    assert (there.state, made.state) == ("ok", "ok")
    assert "is made when it is needed" in made.found
    assert list(tmp_path.iterdir()) == []  # nothing is left, nothing was made


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", Path("/proc/featherwire")):
        (finding,) = check_folders([folder(path)], ["edge"])
        assert finding.state == "problem", finding
        assert "cannot be written to" in finding.found
        assert finding.mend == "choose another with --spool"
        (finding,) = check_folders([folder(path)], ["cloud"])
        assert finding.state == "warning"


@pytest.mark.parametrize(
    ("free", "state"), [(2**34, "ok"), (2**29, "warning"), (2**20, "problem"), (0, "problem")]
)
def test_a_disk_that_fills_up(tmp_path: Path, free: int, state: str) -> None:
    (finding,) = check_folders([folder(tmp_path)], ["edge"], free_bytes=free)
    assert finding.state == state
    assert (finding.mend is None) == (state == "ok")


def test_programs_by_name_and_by_path() -> None:
    known, absent, globbed = check_programs(
        {
            "shell": (("sh",), "all", "apt-get install dash"),
            "nothing": (("no-such-program", "/no/such/*/program"), "tests", "apt-get install it"),
            "python": (("no-such-program", f"{sys.prefix}/*/python"), "tests", "none"),
        }
    )
    assert (known.state, known.mend) == ("ok", None)
    assert (absent.state, absent.mend) == ("optional", "apt-get install it")
    assert globbed.state == "ok"
    assert globbed.found.endswith("/bin/python")
