"""A picture with what is known of it besides its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.session.describe import Photo


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a picture is from, and when it was taken: seconds since 1970. It is the ``source`` of
    the result of a ``Shot``: pixels need not stay in memory until that is here."""

    name: str
    captured_at: float

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture to send, and its origin."""

    photo: Photo
    origin: Origin


def parts(photo: Photo | Shot) -> tuple[Photo, Photo | Origin]:
    """What is encoded, and what stands for it in its result."""
    return (photo.photo, photo.origin) if isinstance(photo, Shot) else (photo, photo)
