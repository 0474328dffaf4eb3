"""Names of any bytes, on their way to databases, messages and terminals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.names import MAX_NAME_BYTES, beside, printable, text_of


@given(st.binary(max_size=40))
def test_any_bytes_become_text_that_everything_takes(name: bytes) -> None:
    text = text_of(os.fsdecode(name))
    assert json.loads(json.dumps(text)) == text
    text.encode("utf-8")
    shown = printable(text)
    assert "\n" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"b-caf\xe9.jpg", r"b-caf\xe9.jpg"),
        ("写真.jpg".encode(), "写真.jpg"),
        ("é".encode(), "é"),
    ],
)
def test_what_is_utf_8_stays(name: bytes, text: str) -> None:
    assert text_of(Path(os.fsdecode(name))) == text
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("bell\x07", r"bell\x07"),
        ("\udce9", r"\udce9"),
        ("plain name (1).jpg", "plain name (1).jpg"),
    ],
)
def test_controls_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("character", ["a", "é", "写", "\udce9"])
def test_a_name_beside_a_long_one_fits(tmp_path: Path, character: str) -> None:
    width = len(os.fsencode(character))
    stem = character * (251 // width)
    for suffix in (".fwf", ".json", ".refined.json"):
        path = beside(tmp_path, stem, suffix)
        assert len(os.fsencode(path.name)) <= MAX_NAME_BYTES
        path.write_bytes(b"x")
        assert path.name.endswith(suffix)
    other = stem[:-1] + "b"
    assert beside(tmp_path, other, ".refined.json") != beside(tmp_path, stem, ".refined.json")
    assert beside(tmp_path, "short", ".json") == tmp_path / "short.json"
