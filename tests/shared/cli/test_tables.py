"""Tables keep every character of a name, on a terminal of any width and in a pipe."""

from __future__ import annotations

import pytest
from rich.text import Text

from shared.cli import Batch, Outcome

NAME = "/photos/[bold]" + "x" * 150 + ":cat:.jpg"


def table(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a table with a long name beside a number, without colours."""
    batch = Batch(as_json=False, columns={"file": "file", "bytes": "bytes"})
    batch.report(Outcome([{"file": NAME, "bytes": 123456}]))
    return Text.from_ansi(capsys.readouterr().out).plain.splitlines()


def test_without_a_terminal_a_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = [line for line in table(capsys) if "photos" in line]
    assert row == f"│ {NAME} │ 123456 │"


@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_terminal_a_long_name_folds(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stdout for a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = table(capsys)
    assert max(map(len, lines)) <= columns
    cells = [line.split("│")[1:3] for line in lines if line.startswith("│")]
    assert "".join(name.strip() for name, _ in cells) == NAME
    assert "".join(number.strip() for _, number in cells) == "123456"
