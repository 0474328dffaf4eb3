"""A grey photo's frame comes back grey, by whichever way it went."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_client.session import EdgeSession, FrameResult
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.preprocess import without_colour


@pytest.fixture
def grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return without_colour(image)


def chroma(result: FrameResult) -> int:
    assert result.picture is not None
    picture = np.asarray(Image.open(io.BytesIO(result.picture.data)).convert("RGB"))
    return int((picture.max(2) - picture.min(2)).max())


def test_at_once_from_a_spool_and_refined(
    server: str, tiny_bundle: Bundle, tmp_path: Path,
    grey: NDArray[np.uint8], image: NDArray[np.uint8],
) -> None:  # fmt: skip
    with EdgeSession(server, bundle=tiny_bundle) as session:
        first = session.send(grey, state=4, picture=True, refinable=True)
        refined = session.refine(first.sequence, state=0, picture=True)
        coloured = session.send(image, picture=True)
    with (
        Spool.open(tmp_path / "spool") as spool,
        EdgeSession(server, bundle=tiny_bundle, spool=spool) as session,
    ):
        spooled = session.send(grey, state=2, picture=True)
    assert [chroma(one) for one in (first, refined, spooled)] == [0, 0, 0]
    assert chroma(coloured) > 0
