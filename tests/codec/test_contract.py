"""The contract, over every folder of ``codec/``: what others may count on, whoever wrote it."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.base import (
    CloudCodec,
    EdgeCodec,
    Rendering,
    codec_names,
    open_cloud,
    open_edge,
    small_bundle,
    small_kinds,
    trainer,
)
from edge_client import EdgeSession
from shared.bitstream import FORMAT_VERSIONS, Bitstream, Reference
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError
from shared.targets import RateTarget, Region
from tests.support.composed import ROOT
from tests.support.contract import golden, golden_folder, picture
from tests.support.hostile_bitstreams import mutate, reseal
from tests.support.portable import streams
from tests.support.processors import ENVIRONMENTS, printed
from tests.support.servers import ServerThread

MUTANTS = 2000
SIZE = (75, 50)
NAMES = codec_names()
KINDS = [(name, kind) for name in NAMES for kind in small_kinds(name)]
GOLDEN = [(name, record) for name in NAMES for record in golden(name)["files"]]


class VersionedEdge:
    """An edge half that is asked for a version of the container's format where it encodes."""

    def __init__(self, edge: EdgeCodec[Any, Any], version: int) -> None:
        self._edge, self._version = edge, version

    def __getattr__(self, name: str) -> Any:
        return getattr(self._edge, name)

    def encode(self, *arguments: Any, **options: Any) -> Bitstream:
        return self._edge.encode(*arguments, version=self._version, **options)


class Halves:
    """Both halves of a codec, opened for its small bundle, and a version of the format."""

    def __init__(self, bundle: Bundle, version: int) -> None:
        self.version = version
        self.bundle = bundle
        self.edge: EdgeCodec[Any, Any] = VersionedEdge(open_edge(bundle), version)  # type: ignore[assignment]
        self.cloud: CloudCodec[Any] = open_cloud(bundle)
        self.photo = picture(*SIZE, seed=1)
        self.states = [row.state for row in bundle.manifest.states]

    def at(self, state: int) -> Bitstream:
        return self.edge.encode(self.photo, RateTarget(state=state))


@pytest.fixture(
    scope="module",
    params=[(*kind, version) for kind in KINDS for version in FORMAT_VERSIONS],
    ids=lambda parts: "-".join(str(part) for part in parts if part),
)
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Halves:
    name, kind, version = request.param
    return Halves(small_bundle(name, tmp_path_factory.mktemp(name), kind), version)


