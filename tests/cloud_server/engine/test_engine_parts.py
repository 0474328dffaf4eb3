"""Stages, the session's memory and the picture encoder, each on its own."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cloud_server.engine import EngineFrame, LocalEngine, WorkerCounts
from cloud_server.engine.local import encode_picture
from cloud_server.engine.stage import Stage
from cloud_server.ingest.sessions import OwnedCache
from codec import open_cloud
from codec.markov_palette.reconstruct import PictureReconstructor
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import FeatherwireError, PhotoError, TaskError
from shared.wire import PictureEncoding, PictureRequest

# -- stage ---------------------------------------------------------------------------------------


async def test_items_of_one_key_share_a_batch_up_to_its_size() -> None:
    batches: list[list[str]] = []

    def handle(items: list[str]) -> list[str]:
        batches.append(items)
        return [item.upper() for item in items]

    stage: Stage[str, str] = Stage("s", queue_size=99, max_batch=3, max_delay_s=0.2, key=len)
    stage.start([handle])
    words = ["a", "b", "cc", "d", "e", "ff", "g"]
    done = await asyncio.gather(*(stage.run(word) for word in words))
    assert [one.value for one in done] == ["A", "B", "CC", "D", "E", "FF", "G"]
    assert sorted(map(sorted, batches)) == [["a", "b", "d"], ["cc", "ff"], ["e", "g"]]
    assert {one.batch_size for one in done} == {2, 3}
    assert await stage.close()


async def test_a_lone_item_does_not_wait_when_no_more_are_coming() -> None:
    stage: Stage[int, int] = Stage(
        "s", queue_size=9, max_batch=8, max_delay_s=5.0, expecting=lambda: False
    )
    stage.start([lambda items: items])
    started = time.perf_counter()
    await stage.run(1)
    assert time.perf_counter() - started < 1
    await stage.close()


async def test_one_bad_item_does_not_take_its_batch_with_it() -> None:
    def handle(items: list[int]) -> list[float]:
        return [1 / item for item in items]

    stage: Stage[int, float] = Stage("s", queue_size=9, max_batch=4, max_delay_s=0.1)
    stage.start([handle])
    done = await asyncio.gather(*(stage.run(n) for n in (1, 0, 2)), return_exceptions=True)
    assert isinstance(done[1], FeatherwireError)
    assert done[1].reason == "internal_error"
    assert [one.value for one in (done[0], done[2])] == [1.0, 0.5]  # type: ignore[union-attr]
    await stage.close()


async def test_the_loop_goes_on_while_workers_work_and_the_queue_is_bounded() -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def handle(items: list[int]) -> list[int]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.2)
        with lock:
            inside -= 1
        return items

    stage: Stage[int, int] = Stage("s", queue_size=3)
    stage.start([handle, handle])
    jobs = [asyncio.create_task(stage.run(n)) for n in range(8)]
    longest = 0.0
    queued = 0
    while not all(job.done() for job in jobs):
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - before)
        queued = max(queued, sum(len(group) for group in stage._groups.values()))
    assert most == 2  # two workers, two at once
    assert queued <= 3
    assert longest < 0.15  # never as long as one item's work
    await stage.close()


async def test_cancelled_items_are_not_worked_on() -> None:
    worked: list[int] = []

    def handle(items: list[int]) -> list[int]:
        time.sleep(0.05)
        worked.extend(items)
        return items

    stage: Stage[int, int] = Stage("s", queue_size=9)
    stage.start([handle])
    jobs = [asyncio.create_task(stage.run(n)) for n in range(4)]
    await asyncio.sleep(0.01)
    jobs[2].cancel()
    await asyncio.wait(jobs)
    assert worked == [0, 1, 3]
    assert stage.pending == 0
    await stage.close()
    with pytest.raises(FeatherwireError, match="not running"):
        await stage.run(9)


# -- engine --------------------------------------------------------------------------------------


async def test_equal_shapes_are_reconstructed_together_at_different_states(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: np.ndarray
) -> None:
    engine = await LocalEngine.open(tiny_bundle, workers=WorkerCounts(max_batch=4, max_delay_s=0.5))
    frames = [
        EngineFrame((encoder.encode(picture, state=state),), picture=PictureRequest())
        for picture, state in ((image, 0), (image, 3), (image[:, :-3], 1), (image[:64], 2))
    ]
    together = await asyncio.gather(*(engine.submit(frame) for frame in frames))
    alone = [await engine.submit(frame) for frame in frames]
    for one, other, frame in zip(together, alone, frames, strict=True):
        assert one.picture is not None
        assert other.picture is not None
        size = (frame.bitstreams[0].width, frame.bitstreams[0].height)
        assert (one.picture.width, one.picture.height) == size
        pixels = [
            np.asarray(Image.open(io.BytesIO(p.data)), np.int16)
            for p in (one.picture, other.picture)
        ]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1  # a batch may round otherwise
    assert engine.alive
    await engine.close()
    assert not engine.alive
    late = await engine.submit(frames[0])
    assert late.error is not None
    assert late.error.reason == "engine_closed"


# -- picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", list(PictureEncoding))
def test_pictures_are_encoded_as_asked(encoding: PictureEncoding, image: np.ndarray) -> None:
    picture = encode_picture(image, PictureRequest(encoding))
    decoded = np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"))
    if encoding is PictureEncoding.WEBP:
        assert np.abs(decoded.astype(int) - image).mean() < 20
        smaller = encode_picture(image, PictureRequest(encoding, quality=5))
        assert len(smaller.data) < len(picture.data)
    else:
        assert np.array_equal(decoded, image)


def test_a_picture_over_the_cap_is_an_error_with_its_size(image: np.ndarray) -> None:
    with pytest.raises(PhotoError) as caught:
        encode_picture(image, PictureRequest(), max_bytes=1000)
    assert caught.value.reason == "picture_too_large"
    assert caught.value.details["picture_bytes"] > 1000


# -- pictures that are kept -----------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 40)), max_size=60)
)
def test_the_cache_keeps_within_its_budgets(puts: list[tuple[str, int, int]]) -> None:
    cache: OwnedCache[int] = OwnedCache(max_bytes=100, max_entries_per_owner=4)
    sizes: dict[tuple[str, int], int] = {}
    for owner, number, size in puts:
        cache.put(owner, number, size, size)
        sizes[owner, number] = size
        assert cache.get(owner, number) == size
        kept = {(o, n): v for o in "abc" for n, v in cache.values(o)}
        assert all(sizes[key] == value for key, value in kept.items())
        assert cache.total_bytes == sum(kept.values()) <= 100
        assert all(len(list(cache.values(o))) <= 4 for o in "abc")
    for owner in "abc":
        for number, _ in list(cache.values(owner)):
            cache.drop(owner, number)
    assert cache.total_bytes == 0
    cache.put("a", 1, 1, 101)
    assert cache.get("a", 1) is None


def test_a_reconstruction_asks_whether_to_stop_before_every_tile(
    tiny_bundle: Bundle, encoder: EdgeEncoder
) -> None:
    bitstream = encoder.encode(np.zeros((1040, 2064, 3), np.uint8), state=4)  # 2 x 3 tiles
    latents = open_cloud(tiny_bundle).decode(bitstream)
    reconstructor = PictureReconstructor.from_bundle(tiny_bundle)
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return asked > allowed

    allowed = 99
    assert reconstructor.reconstruct([latents], should_stop=count)[0].shape == (1040, 2064, 3)
    assert asked >= 6 + 1
    asked, allowed = 0, 3
    with pytest.raises(TaskError) as caught:
        reconstructor.reconstruct([latents], should_stop=count)
    assert caught.value.reason == "cancelled"
    assert asked == 4


async def test_a_worker_whose_callers_gave_up_is_told_to_stop() -> None:
    stopped = threading.Event()

    def handle(items: list[int], should_stop: Callable[[], bool]) -> list[int]:
        if items == [1]:
            while not should_stop():
                time.sleep(0.01)
            stopped.set()
            raise TaskError("cancelled", "nobody waits")
        return items

    stage: Stage[int, int] = Stage("s", queue_size=9)
    stage.start_stoppable([handle])
    job = asyncio.create_task(stage.run(1))
    await asyncio.sleep(0.05)
    assert not stopped.is_set()
    job.cancel()
    assert (await asyncio.wait_for(stage.run(2), 5)).value == 2
    assert stopped.is_set()
    stuck = asyncio.create_task(stage.run(1))
    await asyncio.sleep(0.05)
    assert await stage.close(timeout_s=5)
    with pytest.raises(FeatherwireError, match="nobody waits"):
        await stuck
