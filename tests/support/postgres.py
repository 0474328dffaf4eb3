"""A real PostgreSQL of the test's own: a fresh cluster in a temporary folder, on a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_NUMBERS = count()


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the PATH; None: not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Cluster:
    """A running cluster; ``database`` makes an empty database and tells its URL."""

    def __init__(self, folder: Path, programs: Path, user: list[str]) -> None:
        self._folder = folder
        self._programs = programs
        self._user = user

    def database(self) -> str:
        name = f"test{next(_NUMBERS)}"
        self.run("createdb", "-h", str(self._folder), "-U", "tester", name)
        return f"postgresql://tester@/{name}?host={self._folder}"

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._user, str(self._programs / program), *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the server
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert done.returncode == 0, (program, arguments, self._log())

    def _log(self) -> str:
        log = self._folder / "log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start one; stopped and deleted at the end. PostgreSQL refuses root, so root lends a user."""
    programs = binaries()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes at most
    user: list[str] = []
    if os.geteuid() == 0:
        name = "postgres" if _has_user("postgres") else "nobody"
        entry = pwd.getpwnam(name)
        user = ["setpriv", f"--reuid={name}", f"--regid={entry.pw_gid}", "--clear-groups"]
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        folder.chmod(0o755)
    one = Cluster(folder, programs, user)
    data = str(folder / "data")
    try:
        one.run("initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        one.run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield one
        finally:
            one.run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _version(path: Path) -> int:
    return int(path.parts[-3]) if path.parts[-3].isdigit() else 0


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
