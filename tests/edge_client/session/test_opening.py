"""Commands that come while a stream is still being opened hold from then on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession, opening
from edge_client.session.frames import Framer
from edge_client.spool import Spool
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2
from shared.targets import Region
from shared.wire import FrameOutcome
from shared.wire.features import features_message
from tests.support.scripted_server import Requests, ScriptedServer, answer, say, welcome

HALF = types_pb2.Box(x_min=0, y_min=0, x_max=0.5, y_max=1)
OUTCOME = FrameOutcome(error=FeatherwireError("made_up", "a result that this test made up"))


@pytest.mark.parametrize("spooled", [True, False])
def test_tasks_and_regions_that_come_while_a_stream_opens_are_those_of_its_frames(
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spooled: bool,
) -> None:
    taken = threading.Event()
    frames: list[ingest_pb2.Frame] = []

    class Late(Framer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            assert taken.wait(20), "the commands are answered while the stream opens"

    monkeypatch.setattr(opening, "Framer", Late)

    def script(
        number: int, hello: ingest_pb2.Hello, requests: Requests
    ) -> Iterator[ingest_pb2.ConnectResponse]:
        yield welcome(hello)
        tasks, regions = fleet_pb2.Command(command_id="t"), fleet_pb2.Command(command_id="r")
        tasks.set_tasks.tasks.append("segmentation")
        regions.set_regions.regions.add(box=HALF, state=0)
        yield from (say(command=one) for one in (tasks, regions))
        replies = 0
        for request in requests:
            if request.WhichOneof("message") == "command_reply":
                assert not request.command_reply.HasField("error")
                replies += 1
                if replies == 2:
                    taken.set()
            elif request.WhichOneof("message") == "frame":
                frames.append(request.frame)
                yield from answer(request.frame, request.frame.sequence, OUTCOME)

    with ScriptedServer(script) as server, ExitStack() as stack:
        spool = stack.enter_context(Spool.open(tmp_path)) if spooled else None
        session = stack.enter_context(
            EdgeSession(server.address, encoder=encoder, tasks=["detection"], spool=spool)
        )
        with pytest.raises(FeatherwireError, match="made up"):
            session.send(image, state=4)
    (frame,) = frames
    assert list(frame.tasks) == ["segmentation"]
    # The server says nothing of formats, as those of before did.
    wanted = encoder.encode(image, state=4, regions=(Region(0, 0, 0.5, 1, 0),), version=3)
    assert frame.features[0] == features_message(wanted)
