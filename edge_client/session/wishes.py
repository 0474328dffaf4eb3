"""What is asked of a frame: tasks and a picture, as far as what is sent is enough for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import PictureEncoding, PictureRequest, error_from_message
from shared.wire.requests import parse_tasks

PictureWish = bool | str | PictureEncoding | PictureRequest | None
"""True is PNG; or ``"png"``, ``"webp"``, ``"webp_lossless"``, or a request with a quality."""


class ServerTasks:
    """The tasks that a server has, and which bundles they can be run on."""

    def __init__(self, settings: ingest_pb2.ServerSettings) -> None:
        """settings: of the server's Welcome. Raises ``SessionError`` for names that are none."""
        self.available = parse_tasks(
            task.name for task in settings.tasks if not task.HasField("unavailable")
        )
        self.unavailable: dict[str, FeatherwireError] = {
            task.name: error_from_message(task.unavailable)
            for task in settings.tasks
            if task.HasField("unavailable")
        }
        self._on_features = frozenset(settings.feature_tasks)

    def possible(self, task: str, bundles: Iterable[Bundle]) -> bool:
        """Whether one of ``bundles`` describes a picture well enough for ``task``."""
        return any(
            task in bundle.manifest.tasks
            or (makes_pictures(bundle) and task not in self._on_features)
            for bundle in bundles
        )

    def all_on(self, bundles: Sequence[Bundle]) -> tuple[str, ...]:
        """Every available task that ``bundles`` are enough for."""
        return tuple(task for task in self.available if self.possible(task, bundles))

    def at_once(
        self, tasks: tuple[str, ...], sent: Sequence[Bundle], kept: Sequence[Bundle]
    ) -> tuple[str, ...]:
        """``tasks`` without those that must wait until something of ``kept`` is sent too."""
        return tuple(
            task for task in tasks if self.possible(task, sent) or not self.possible(task, kept)
        )


def makes_pictures(bundle: Bundle) -> bool:
    """Whether a server can make a picture of what this bundle describes."""
    return bool(bundle.manifest.pictures)


def picture_at_once(
    request: PictureRequest | None, sent: Sequence[Bundle], kept: Sequence[Bundle]
) -> PictureRequest | None:
    """``request``, unless it must wait until something of ``kept`` is sent too."""
    if any(map(makes_pictures, sent)) or not any(map(makes_pictures, kept)):
        return request
    return None


def picture_request(wish: PictureWish) -> PictureRequest | None:
    """A wish as a request. Raises ``SessionError("unknown_encoding")``."""
    if wish is None or wish is False:
        return None
    if isinstance(wish, PictureRequest):
        return wish
    try:
        return PictureRequest(PictureEncoding.PNG if wish is True else PictureEncoding(wish))
    except ValueError:
        known = ", ".join(PictureEncoding)
        raise SessionError("unknown_encoding", f"no encoding {wish!r}; there are {known}") from None
