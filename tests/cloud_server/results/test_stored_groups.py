"""Stored frames of groups of pictures, as a consumer gets them: files that stand alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cloud_server.consumers import ResultClient
from codec.base import Pixels, open_cloud, small_bundle
from edge_client import EdgeSession
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.wire import Picture, PictureRequest
from tests.support.pictures import same_picture
from tests.support.predicted import scene
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """States are layers of each other."""
    return small_bundle("markov-palette", tmp_path_factory.mktemp("layered"))


def large(count: int) -> Iterator[Pixels]:
    return (picture.repeat(4, 0).repeat(4, 1) for picture in scene(count))


def pixels(picture: Picture | None) -> NDArray[np.uint8]:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture.data)))


def test_frames_of_a_group_stand_alone_at_every_state(
    start_server: Start, bundle: Bundle, tmp_path: Path
) -> None:
    server = start_server(bundle=bundle.origin, data=tmp_path / "log")
    with EdgeSession(server.address, bundle=bundle) as session:
        sent = list(session.stream(large(5), state=3, picture=PictureRequest(), refinable=True))
        refined = session.refine(sent[2].sequence, state=0)
        assert session.groups.predicted_frames > 2
    assert [one.error for one in (*sent, refined)] == [None] * 6
    server.stop()
    server.join()
    # Another server has nothing in memory, and is asked for the last frame first.
    server = start_server(bundle=bundle.origin, data=tmp_path / "log")
    codec = open_cloud(bundle)
    with ResultClient(server.address) as client:
        results = list(client.list())
        for one in reversed(results):
            alone, picture = client.frame(one, picture=PictureRequest())
            assert alone.reference is None
            assert alone.state == (0 if one.sequence == 3 else 3)
            codec.decode(alone)
            before = next(each for each in sent if each.sequence == one.sequence).picture
            if one.sequence != 3:
                assert same_picture(pixels(picture), pixels(before))
        coarse, _ = client.frame(results[2], state=2)
        assert (coarse.state, codec.decode(coarse).state) == (2, 2)
        fitting, _ = client.frame(results[2], max_bytes=coarse.file_bytes)
        assert fitting.state == 2
        with pytest.raises(FeatherwireError) as refused:
            client.frame(results[2], state=200)
        assert refused.value.reason == "bad_state"
