"""Full, failing, read-only and damaged disks: typed errors, counted, and the service goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_client.session import EdgeSession
from edge_client.spool import Spool, SpoolLimits, SpoolPolicy
from shared.bundle import Bundle
from shared.errors import SpoolError
from tests.support.frames import frame, layered
from tests.support.servers import ServerThread

ROOT = Path(__file__).resolve().parents[3]
CHILD = ROOT / "tests" / "support" / "spool_on_full_disk.py"
Start = Callable[..., ServerThread]
IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def mounted(options: str, folder: Path, *command: str) -> list[str]:
    """``command`` with a small file system of its own at ``folder``; skips where none can be."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o {options} none {folder}"
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    for prefix in (["sh", "-c"], ["unshare", "--mount", "sh", "-c"], IN_NAMESPACE):
        if prefix == ["sh", "-c"]:
            continue  # never in the test's own view of the disk
        if subprocess.run([*prefix, mount], capture_output=True, check=False).returncode == 0:
            return [*prefix, f'{mount} && exec "$@"', "sh", *command]
    pytest.skip("no file system can be mounted here")


def run(command: list[str], **options: Any) -> dict[str, Any]:
    """Run the child; what it printed."""
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check_delivered(report: dict[str, Any], reason: str) -> None:
    """Some frames were refused for this reason, and all others arrived, once and in order."""
    assert set(report["offline"]) == {reason, "spooled"}
    assert report["kept"] == report["offline"]["spooled"] > 10
    assert report["delivered"] == list(range(1, report["kept"] + 1))
    assert report["left"] == 0
    assert set(report["again"]) <= {"ok", reason}
    assert report["counts"][f"refused_{reason}"] >= report["offline"][reason]


def test_a_full_disk_refuses_frames_keeps_the_others_and_goes_on(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    command = [sys.executable, str(CHILD), start_server().address, tiny_bundle.origin]
    report = run(mounted("size=480k", disk, *command, str(disk / "spool")))
    check_delivered(report, "disk_full")
    assert report["again"]["ok"] > 10, "what was delivered has made room"
    assert report["reopened"] == 0


def test_a_disk_that_fails_to_write_is_told_apart(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    command = [sys.executable, str(CHILD), start_server().address, tiny_bundle.origin]

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    report = run([*command, str(tmp_path / "spool")], preexec_fn=no_large_files)
    check_delivered(report, "io_error")


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom edge_client.spool import Spool\nfrom shared.errors import SpoolError\n"
        "try:\n    Spool.open(sys.argv[1])\n"
        "except SpoolError as error:\n    print('\"' + error.reason + '\"')\n"
    )
    disk = tmp_path / "disk"
    command = mounted("ro", disk, sys.executable, "-c", code, str(disk / "spool"))
    assert run(command) == "not_writable"
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SpoolError) as caught:
        Spool.open(tmp_path / "file" / "spool")
    assert caught.value.reason == "not_writable"


# -- damage --------------------------------------------------------------------------------------


def filled(folder: Path, frames: int = 20) -> str:
    with Spool.open(folder) as spool:
        for _ in range(frames):
            spool.put(frame(layered([300, 300])))
        return spool.session


@pytest.mark.parametrize("damage", ["garbage", "header", "pages", "cut"])
def test_a_damaged_spool_is_moved_aside_and_a_new_one_begins(tmp_path: Path, damage: str) -> None:
    session = filled(tmp_path)
    path = tmp_path / "spool.sqlite3"
    data = bytearray(path.read_bytes())
    match damage:
        case "garbage":
            data = bytearray(os.urandom(len(data)))
        case "header":
            data[:16] = b"not a database!!"
        case "pages":
            data[4096:] = b"\xa5" * (len(data) - 4096)
        case "cut":
            del data[5000:]
    path.write_bytes(data)
    with Spool.open(tmp_path) as spool:
        assert spool.session != session, "the server knows the old numbering"
        assert spool.stats().counts == {"damaged_files": 1}
        assert spool.put(frame(layered([10]))) == 1
    (kept,) = tmp_path.glob("spool.sqlite3.damaged.*")
    assert kept.read_bytes() == data
    with Spool.open(tmp_path) as spool:
        assert spool.stats().frames == 1


