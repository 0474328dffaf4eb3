"""An address is split as its user meant it, or refused; its password is in no words of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import redacted, shown, split_address


@pytest.mark.parametrize(
    ("word", "user", "password", "bare", "seen"),
    [
        ("rtsp://cam/live", None, None, "rtsp://cam/live", "rtsp://cam/live"),
        ("rtsp://me@cam", "me", None, "rtsp://cam", "rtsp://cam"),
        ("rtsp://me:@cam:554/", "me", "", "rtsp://cam:554/", "rtsp://cam:554/"),
        ("rtsp://me:a@b:c@cam/x", "me", "a@b:c", "rtsp://cam/x", "rtsp://cam/x"),
        ("RTSP://me:p%23%2F%3F@cam/x", "me", "p#/?", "rtsp://cam/x", "rtsp://cam/x"),
        ("http://me:%2523@cam/x", "me", "%23", "http://cam/x", "http://cam/x"),
        ("http://me:100%@cam/x", "me", "100%", "http://cam/x", "http://cam/x"),
        ("rtsp://me:p[a]\\s@cam/x", "me", "p[a]\\s", "rtsp://cam/x", "rtsp://cam/x"),
        ("rtsp://me:pw@[fe80::1]:554/x", "me", "pw", "rtsp://[fe80::1]:554/x", "rtsp://[fe80::1]:554/x"),
        ("http://cam/v?token=t#f", None, None, "http://cam/v?token=t", "http://cam/v"),
        ("http://10.0.0.5:80/a@2?m=a@b", None, None, "http://10.0.0.5:80/a@2?m=a@b", "http://10.0.0.5:80/a@2"),
        ("http://cam.lan:80/v?m=a@b", None, None, "http://cam.lan:80/v?m=a@b", "http://cam.lan:80/v"),
        (
            "rtsp://10.0.0.5/user=admin_password=tl_J_channel=1_stream=0.sdp?real",
            None,
            None,
            "rtsp://10.0.0.5/user=admin_password=tl_J_channel=1_stream=0.sdp?real",
            "rtsp://10.0.0.5/user=***_password=***_channel=1_stream=0.sdp",
        ),
    ],
)  # fmt: skip
def test_the_parts_of_an_address(
    word: str, user: str | None, password: str | None, bare: str, seen: str
) -> None:
    address = split_address(word)
    assert (address.user, address.password) == (user, password)
    assert (address.bare, address.shown, shown(word)) == (bare, seen, seen)
    assert not password or password not in repr(address)


@pytest.mark.parametrize(
    "word",
    [
        "rtsp://admin:s3c#ret@10.0.0.5/live",
        "rtsp://admin:s3c/ret@10.0.0.5/live",
        "rtsp://admin:s3c?ret@10.0.0.5/live",
        "rtsp://admin:12#s3c@10.0.0.5/live",  # with 12 for a port it would be an address
        "rtsp://admin:12/s3c@10.0.0.5/live",
        "rtsp://admin:12?s3c@10.0.0.5/live",
        "rtsp://me@mail.org:12/s3c@10.0.0.5/live",
        "rtsp:/admin:s3c@host/x",
        "rtsp:admin:s3c@host/x",
        "//admin:s3c@host/x",
        "'rtsp://admin:s3c@host/x'",
        "rtsp://admin:s3c ret@host/x",
        "rtsp://admin:s3c@host:port/x",
        "rtsp://admin:s3c@host:0/x",
        "rtsp://admin:s3c@:554/x",
        "rtsp://admin:s3c@[::1/x",
        "rtsp:\\\\admin:s3c@host",
    ],
)
def test_what_has_two_readings_is_refused_without_its_words(word: str) -> None:
    with pytest.raises(ValueError, match="write %23 for #") as caught:
        split_address(word)
    for text in (str(caught.value), shown(word)):
        assert "s3c" not in text
        assert "admin" not in text


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=20))
def test_no_password_is_shown(password: str) -> None:
    secret = f"Q{password}Z"  # so that a word of ours is not taken for it
    word = f"rtsp://user:{secret}@10.0.0.5/live"
    texts = [shown(word), redacted(f"[Errno 111] Connection refused: '{word}'")]
    try:
        split_address(word)
    except ValueError as error:
        texts.append(str(error))
    assert all(secret not in text for text in texts)


def test_files_are_shown_as_they_are() -> None:
    for word in ("photos/a@2x.jpg", "/data/12:30.jpg", "day one.mp4", "a:b.jpg", "a/?.jpg"):
        assert shown(word) == word
    assert shown("cam?token=s3c") == "cam?***"


def test_messages_of_libraries_lose_what_is_secret() -> None:
    text = "GET 'http://me:p@cam/x?token=t' failed, then rtsp://h/y; p%40w is wrong"
    assert redacted(text, "p%40w", "", None) == (
        "GET 'http://***@cam/x' failed, then rtsp://h/y; *** is wrong"
    )
