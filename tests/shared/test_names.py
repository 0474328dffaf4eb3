"""Names of any bytes, on their way to databases, messages and terminals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_a_name_beside_another_is_made_in_any_locale(tmp_path: Path) -> None:
    """Text that came from a database or a message is no name that an ASCII locale can make."""
    code = (
        "import sys; from pathlib import Path; from shared.names import beside; "
        "beside(Path(sys.argv[1]), '\\u00e9' * 3, '.json').write_text('x')"
    )
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(os.fsencode(tmp_path)) == ["\u00e9\u00e9\u00e9.json".encode()]
