"""The whole path with the embedded models: what comes over the wire is what the tasks found."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_server.engine.files import BitstreamDecoder
from cloud_server.tasks import open_task
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bundle import Bundle
from shared.errors import ModelError
from shared.proto.featherwire.v1 import types_pb2
from shared.results import AnalysisResult, Detection, Face, Instance, decode_mask
from shared.weights import ModelStore
from shared.wire import FrameOutcome
from shared.wire.results import outcome_from_message, outcome_to_message
from tests.support.servers import server_process

TASKS = ("detection", "segmentation", "landmarks")


def _same(found: object, expected: object) -> bool:
    """Equal but for coordinates and scores, which the wire carries as float32."""
    if isinstance(expected, Detection | Instance | Face):
        assert type(found) is type(expected)
        return all(
            _same(getattr(found, name), getattr(expected, name))
            for name in type(expected).model_fields
        )
    if hasattr(expected, "model_dump"):
        return _same(found.model_dump(), expected.model_dump())  # type: ignore[attr-defined]
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        return found.keys() == expected.keys() and all(
            _same(found[key], expected[key]) for key in expected
        )
    if isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, float):
        return found == float(np.float32(expected))
    return found == expected


def test_real_findings_survive_the_wire(photos: dict[str, NDArray[np.uint8]]) -> None:
    photo = photos["astronaut"]
    try:
        results = {name: open_task(name).run([photo])[0] for name in TASKS}
    except ModelError as error:
        pytest.skip(error.message)
    assert all(result.found for result in results.values()), "the photo shows a person"
    height, width = photo.shape[:2]
    analysis = AnalysisResult(
        width=width, height=height, payload_bytes=1, bits_per_pixel=1, tasks=results
    )
    data = outcome_to_message(FrameOutcome(analysis=analysis)).SerializeToString()
    back = outcome_from_message(types_pb2.FrameOutcome.FromString(data)).analysis
    assert back is not None
    for name, result in results.items():
        assert _same(back.tasks[name].found, result.found)
        assert back.tasks[name].model == result.model
        if result.instances is not None and back.tasks[name].instances is not None:
            for one, other in zip(back.tasks[name].instances, result.instances, strict=True):
                assert np.array_equal(decode_mask(one.mask), decode_mask(other.mask))


def test_findings_over_the_wire_are_those_of_the_tasks(
    tiny_bundle: Bundle, encoder: EdgeEncoder, photos: dict[str, NDArray[np.uint8]]
) -> None:
    store = ModelStore()
    try:
        tasks = {name: open_task(name, store) for name in TASKS}
    except ModelError as error:
        pytest.skip(error.message)
    # The tiny bundle's pictures show nothing: low thresholds would be another test. What matters
    # is that both ways see the same picture, and that the findings survive the wire.
    decoder = BitstreamDecoder(tiny_bundle)
    arguments = ("--bundle", tiny_bundle.origin, "--tasks", ",".join(TASKS))
    with (
        server_process(*arguments) as (_, ready),
        EdgeSession(ready["listening"], encoder=encoder) as session,
    ):
        assert set(TASKS) <= set(ready["tasks"])  # and what tails of other bundles do
        assert set(TASKS) <= set(session.available_tasks)
        for name in ("astronaut", "chelsea"):
            result = session.send(photos[name], state=0).raise_for_error()
            picture = decoder.picture(encoder.encode(photos[name]))
            assert set(result.tasks) == set(TASKS)
            for task, expected in ((task, tasks[task].run([picture])[0]) for task in TASKS):
                assert _same(result.tasks[task].found, expected.found)
                assert result.tasks[task].model == expected.model
                assert result.tasks[task].milliseconds.keys() == expected.milliseconds.keys()
