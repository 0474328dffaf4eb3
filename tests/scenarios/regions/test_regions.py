"""An operator asks for parts of the picture more finely: the device does so, and keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from cloud_server.consumers import ResultClient
from cloud_server.fleet.client import FleetClient
from codec.markov_palette.coding import MarkovPaletteCodec
from edge_client.cli import build_app
from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.cli import ExitCode
from shared.errors import BudgetError, BundleError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, types_pb2
from shared.proto.featherwire.v1.results_pb2 import FrameKey
from shared.targets import Region
from tests.support.fleet import named, outcomes, rate, until
from tests.support.servers import ServerThread

Start = Callable[..., ServerThread]
Image = NDArray[np.uint8]


def regions(*boxes: tuple[float, float, float, float], state: int = 0) -> fleet_pb2.Command:
    wanted = fleet_pb2.SetRegions()
    for x_min, y_min, x_max, y_max in boxes:
        box = types_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        wanted.regions.add(box=box, state=state)
    return fleet_pb2.Command(set_regions=wanted)


def test_regions_are_kept_over_a_restart_and_taken_back(
    start_server: Start, encoder: EdgeEncoder, image: Image, tmp_path: Path
) -> None:
    server, alone = start_server(), {"device": "cam", "predict": False}
    whole, coarse = encoder.encode(image), encoder.encode(image, state=4)
    wanted = encoder.encode(image, state=4, regions=(Region(0, 0, 0.5, 0.5),))
    assert coarse.file_bytes < wanted.file_bytes < whole.file_bytes

    def sent(session: EdgeSession) -> tuple[int, int]:
        result = session.send(image)
        return result.state, result.payload_bytes

    with FleetClient(server.address) as operator:
        with (
            Spool.open(tmp_path) as spool,
            EdgeSession(server.address, encoder=encoder, spool=spool, **alone) as session,
        ):
            operator.send(named("cam"), rate(4))
            until(lambda: outcomes(operator)[-1][2] == "done")
            assert sent(session)[0] == 4
            operator.send(named("cam"), regions((0, 0, 0.5, 0.5)))
            until(lambda: outcomes(operator)[-1][2] == "done")
            assert sent(session) == (0, wanted.file_bytes)
        with (
            Spool.open(tmp_path) as spool,
            EdgeSession(server.address, encoder=encoder, spool=spool, **alone) as session,
        ):
            assert sent(session) == (0, wanted.file_bytes)
            (cam,) = operator.devices()
            assert [(one.state, one.box.x_max) for one in cam.regions] == [(0, 0.5)]
            key = FrameKey(device="cam", session=session.session, sequence=spool.last_sequence)
            with ResultClient(server.address) as consumer:
                assert consumer.stored(key)[0].to_bytes() == wanted.to_bytes()
            operator.send(named("cam"), regions())
            until(lambda: outcomes(operator)[-1][2] == "done")
            assert sent(session)[0] == 4


def test_a_bundle_of_a_networks_features_says_why_it_has_no_regions(
    start_server: Start, feature_bundle: Bundle
) -> None:
    bundle = feature_bundle
    server = start_server(bundle=bundle.origin)
    with (
        FleetClient(server.address) as operator,
        EdgeSession(server.address, device="cam", bundle=bundle) as session,
    ):
        assert session.bundle.id == bundle.id
        operator.send(named("cam"), regions((0, 0, 1, 0.5)))
        until(lambda: outcomes(operator)[-1][2] == "regions_unsupported")
    with pytest.raises(BundleError, match="knows no regions of interest"):
        EdgeSession(server.address, bundle=bundle, regions=[Region(0, 0, 1, 0.5)]).open()


@pytest.mark.parametrize(
    "command",
    [
        regions((0, 0, 1.5, 1)),
        regions((0.5, 0, 0.5, 1)),
        regions((0, float("nan"), 1, 1)),
        regions((0, 0, 1, 1), state=300),
        regions(*[(0, 0, 1, 1)] * 17),
    ],
)
def test_regions_that_are_none_are_refused_before_a_device_hears_of_them(
    start_server: Start, command: fleet_pb2.Command
) -> None:
    with FleetClient(start_server().address) as operator:
        with pytest.raises(SessionError) as caught:
            operator.send(named(), command)
        assert caught.value.reason == "invalid_message"


def inside(grid: NDArray[np.generic], box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    rows, columns = grid.shape
    left, top, right, bottom = box
    down, across = np.arange(rows) / rows, np.arange(columns) / columns
    found: NDArray[np.bool_] = np.outer(
        (top <= down) & (down < bottom), (left <= across) & (across < right)
    )
    return found


BOX = (0.25, 0.0, 0.5, 0.5)


def test_inside_are_the_leaves_and_down_to_the_rests_state_the_bytes_of_a_plain_picture(
    tiny_bundle: Bundle, encoder: EdgeEncoder
) -> None:
    rng = np.random.default_rng(9)
    image = rng.integers(0, 255, (128, 128, 3)).astype(np.uint8)
    codec = MarkovPaletteCodec(tiny_bundle)
    whole, plain = encoder.encode(image), encoder.encode(image, state=3)
    part = encoder.encode(image, state=3, regions=(Region(*BOX),))
    assert part.truncate(3).to_bytes() == plain.to_bytes()
    assert part.state == 0
    assert part.file_bytes < whole.file_bytes
    leaves, told = codec.decode(whole).indices, codec.decode(part).indices
    for plane in ("semantic_0", "semantic_1", "texture_0"):
        mask = inside(leaves[plane], BOX)
        assert (leaves[plane] == told[plane])[mask].all(), plane
        assert not (leaves[plane] == told[plane])[~mask].all(), plane


def test_a_region_of_the_whole_picture_is_the_picture_and_one_no_finer_changes_nothing(
    encoder: EdgeEncoder, image: Image
) -> None:
    everything = (Region(0, 0, 1, 1, 1),)
    assert encoder.encode(image, state=4, regions=everything) == encoder.encode(image, state=1)
    assert encoder.encode(image, state=1, regions=(Region(0, 0, 0.5, 1, 3),)) == encoder.encode(
        image, state=1
    )


def test_a_budget_is_never_exceeded_and_regions_come_first(
    encoder: EdgeEncoder, image: Image
) -> None:
    region = (Region(*BOX),)
    least = encoder.encode(image, state=4).file_bytes
    most = encoder.encode(image).file_bytes
    full_inside = encoder.encode(image, state=4, regions=region).file_bytes
    for budget in range(least, most + 10, 7):
        coded = encoder.encode(image, max_bytes=budget, regions=region)
        assert coded.file_bytes <= budget
        if budget >= full_inside:
            assert (coded.state, coded.passes) == (0, 0)
    with pytest.raises(BudgetError) as caught:
        encoder.encode(image, max_bytes=least - 1, regions=region)
    assert caught.value.reason == "budget_too_small"


def test_several_regions_have_a_state_each(tiny_bundle: Bundle, encoder: EdgeEncoder) -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(0, 255, (128, 128, 3)).astype(np.uint8)
    left, right = (0.0, 0.0, 0.25, 1.0), (0.75, 0.0, 1.0, 1.0)
    codec = MarkovPaletteCodec(tiny_bundle)
    part = encoder.encode(image, state=4, regions=(Region(*left, 0), Region(*right, 2)))
    leaves, told = codec.decode(encoder.encode(image)).indices, codec.decode(part).indices
    for plane, shallower in (("semantic_0", 0), ("semantic_1", 0), ("texture_0", 3)):
        same = (leaves[plane] >> shallower) == (told[plane] >> shallower)
        assert same[inside(same, right)].all(), plane  # state 2: all of semantic, no texture
        assert (leaves[plane] == told[plane])[inside(same, left)].all(), plane
    assert not (leaves["texture_0"] == told["texture_0"])[inside(same, right)].all()


def test_a_photo_whose_rate_is_a_psnr_is_not_sent_without_its_regions(
    start_server: Start, encoder: EdgeEncoder, image: Image, tmp_path: Path
) -> None:
    address = start_server().address
    with EdgeSession(address, encoder=encoder, regions=[Region(*BOX)]) as session:
        for way in (session.send, session.analyze, session.stream):
            with pytest.raises(BudgetError) as caught:
                way(image, psnr_db=20.0)
            assert caught.value.reason == "bad_target"
        assert session.send(image, state=4).state == 0


@pytest.mark.parametrize("command", ["send", "stream"])
def test_a_region_with_a_psnr_is_wrong_usage(
    command: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = ["--server", "127.0.0.1:1", "--bundle", tiny_bundle.origin, "--json"]
    (tmp_path / "x.png").write_bytes(b"")
    words = [command, str(tmp_path / "x.png"), *options, "--region=0,0,1,0.5", "--psnr=20"]
    result = CliRunner().invoke(build_app(), words)
    assert result.exit_code == ExitCode.USAGE
    assert json.loads(result.stdout)["error"]["reason"] == "bad_target"


@pytest.mark.parametrize("text", ["", "1,2,3", "0,0,1,1:x", "0,0,1,1.1", "a,b,c,d", "nan,0,1,1"])
def test_a_region_that_is_none_is_wrong_usage(
    text: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = ["-o", str(tmp_path), "--bundle", tiny_bundle.origin, f"--region={text}", "--json"]
    result = CliRunner().invoke(build_app(), ["encode", "x.png", *options])
    assert result.exit_code == ExitCode.USAGE
    assert json.loads(result.stdout)["error"]["reason"] == "bad_region"
