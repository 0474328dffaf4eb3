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

    def __init__(
        self, folder: Path, programs: Path, user: list[str], superuser: str, port: int | None
    ) -> None:
        self._folder = folder
        self._programs = programs
        self._user = user
        self._superuser = superuser
        self._port = port or 5432
        self._data = str(folder / "data")
        self._options = f"-c unix_socket_directories={folder}"
        self._options += (
            f" -c listen_addresses=127.0.0.1 -c port={port}" if port else (" -c listen_addresses=")
        )

    def database(self, name: str | None = None) -> str:
        name = name or f"test{next(_NUMBERS)}"
        where = ["-h", str(self._folder), "-p", str(self._port)]
        self.run("createdb", *where, "-U", self._superuser, name)
        return f"postgresql://{self._superuser}@/{name}?host={self._folder}&port={self._port}"

    def start(self) -> None:
        """Start it, again or for the first time."""
        log = str(self._folder / "log")
        self.run("pg_ctl", "-D", self._data, "-l", log, "-o", self._options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; ``fast`` ends transactions, ``immediate`` is as good as a crash."""
        self.run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the superuser."""
        where = ["-h", str(self._folder), "-p", str(self._port), "-U", self._superuser]
        self.run("psql", *where, "-d", database, "-c", statement)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, which must succeed."""
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
def cluster(
    superuser: str = "tester", password: str | None = None, port: int | None = None
) -> Iterator[Cluster]:
    """Start one; stopped and deleted at the end. PostgreSQL refuses root, so root lends a user.

    With a password it wants that of everybody who comes by TCP, on ``port`` of 127.0.0.1.
    """
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
    one = Cluster(folder, programs, user, superuser, port)
    data = str(folder / "data")
    try:
        who = ["-U", superuser, "--auth-local=trust"]
        if password is None:
            who += ["--auth-host=reject"]
        else:
            (folder / "password").write_text(password)
            (folder / "password").chmod(0o644)
            who += ["--auth-host=scram-sha-256", f"--pwfile={folder / 'password'}"]
        one.run("initdb", "-D", data, *who, "-E", "UTF8", "--no-sync")
        one.start()
        try:
            yield one
        finally:
            if (Path(data) / "postmaster.pid").exists():
                one.stop("immediate")
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
