"""The demo's figures say what stands behind them, and its page hides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo.report import Cell, Row, agreement_text, write_page


def agreed(there: int, found: int, both: int) -> dict[str, Any]:
    f1 = 2 * both / (there + found) if there + found else 0.0
    return {"reference_count": there, "candidate_count": found, "matched": both, "f1": f1}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (agreed(0, 0, 0), "none"),
        (agreed(2, 2, 2), "1.00"),
        (agreed(1, 0, 0), "0.00 (0 of 1)"),
        (agreed(2, 3, 2), "0.80 (2 of 2, 1 more)"),
        (agreed(0, 1, 0), "0.00 (0 of 0, 1 more)"),
    ],
)
def test_an_agreement_says_of_how_many(value: dict[str, Any] | None, text: str) -> None:
    assert agreement_text(value) == text


def test_nothing_of_the_page_is_behind_scrollbars(tmp_path: Path) -> None:
    cell = Cell(3, 900, 0.1, "p.png", "r.png", 20.9, {"detection": agreed(1, 0, 0)}, {})
    write_page([Row("cat", 64, 48, "o.png", "a.png", "1", [cell])], "ab" * 32, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "overflow-x" not in page
    assert "PSNR compares pixel by pixel" in page
    assert "detection 0.00 (0 of 1)" in page