@pytest.mark.parametrize(("name", "record"), GOLDEN, ids=[f"{n}-{r['file']}" for n, r in GOLDEN])
def test_golden_files_decode_to_the_same_values(name: str, record: dict[str, str]) -> None:
    bundle = Bundle.load(golden_folder(name) / "bundle.zip")
    assert bundle.id == golden(name)["bundle_id"]
    data = (golden_folder(name) / record["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == record["file_sha256"]
    bitstream = Bitstream.from_bytes(data)
    assert bitstream.to_bytes() == data
    for half in (open_cloud(bundle), open_edge(bundle)):
        assert half.decode(bitstream).checksum().hex() == record["latents_sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_streams_decode_to_the_same_values(name: str) -> None:
    """Frame after frame, whole and at the coarsest state; what predicts has golden streams."""
    assert streams(name) == golden(name)["streams"]
    assert len(streams(name)) % 6 == 0


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_are_coded_to_each_other_by_every_version(name: str) -> None:
    """The same values are in the files of each version, and go from one to the other, byte for
    byte."""
    folder = golden_folder(name)
    edge = open_edge(Bundle.load(folder / "bundle.zip"))
    later = sorted(folder.glob("version*/*.fwf"))
    assert later or not any(path.read_bytes()[:4] == b"\x89FWF" for path in folder.glob("*.fwf"))
    for path in later:
        old, new = (folder / path.name).read_bytes(), path.read_bytes()
        before, after = Bitstream.from_bytes(old), Bitstream.from_bytes(new)
        assert edge.recode(before, after.version).to_bytes() == new
        assert edge.recode(after, before.version).to_bytes() == old
        assert edge.recode(after, after.version) is after


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_values_do_not_depend_on_threads_or_processor(
    name: str, environment: dict[str, str]
) -> None:
    """Other processors are imitated: numpy and OpenBLAS are told to use older instructions."""
    code = f"from tests.support.contract import print_checksums\nprint_checksums({name!r})"
    expected = {record["file"]: record["latents_sha256"] for record in golden(name)["files"]}
    expected |= golden(name)["streams"]
    assert printed(code, environment) == expected


def test_every_state_can_be_aimed_at_and_decoded(codec: Halves) -> None:
    for state in codec.states:
        bitstream = codec.at(state)
        latents = codec.cloud.decode(bitstream)
        assert (latents.width, latents.height, latents.state) == (*SIZE, state)
        assert latents.checksum() == codec.edge.decode(bitstream).checksum()
        assert (bitstream.bundle_id, bitstream.version) == (codec.bundle.short_id, codec.version)
        assert Bitstream.from_bytes(bitstream.to_bytes()) == bitstream
        assert codec.edge.encode(codec.photo, RateTarget(state=state)) == bitstream


def test_a_cut_is_what_encoding_at_the_coarser_state_gives(codec: Halves) -> None:
    manifest = codec.bundle.manifest
    for start in manifest.starts:
        first = manifest.finest_of(start)
        finest = codec.at(first)
        assert finest.layers[0].state == start
        for state in range(first, start + 1):
            wanted = codec.at(state).to_bytes()
            assert finest.truncate(state).to_bytes() == wanted
            assert codec.edge.shorten(finest, RateTarget(state=state)).to_bytes() == wanted


def test_a_budget_is_kept_and_shortening_agrees(codec: Halves) -> None:
    finest = codec.edge.encode(codec.photo)
    smallest = min(codec.at(state).file_bytes for state in codec.states)
    for budget in range(smallest, finest.file_bytes + 20, 3):
        made = codec.edge.encode(codec.photo, RateTarget(max_bytes=budget))
        assert made.file_bytes <= budget
        codec.cloud.decode(made)
        if made.layers[0].state == finest.layers[0].state:
            assert codec.edge.shorten(finest, RateTarget(max_bytes=budget)) == made
        if made.partial is not None:
            assert made.partial.passes < codec.edge.passes(made.partial.state)
    with pytest.raises(BudgetError) as refused:
        codec.edge.encode(codec.photo, RateTarget(max_bytes=smallest - 1))
    assert refused.value.reason == "budget_too_small"


def test_a_prepared_photo_is_encoded_like_the_photo(codec: Halves) -> None:
    prepared = codec.edge.prepare(codec.photo)
    assert (prepared.width, prepared.height) == SIZE
    for state in codec.states:
        target = RateTarget(state=state)
        assert codec.edge.encode(prepared, target) == codec.edge.encode(codec.photo, target)


def test_what_cannot_be_aimed_at_is_refused(codec: Halves) -> None:
    with pytest.raises(BudgetError) as refused:
        codec.edge.check(RateTarget(state=codec.states[-1] + 1))
    assert refused.value.reason == "unknown_state"
    with pytest.raises(BudgetError) as refused:
        codec.edge.shorten(codec.at(0), RateTarget(psnr_db=30))
    assert refused.value.reason == "no_photo"
    try:
        codec.edge.check(RateTarget(psnr_db=1))
    except BundleError as error:
        assert error.reason == "no_psnr_model"  # noqa: PT017


def test_regions_are_coded_or_refused(codec: Halves) -> None:
    target = RateTarget(state=codec.states[-1])
    regions = (Region(0.2, 0.2, 0.6, 0.6, 0),)
    try:
        codec.edge.check_regions()
    except BundleError as error:
        assert error.reason == "regions_unsupported"  # noqa: PT017
        with pytest.raises(BundleError):
            codec.edge.encode(codec.photo, target, regions=regions)
        return
    bitstream = codec.edge.encode(codec.photo, target, regions=regions)
    assert codec.cloud.decode(bitstream).state <= target.state


def test_a_reference_is_used_or_refused(codec: Halves) -> None:
    key_frame = codec.at(0)
    if codec.edge.predicts:
        before = codec.edge.decode(key_frame)
        assert codec.cloud.decode(key_frame, reference=before).checksum() == before.checksum()
        return
    before = codec.edge.decode(key_frame)
    for work in (
        lambda: codec.edge.encode(codec.photo, RateTarget(state=0), reference=before),
        lambda: codec.cloud.decode(key_frame, reference=before),
    ):
        with pytest.raises(BundleError) as refused:
            work()
        assert refused.value.reason == "reference_unsupported"


def _moving(count: int) -> list[Any]:
    """A picture in which a small part changes now and then."""
    frames, other = [picture(*SIZE, seed=1)], picture(*SIZE, seed=2)
    for number in range(1, count):
        frame = frames[-1].copy()
        if number % 3:
            frame[5 + number : 20 + number, 10:30] = other[5 + number : 20 + number, 10:30]
        frames.append(frame)
    return frames


def test_predicted_frames_are_the_same_at_both_ends_and_at_every_cut(codec: Halves) -> None:
    """A stream of key and predicted frames, whole and with all of it cut to a coarser state."""
    if not codec.edge.predicts or codec.version == 3:
        return
    for start in codec.bundle.manifest.starts:
        finest = codec.bundle.manifest.finest_of(start)
        here: dict[int, Any] = dict.fromkeys(range(finest, start + 1))
        before, predicted = None, 0
        for frame in _moving(8):
            made = codec.edge.encode(frame, RateTarget(state=finest), reference=before)
            predicted += made.reference is not None
            encoded = codec.edge.decode(made, reference=before)
            again = open_edge(codec.bundle).decode(made, reference=before)
            assert encoded.checksum() == again.checksum()
            for state, last in here.items():
                cut = Bitstream.from_bytes(made.truncate(state).to_bytes())
                here[state] = found = codec.cloud.decode(cut, reference=last)
                assert found.checksum() == codec.cloud.cut(encoded, state).checksum()
                alone = codec.cloud.key_frame(found)
                assert alone.reference is None
                assert codec.edge.decode(alone).checksum() == found.checksum()
                packed = codec.cloud.unpack(codec.edge.pack(found))
                assert packed.checksum() == found.checksum()
                assert codec.cloud.reference_checksum(packed) == codec.edge.reference_checksum(
                    encoded
                )
            before = encoded
        assert predicted >= 6


def test_a_still_picture_costs_next_to_nothing_and_changes_no_value(codec: Halves) -> None:
    if not codec.edge.predicts or codec.version == 3:
        return
    first = codec.at(0)
    before = codec.edge.decode(first)
    still = codec.edge.encode(codec.photo, RateTarget(state=0), reference=before)
    assert still.reference is not None
    assert still.file_bytes < max(60, first.file_bytes // 4)


def test_another_reference_is_found_out(codec: Halves) -> None:
    if not codec.edge.predicts or codec.version == 3:
        return
    frames = _moving(3)
    target = RateTarget(state=codec.states[-1])
    before = codec.edge.decode(codec.edge.encode(frames[0], target))
    other = codec.edge.decode(codec.edge.encode(picture(*SIZE, seed=5), target))
    small = codec.edge.decode(codec.edge.encode(picture(64, 48, seed=1), target))
    predicted = codec.edge.encode(frames[1], target, reference=before, distance=3)
    assert predicted.reference is not None
    assert predicted.reference.distance == 3
    for wrong in (other, small):
        for half in (codec.edge, codec.cloud):
            read = Bitstream.from_bytes(predicted.to_bytes())
            with pytest.raises(BitstreamError) as refused:
                half.decode(read, reference=wrong)
            assert refused.value.reason == "reference_mismatch"
    assert codec.edge.encode(frames[1], target, reference=small).reference is None
    with pytest.raises(BitstreamError) as refused:
        codec.cloud.unpack(codec.cloud.pack(before)[:9])
    assert refused.value.reason == "bad_latents"


def test_another_version_says_the_same_values(codec: Halves) -> None:
    for bitstream in (codec.at(codec.states[0]), codec.at(codec.states[-1])):
        values = codec.cloud.decode(bitstream).checksum()
        for version in FORMAT_VERSIONS:
            again = codec.edge.recode(bitstream, version)
            assert again.version == version
            assert codec.cloud.decode(again).checksum() == values
            assert codec.edge.recode(again, codec.version) == bitstream
    foreign = dataclasses.replace(codec.at(0), bundle_id=b"another!")
    with pytest.raises(BitstreamError) as refused:
        codec.edge.recode(foreign, 7 - codec.version)
    assert refused.value.reason == "wrong_bundle"


def test_a_predicted_frame_without_its_reference_says_what_it_needs(codec: Halves) -> None:
    if codec.version == 3:
        return  # it has no references
    reference = Reference(2, codec.edge.decode(codec.at(0)).checksum()[:4])
    predicted = dataclasses.replace(codec.at(0), reference=reference)
    read = Bitstream.from_bytes(predicted.to_bytes())
    assert read.reference == reference
    for work in (
        lambda: codec.edge.decode(read),
        lambda: codec.cloud.decode(read),
        lambda: codec.edge.recode(read, 3),
        lambda: codec.edge.shorten(read, RateTarget(max_bytes=1)),
    ):
        with pytest.raises(BitstreamError, match="the frame 2 before it") as refused:
            work()
        assert refused.value.reason == "reference_needed"
        assert refused.value.details["checksum"] == reference.checksum.hex()
    assert codec.edge.shorten(read, RateTarget(state=read.state)).reference == reference


def test_a_bitstream_of_another_bundle_is_refused(codec: Halves) -> None:
    foreign = dataclasses.replace(codec.at(0), bundle_id=b"another!")
    for half in (codec.edge, codec.cloud):
        with pytest.raises(BitstreamError) as refused:
            half.decode(foreign)
        assert refused.value.reason == "wrong_bundle"


def test_damaged_bytes_are_refused_or_a_coarser_picture(codec: Halves) -> None:
    """Half of the mutants are damaged, half are forged: every checksum of theirs is right."""
    rng = np.random.default_rng(12)
    finest = codec.edge.encode(codec.photo)
    other = codec.edge.encode(picture(*SIZE, seed=2))
    coarser = {
        codec.cloud.decode(whole.truncate(layer.state)).checksum()
        for whole in (finest, other)
        for layer in whole.layers
    }
    refused = 0
    for number in range(MUTANTS):
        forged = number % 2 == 1
        mutant = reseal(finest, rng) if forged else mutate(finest.to_bytes(), other.to_bytes(), rng)
        try:
            bitstream = Bitstream.from_bytes(mutant, allow_cut=True)
            latents = codec.cloud.decode(bitstream)
        except BitstreamError:
            refused += 1
            continue
        # What was forged well is what an edge could have sent; what was damaged is less, or whole.
        assert forged or latents.checksum() in coarser
        assert (latents.width, latents.height) == (bitstream.width, bitstream.height)
    assert refused > MUTANTS // 3


def test_one_and_many_threads_decode_the_same(codec: Halves) -> None:
    bitstreams = [codec.at(state) for state in codec.states] * 4
    alone = [codec.cloud.decode(one).checksum() for one in bitstreams]
    with ThreadPoolExecutor(8) as pool:
        together = [latents.checksum() for latents in pool.map(codec.cloud.decode, bitstreams)]
    assert together == alone


def test_pictures_are_of_the_photos_size_and_alike_in_a_batch(codec: Halves) -> None:
    pictures = codec.bundle.manifest.pictures
    if not pictures:
        with pytest.raises(BundleError) as refused:
            codec.cloud.open_reconstructor()
        assert refused.value.reason == "no_picture"
        return
    worker = codec.cloud.open_reconstructor()
    latents = [codec.cloud.decode(codec.at(state)) for state in (codec.states[0],) * 2]
    assert latents[0].batch_key == latents[1].batch_key
    for spec in pictures:
        first, second = worker.reconstruct(latents, Rendering(spec.name, seed=5))
        assert first.dtype == np.uint8
        assert first.shape == (SIZE[1], SIZE[0], 3)
        np.testing.assert_array_equal(first, second)
    plain = worker.reconstruct(latents[:1])[0]
    named = worker.reconstruct(latents[:1], Rendering(pictures[0].name))[0]
    np.testing.assert_array_equal(plain, named)
    with pytest.raises(BundleError) as refused:
        worker.reconstruct(latents, Rendering("no-such-decoder"))
    assert refused.value.reason == "unknown_decoder"


def test_tails_are_those_of_the_manifest(codec: Halves) -> None:
    tails = codec.cloud.open_tails()
    assert tuple(tails) == codec.bundle.manifest.tasks
    latents = codec.cloud.decode(codec.at(0))
    for name, tail in tails.items():
        (result,) = tail.run([latents])
        assert (result.task, tail.name) == (name, name)
        assert tail.models


def test_a_device_gets_what_the_edge_needs_and_no_more(codec: Halves) -> None:
    light = Bundle.from_zip_bytes(codec.bundle.to_zip("edge"))
    assert light.id == codec.bundle.id
    edge = open_edge(light)
    edge.load()
    assert edge.encode(codec.photo, RateTarget(state=0), version=codec.version) == codec.at(0)
    for name, entry in codec.bundle.manifest.files.items():
        if entry.side == "cloud":
            with pytest.raises(BundleError):
                light.read(name)


def test_an_unknown_codec_is_named_with_the_known_ones(tmp_path: Path) -> None:
    made = small_bundle(NAMES[0], tmp_path)
    for name in ("seacom", "base", "kit", "tails"):
        unknown = Bundle.create(
            tmp_path / name, made.manifest.model_copy(update={"codec": name}), {}
        )
        for opened in (open_edge, open_cloud):
            with pytest.raises(BundleError, match=f"has {', '.join(NAMES)}") as refused:
                opened(unknown)
            assert refused.value.reason == "unknown_codec"


@pytest.mark.parametrize("name", NAMES)
def test_the_edge_half_has_no_torch(name: str) -> None:
    module = f"codec.{name.replace('-', '_')}.edge"
    code = f"import sys, {module}\nassert not {{'torch', 'cv2'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_has_a_recipe_and_steps_in_an_order_that_works(name: str) -> None:
    made = trainer(name)
    assert made.recipe.model_fields
    done: set[str] = set()
    for step in made.steps:
        assert step.summary
        assert set(step.reads) <= done
        done.add(step.name)
    assert len(done) == len(made.steps) > 0


@pytest.mark.parametrize("workers", [0, 1], ids=["local", "process"])
def test_a_photo_travels_through_a_real_server(
    codec: Halves, start_server: Callable[..., ServerThread], workers: int
) -> None:
    manifest = codec.bundle.manifest
    server = start_server(bundle=codec.bundle.origin, workers=workers)
    with EdgeSession(server.address, bundle=codec.bundle) as session:
        result = session.send(codec.photo, state=0, picture=bool(manifest.pictures) or None)
    assert result.error is None
    assert result.analysis is not None
    assert set(result.analysis.tasks) == set(manifest.tasks)
    assert (result.picture is not None) == bool(manifest.pictures)