def test_damaged_files_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(6):
        with Spool.open(tmp_path) as spool:
            spool.put(frame(layered([10])))
        (tmp_path / "spool.sqlite3").write_bytes(b"damage %d" % number * 100)
    with Spool.open(tmp_path) as spool:
        assert spool.stats().counts["damaged_files"] == 1
    kept = sorted(path.suffix for path in tmp_path.glob("spool.sqlite3.damaged.*"))
    assert kept == [".4", ".5", ".6"]


def test_one_damaged_frame_is_dropped_and_the_others_go(tmp_path: Path) -> None:
    import sqlite3

    filled(tmp_path, 3)
    with sqlite3.connect(tmp_path / "spool.sqlite3") as database:
        database.execute("UPDATE frames SET message = x'ffff' WHERE sequence = 2")
    database.close()
    with Spool.open(tmp_path) as spool:
        first = spool.next_after(0)
        assert first is not None
        third = spool.next_after(1)
        assert third is not None
        assert (first.sequence, third.sequence) == (1, 3)
        assert spool.stats().counts["dropped_damaged"] == 1
        assert [one.sequence for one in spool.take_dropped()] == [2]


def test_damage_in_use_costs_its_frames_and_the_session_goes_on(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    with Spool.open(tmp_path) as spool:
        for _ in range(1000):  # more than SQLite keeps in memory
            spool.put(frame(layered([3000])))
        before = spool.session
        for name in ("spool.sqlite3", "spool.sqlite3-wal"):
            with open(tmp_path / name, "r+b") as file:
                file.write(b"\xa5" * (tmp_path / name).stat().st_size)
        with EdgeSession(start_server().address, bundle=tiny_bundle, spool=spool) as session:
            results = list(session.stream([picture] * 20, tasks=[]))
            assert session.send(picture, tasks=[]).error is None
        assert spool.session != before
        assert spool.stats().counts["damaged_files"] == 1
        fine = [result for result in results if result.error is None]
        assert [result.sequence for result in fine] == list(range(1, 21))
        # Of those in the file that were known by then, the caller hears.
        lost = {result.error.reason for result in results if result.error is not None}
        assert lost <= {"damaged"}


# -- full ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", SpoolPolicy)
def test_a_full_spool_gives_way_by_its_policy_and_tells_of_every_frame(
    start_server: Start, tiny_bundle: Bundle, tmp_path: Path, policy: SpoolPolicy
) -> None:
    pictures = [
        np.random.default_rng(n).integers(0, 255, (128, 128, 3)).astype(np.uint8) for n in range(30)
    ]
    with Spool.open(tmp_path, SpoolLimits(4_500, policy=policy)) as spool:
        with EdgeSession(
            "127.0.0.1:1", bundle=tiny_bundle, spool=spool, connect_timeout_s=0.5, predict=False
        ) as session:
            offline = list(session.stream(pictures, tasks=[]))
        assert len(offline) == 30
        kept = list(spool.queued())
        with EdgeSession(start_server().address, bundle=tiny_bundle, spool=spool) as session:
            results = list(session.flush())
    assert [result.sequence for result in results] == kept
    assert {result.error for result in results} == {None}
    reasons = [result.error.reason for result in offline if result.error is not None]
    assert reasons.count("spooled") == len(kept)
    states = {result.state for result in results}
    match policy:
        case SpoolPolicy.OLDEST:
            assert kept == list(range(31 - len(kept), 31))
            assert reasons.count("dropped_full") == 30 - len(kept)
            assert states == {0}
        case SpoolPolicy.NEWEST:
            assert kept == list(range(1, len(kept) + 1))
            assert reasons.count("spool_full") == 30 - len(kept)
            assert states == {0}
        case SpoolPolicy.COARSEN:
            assert len(kept) == 30
            assert max(states) > 0
