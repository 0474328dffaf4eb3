"""What may happen to a database, and what is said of it."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, inspect, text

from cloud_server.database import Database, schema
from cloud_server.database.schema import RESULTS, SESSIONS
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Filter
from shared.errors import StorageError
from tests.support.logs import KEY, Open, V, accept, outcome, take


def test_a_second_server_is_refused_and_a_killed_one_lets_go(url: str) -> None:
    code = (
        "import sys, time; from cloud_server.database import Database;"
        "import cloud_server.database.schema;"
        "Database(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StorageError) as caught:
            Database(url, lock_wait_s=0.3)
        assert caught.value.reason == "in_use"
    finally:
        other.kill()
        other.communicate(timeout=10)
    Database(url, lock_wait_s=10).close()


def test_a_database_of_a_newer_release_is_left_alone(url: str) -> None:
    database = Database(url)
    database.writer.run(lambda one: one.execute(text("UPDATE featherwire_schema SET version = 99")))
    database.close()
    with pytest.raises(StorageError, match="version 99") as caught:
        Database(url)
    assert caught.value.reason == "newer_schema"
    assert caught.value.details["known"] == schema.current_version()


def test_an_older_database_is_migrated_step_by_step(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(url)
    assert database.version_found == 0
    database.close()

    def add_colour(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE sessions ADD COLUMN colour TEXT"))

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add_colour))
    known = schema.current_version()
    for found in (known - 1, known):
        database = Database(url)
        assert database.version_found == found
        database.read_now(lambda one: one.execute(text("SELECT colour FROM sessions")).all())
        database.close()


def test_a_log_of_before_there_were_groups_of_pictures_gets_their_columns(url: str) -> None:
    database = Database(url)

    def as_before(connection: Connection) -> None:
        for index in schema.SUBMISSIONS.indexes:
            index.drop(connection)
        for column in ("group_start", "forgotten"):
            connection.execute(text(f"ALTER TABLE submissions DROP COLUMN {column}"))
        connection.execute(text("UPDATE featherwire_schema SET version = 3"))

    database.writer.run(as_before)
    database.close()
    database = Database(url)
    assert database.version_found == 3
    found = inspect(database.engine)
    names = {one["name"] for one in found.get_indexes("submissions")}
    assert {one.name for one in schema.SUBMISSIONS.indexes} <= names
    columns = {one["name"] for one in found.get_columns("submissions")}
    assert columns == set(schema.SUBMISSIONS.columns.keys())
    database.close()


def test_tables_of_somebody_else_are_not_touched(url: str) -> None:
    database = Database(url)
    database.writer.run(lambda one: one.execute(text("DROP TABLE featherwire_schema")))
    database.close()
    with pytest.raises(StorageError) as caught:
        Database(url)
    assert caught.value.reason == "foreign_database"


@pytest.mark.parametrize("damage", [b"not a database at all" * 400, b""])
def test_a_damaged_file_is_told_from_an_empty_one(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(damage)
    if not damage:
        Database(f"sqlite:///{path}").close()
        return
    with pytest.raises(StorageError) as caught:
        Database(f"sqlite:///{path}")
    assert caught.value.reason == "corrupt"
    assert str(path) in caught.value.message
    assert path.read_bytes() == damage


async def test_damage_inside_the_file_is_an_error_and_never_a_wrong_record(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = ResultLog(Database(f"sqlite:///{path}"), window=10)
    for sequence in range(1, 200):
        await log.complete(await take(log, sequence), outcome("cat", filler=500))
    log.database.close()
    pages = bytearray(path.read_bytes())
    for start in range(40 * 4096, len(pages) - 4096, 8192):
        pages[start : start + 64] = b"\xff" * 64
    path.write_bytes(pages)

    async def read() -> None:
        damaged = ResultLog(Database(f"sqlite:///{path}"), window=10)
        try:
            await damaged.read(Filter(), 0, 1000)
        finally:
            damaged.database.close()

    with pytest.raises(StorageError) as caught:
        await read()
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize(
    "bad",
    [
        "mysql://root:secret@host/db",
        "postgresql://user:secret@127.0.0.1:1/db?connect_timeout=2",
        "sqlite://",
        "no url:secret",
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(bad: str) -> None:
    with pytest.raises(StorageError) as caught:
        Database(bad)
    assert caught.value.reason in {"bad_url", "unavailable"}
    assert "secret" not in str(caught.value.to_dict())


def test_sqlite_is_durable_by_default(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/log.db")
    pragma = {
        name: database.writer.run(lambda one, n=name: one.execute(text(f"PRAGMA {n}")).scalar())
        for name in ("journal_mode", "synchronous", "auto_vacuum")
    }
    database.close()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2}


async def test_a_full_disk_is_said_and_nothing_is_lost_or_numbered_twice(tmp_path: Path) -> None:
    log = ResultLog(Database(f"sqlite:///{tmp_path}/log.db"), window=1000)
    database = log.database
    first = await take(log, 1)
    limit = "PRAGMA max_page_count = {}"
    pages = await database.write(lambda one: one.execute(text("PRAGMA page_count")).scalar_one())
    await database.write(lambda one: one.execute(text(limit.format(pages + 2))).scalar())
    with pytest.raises(StorageError) as caught:
        await accept(log, KEY, 2, V, b"x" * 100_000)
    assert caught.value.reason == "disk_full"
    await log.complete(first, outcome("cat"))  # small ones still fit
    await database.write(lambda one: one.execute(text(limit.format(2**30))).scalar())
    assert (await accept(log, KEY, 2, V, b"x" * 100_000)).new
    assert [one.cursor for one in (await log.read(Filter(), 0, 9)).records] == [1]
    database.close()


async def test_a_change_that_fails_does_not_take_its_commit_with_it(log: ResultLog) -> None:
    def broken(connection: Connection) -> None:
        row = {"id": 900, "device": "d", "session": "s", "first_seen_at": 0}
        connection.execute(insert(SESSIONS), row | {"floor": 0, "forgotten_result_id": None})

    jobs = [accept(log, KEY, sequence, V, b"m") for sequence in range(1, 21)]
    jobs.insert(10, log.database.write(broken))  # type: ignore[arg-type]
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(outcomes.pop(10), StorageError)
    assert [one.new for one in outcomes] == [True] * 20  # type: ignore[union-attr]
    assert await log.resume_after(KEY) == (20, 0)


async def test_a_writer_that_lost_its_connection_goes_on_where_the_log_ends(
    postgres_cluster: object, open_log: Open, url: str
) -> None:
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has no connection to lose")
    log = open_log()
    first = await take(log, 1)
    await log.complete(first, outcome("cat"))

    def end_the_writer(connection: Connection) -> None:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        ).all()

    for sequence in (2, 3):
        await log.database.read(end_the_writer)
        record = await log.complete(await take(log, sequence), outcome("dog"))
        assert (record.cursor, record.result_id) == (sequence, sequence)
    # It holds the lock again.
    with pytest.raises(StorageError) as caught:
        Database(url, lock_wait_s=0.2)
    assert caught.value.reason == "in_use"


def test_two_results_of_one_submission_cannot_be_in_the_tables(tmp_path: Path) -> None:
    """What the log promises, the database would refuse to break."""
    Database(f"sqlite:///{tmp_path}/log.db").close()
    row = "INSERT INTO results VALUES ({}, 7, 1, 1, 'b', 0, {}, NULL, 0, 0, 'o')"
    assert len(RESULTS.columns) == 11
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        file.execute(row.format(1, 1))
        with pytest.raises(sqlite3.IntegrityError, match="submission_id"):
            file.execute(row.format(2, 2))
        with suppress(sqlite3.Error):
            file.rollback()
