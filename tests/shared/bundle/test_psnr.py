"""The PSNR model of a bundle: what it expects, and what manifests may say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from codec.settings import FeatureSettings, PsnrModel, PsnrRow
from shared.bundle import Bundle
from tests.support.tiny_bundle import codec_files, tiny_manifest

ROW = PsnrRow(
    intercept=-1.0,
    distortion={"semantic": 0.5, "texture": 0.25},
    detail=(0.1, 0.2, 0.3),
    margin_db=0.7,
)


def test_a_row_is_the_documented_formula() -> None:
    known = {"semantic": 0.01, "texture": 0.2}
    detail = (1e-4, 1e-3, 1e-2)
    log_mse = -1 + 0.5 * math.log10(0.01) + 0.25 * math.log10(0.2)
    log_mse += 0.1 * -4 + 0.2 * -3 + 0.3 * -2
    assert ROW.psnr(known, detail) == pytest.approx(-10 * log_mse - 0.7)
    # Nothing lost at all has no logarithm, and yet an expectation.
    assert math.isfinite(ROW.psnr({"semantic": 0.0, "texture": 0.0}, (0.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": (ROW,) * 4},
        {"rows": (ROW.model_copy(update={"distortion": {"smell": 1.0}}),) * 5},
    ],
)
def test_a_model_must_fit_the_states_and_scales(changes: dict[str, object]) -> None:
    model = PsnrModel.model_validate({"rows": (ROW,) * 5, "share": 0.9} | changes)
    with pytest.raises(ValidationError, match="PSNR model"):
        tiny_manifest(psnr_model=model)


@pytest.mark.parametrize(
    "changes", [{"margin_db": -1}, {"intercept": float("nan")}, {"detail": (0.0, 0.0)}]
)
def test_senseless_rows_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PsnrRow.model_validate(ROW.model_dump() | changes)


def test_it_is_under_the_id_and_absent_it_changes_none(tmp_path: Path) -> None:
    plain = Bundle.create(tmp_path / "plain", tiny_manifest(), codec_files())
    model = PsnrModel(rows=(ROW,) * 5, share=0.9)
    manifest = tiny_manifest(psnr_model=model)
    made = Bundle.create(tmp_path / "made", manifest, codec_files())
    assert made.id != plain.id
    read = Bundle.from_zip_bytes(Bundle.load(tmp_path / "made").to_zip())
    assert (read.id, FeatureSettings.of(read).psnr_model) == (made.id, model)
    assert "psnr_model" not in (tmp_path / "plain" / "manifest.json").read_text()
