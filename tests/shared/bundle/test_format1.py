"""Manifests of the first format: read, hashed and written as they always were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codec.settings import FeatureSettings
from shared.bundle import Bundle, Manifest, packaged_names
from shared.errors import BundleError

IDS = {
    "classify": "e568c959221919c5ec2edcded8bb461becfe5463feb0748e9bef409170d26037",
    "detect": "5a6536d3c86150fe6dc34b110f35d7f030079b2c27d8ca841500442fa47df57a",
    "fidelity": "2af3b7ef12ef8e605805201228cceb97fe3074d8bee54654bba8b7d1137eb960",
    "picture": "902437e6f8f42814084df4c61ec1c22e377c68d7231dae271ea66cdb6e8e341c",
}

FULL: dict[str, Any] = {
    "format": "featherwire-bundle/1",
    "name": "old",
    "version": "1",
    "codec": "markov-palette",
    "scales": [{"name": "rgb", "stride": 16, "channels": 3}],
    "planes": [{"name": "a", "scale": "rgb", "first_channel": 0, "channels": 3, "depth": 2}],
    "states": [
        {"state": 0, "depths": [2], "typical_bits_per_pixel": 1},
        {"state": 1, "depths": [1], "typical_bits_per_pixel": 0.5},
    ],
    "input_multiple": 16,
    "halo_positions": 0,
    "resize": {"width": 64, "height": 64},
    "psnr_model": {
        "rows": [
            {"intercept": -1, "distortion": {"rgb": 1}, "detail": [0, 1, 2], "margin_db": 0}
        ] * 2,
        "share": 0.9,
    },
    "tails": [
        {
            "task": "detection",
            "output": "boxes",
            "classes": [{"id": 1, "name": "red"}],
            "model": {"name": "m", "version": "1", "licence": "MIT"},
        }
    ],
    "files": {
        "decoder.safetensors": {"sha256": "0" * 64, "size_bytes": 1},
        "extractor.onnx": {"sha256": "1" * 64, "size_bytes": 1},
        "palette.npz": {"sha256": "2" * 64, "size_bytes": 1},
        "tail.onnx": {"sha256": "3" * 64, "size_bytes": 1},
    },
}  # fmt: skip
FULL_ID = "c4e51893b8c7237a7d451d09e61f6cda623541e059f0e1d4d9a4f9e6e2cdf0c3"
"""As the release that wrote this format computed it."""


def test_the_packaged_bundles_keep_their_ids() -> None:
    assert {name: Bundle.load(name).id for name in packaged_names()} == IDS


def test_what_the_old_model_filled_in_is_hashed() -> None:
    read = Manifest.parse(json.dumps(FULL).encode())
    assert read.id == FULL_ID
    again = Manifest.parse(json.dumps(read.to_values()).encode())
    assert (again.id, again) == (FULL_ID, read)


def test_what_was_not_said_is_derived() -> None:
    read = Manifest.parse(json.dumps(FULL).encode())
    assert {name: entry.side for name, entry in read.files.items()} == {
        "decoder.safetensors": "cloud",
        "extractor.onnx": "edge",
        "palette.npz": "both",
        "tail.onnx": "cloud",
    }
    assert read.tasks == ("detection",)
    assert [picture.name for picture in read.pictures] == ["faithful"]
    assert not read.scales_with_size
    assert read.starts == (1,)
    chained = FULL | {"chains": [{"planes": 1, "states": 1}, {"planes": 1, "states": 1}]}
    chained.pop("psnr_model")
    read = Manifest.parse(json.dumps(chained).encode())
    assert read.starts == (0, 1)
    assert [read.finest_of(state) for state in (0, 1)] == [0, 1]


def test_a_codec_reads_its_settings_from_both_formats() -> None:
    for name in packaged_names():
        bundle = Bundle.load(name)
        settings = FeatureSettings.of(bundle)
        common = {key: getattr(bundle.manifest, key) for key in ("name", "version", "codec")}
        second = settings.manifest(bundle.manifest.pictures, files=bundle.manifest.files, **common)
        assert second.format == "featherwire-bundle/2"
        assert second.states == bundle.manifest.states
        assert FeatureSettings.model_validate(second.settings) == settings
        assert Manifest.parse(json.dumps(second.to_values()).encode()) == second


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"states": 7},
        {"states": [7]},
        {"states": [{"state": 0, "depths": [1], "typical_bits_per_pixel": "much"}]},
        {"chains": [{"planes": 1, "states": 9}]},
        {"chains": [{}]},
        {"tails": [{"output": "boxes"}]},
        {"files": {"a": {"sha256": "0" * 64, "size_bytes": 1, "side": "edge"}}},
        {"files": []},
        {"resize": 3},
        {"decoder": 4},
        {"psnr_model": {"rows": 10**400}},
    ],
)
def test_a_malformed_one_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleError) as refused:
        Manifest.parse(json.dumps(FULL | change).encode())
    assert refused.value.reason == "bad_manifest"
