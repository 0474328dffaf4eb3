"""The whole of `stream FILE` is timed on one core, with its stages and x264 beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.demo.processes import DemoError
from benchmarks.stream import stage_times, stream_speed, stream_table
from tests.support.feature_bundle import make_feature_bundle

av = pytest.importorskip("av", reason="needs the extra stream")


def clip(path: Path, frames: int) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (frames, 96, 128, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path


def test_a_run_of_real_processes(tmp_path: Path) -> None:
    bundle = make_feature_bundle(tmp_path / "bundle")
    row = stream_speed(clip(tmp_path / "clip.avi", 60), bundle, frames=60, rounds=1)
    assert row["size"] == [128, 96]
    assert row["frames"] == 40
    assert list(row["stages"])[:4] == [
        "decoding the video", "turning it to RGB", "resizing and network", "coding",
    ]  # fmt: skip
    assert all(value > 0 for value in row["stages"].values())
    assert row["rest"] == pytest.approx(row["whole"] - sum(row["stages"].values()), abs=0.1)
    table = stream_table([row])
    assert "`tiny-features` on clip.avi, 128x96" in table
    assert "of it coding" in table


def test_stages_end_with_the_clip(tmp_path: Path) -> None:
    bundle = make_feature_bundle(tmp_path / "bundle")
    stages, size = stage_times(clip(tmp_path / "clip.avi", 3), bundle, 100)
    assert stages
    assert size == [128, 96]


def test_a_clip_without_more_frames_than_the_short_piece_is_refused(tmp_path: Path) -> None:
    bundle = make_feature_bundle(tmp_path / "bundle")
    with pytest.raises(DemoError, match="no more than"):
        stream_speed(clip(tmp_path / "clip.avi", 5), bundle)
