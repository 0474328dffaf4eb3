"""load_photo reads every kind of photo people have, upright and in sRGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from shared.errors import PhotoError
from shared.limits import DEFAULT_LIMITS
from shared.preprocess import load_photo

WIDTH, HEIGHT = 61, 43


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def scene() -> NDArray[np.uint8]:
    """A smooth RGB picture whose four corners differ, HEIGHT x WIDTH x 3."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    red = columns * 255 // (WIDTH - 1)
    green = rows * 255 // (HEIGHT - 1)
    return np.stack([red, green, (red + green) // 2], axis=2).astype(np.uint8)


@pytest.fixture
def grey16() -> NDArray[np.uint16]:
    return np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)


def assert_close(actual: NDArray[np.uint8], expected: NDArray[np.uint8], mean: float) -> None:
    assert actual.shape == expected.shape
    difference = float(np.abs(actual.astype(int) - expected.astype(int)).mean())
    assert difference < mean


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats_keep_every_pixel(kind: str, scene: NDArray[np.uint8]) -> None:
    picture = load_photo(encode(Image.fromarray(scene), kind))
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, scene)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_are_close(kind: str, scene: NDArray[np.uint8]) -> None:
    assert_close(load_photo(encode(Image.fromarray(scene), kind, quality=95)), scene, 4)


def test_path_and_bytes_read_the_same(tmp_path: Path, scene: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(scene), "PNG")
    path = tmp_path / "photo.of.mine"  # the content says what it is, not the name
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(load_photo(source), scene)


def test_first_frame_of_an_animation(scene: NDArray[np.uint8]) -> None:
    first, second = Image.fromarray(scene), Image.fromarray(255 - scene)
    for kind, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encode(first, kind, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(load_photo(data), scene)
    gif = encode(first, "GIF", save_all=True, append_images=[second])
    assert_close(load_photo(gif), scene, 12)


def test_photo_of_several_pictures_as_phones_write_it(scene: NDArray[np.uint8]) -> None:
    first, second = Image.fromarray(scene), Image.fromarray(255 - scene)
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert_close(load_photo(data), scene, 4)


# --- orientation -----------------------------------------------------------------------------

# What the camera stored for an upright scene, by EXIF orientation (EXIF 2.32, tag 0x0112).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_photo_comes_back_upright(kind: str, orientation: int, scene: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
    options = {} if kind == "TIFF" else {"quality": 95}
    assert_close(load_photo(encode(stored, kind, exif=exif, **options)), scene, 4)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0junk"])
def test_damaged_exif_is_no_reason_to_refuse(exif: bytes, scene: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(scene), "JPEG", quality=95, exif=exif)
    assert_close(load_photo(data), scene, 4)


def test_unknown_orientation_is_left_alone(scene: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(
        load_photo(encode(Image.fromarray(scene), "PNG", exif=exif)), scene
    )


def test_orientation_of_16_bit_greyscale(grey16: NDArray[np.uint16]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = load_photo(encode(Image.fromarray(grey16), "PNG", exif=exif))
    np.testing.assert_array_equal(picture[:, :, 0], np.rot90(to_8_bits(grey16), -1))


# --- alpha -----------------------------------------------------------------------------------


def test_transparent_pixels_lie_on_white(scene: NDArray[np.uint8]) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    picture = load_photo(encode(Image.fromarray(np.concatenate([scene, alpha], 2)), "PNG"))
    assert (picture[:10] == 255).all()
    half = scene[10:20] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(picture[10:20] - half).max() <= 1
    np.testing.assert_array_equal(picture[20:], scene[20:])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha(kind: str, scene: NDArray[np.uint8]) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :30] = 0
    image = Image.merge("LA", [Image.fromarray(scene[:, :, 0]), Image.fromarray(alpha)])
    picture = load_photo(encode(image, kind))
    assert (picture[:, :30] == 255).all()
    np.testing.assert_array_equal(picture[:, 30:], scene[:, 30:, :1].repeat(3, 2))


@pytest.mark.parametrize("mode", ["WEBP", "AVIF"])
def test_alpha_of_lossy_formats(mode: str, scene: NDArray[np.uint8]) -> None:
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    picture = load_photo(encode(Image.fromarray(np.concatenate([scene, alpha], 2)), mode))
    assert (picture >= 254).all()


def test_colour_named_transparent(scene: NDArray[np.uint8]) -> None:
    scene[:5, :5] = (1, 2, 3)
    picture = load_photo(encode(Image.fromarray(scene), "PNG", transparency=(1, 2, 3)))
    assert (picture[:5, :5] == 255).all()
    np.testing.assert_array_equal(picture[5:], scene[5:])


def test_grey_level_named_transparent(grey16: NDArray[np.uint16]) -> None:
    grey8 = to_8_bits(grey16)
    picture = load_photo(encode(Image.fromarray(grey8), "PNG", transparency=0))
    assert (picture[grey8 == 0] == 255).all()
    assert (picture[grey8 == 7] == 7).all()
    wide = load_photo(encode(Image.fromarray(grey16), "PNG", transparency=int(grey16[1, 1])))
    assert (wide[1, 1] == 255).all()
    assert (wide[0, 0] == 0).all()


# --- palettes, bi-level, grey ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette_is_looked_up(kind: str, scene: NDArray[np.uint8]) -> None:
    paletted = Image.fromarray(scene).quantize(64)
    expected = np.asarray(paletted.convert("RGB"))
    np.testing.assert_array_equal(load_photo(encode(paletted, kind)), expected)


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff"])
def test_palette_with_transparency(transparency: int | bytes, scene: NDArray[np.uint8]) -> None:
    paletted = Image.fromarray(scene).quantize(8)
    picture = load_photo(encode(paletted, "PNG", transparency=transparency))
    indices = np.asarray(paletted)
    opaque = np.asarray(paletted.convert("RGB"))
    assert (picture[indices == 0] == 255).all()
    np.testing.assert_array_equal(picture[indices == 5], opaque[indices == 5])
    if isinstance(transparency, bytes):
        half = opaque[indices == 1] * (128 / 255) + 127
        assert np.abs(picture[indices == 1] - half).max() <= 1


def test_palette_with_alpha_plane(scene: NDArray[np.uint8]) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, :20] = 0
    image = Image.fromarray(np.concatenate([scene, alpha], 2)).quantize(16).convert("PA")
    expected = np.asarray(image.convert("RGBA"))
    picture = load_photo(encode(image, "TIFF"))
    assert (picture[expected[:, :, 3] == 0] == 255).all()
    solid = expected[:, :, 3] == 255
    np.testing.assert_array_equal(picture[solid], expected[solid][:, :3])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_bi_level_becomes_black_and_white(kind: str, scene: NDArray[np.uint8]) -> None:
    bits = scene[:, :, 0] > 90
    picture = load_photo(encode(Image.fromarray(bits), kind))
    np.testing.assert_array_equal(picture, np.where(bits, 255, 0)[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_grey_is_repeated_in_three_channels(kind: str, scene: NDArray[np.uint8]) -> None:
    picture = load_photo(encode(Image.fromarray(scene[:, :, 1]), kind))
    np.testing.assert_array_equal(picture, scene[:, :, 1:2].repeat(3, 2))


# --- wide samples ----------------------------------------------------------------------------


def to_8_bits(levels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """round(v / 65535 * 255) in integers, half up; independent of the code under test."""
    return ((levels.astype(np.int64) * 510 + 65535) // 131070).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">"), ("PPM", "<")]
)
def test_16_bit_grey_uses_the_whole_range(
    kind: str, order: str, grey16: NDArray[np.uint16]
) -> None:
    picture = load_photo(encode(Image.fromarray(grey16.astype(order + "u2")), kind))
    np.testing.assert_array_equal(picture, to_8_bits(grey16)[:, :, None].repeat(3, 2))


def test_dark_16_bit_pgm_stays_dark() -> None:
    data = b"P5 16 16 65535\n" + (200).to_bytes(2, "big") * 256
    assert (load_photo(data) == 1).all()


def test_pgm_of_10_bits_reaches_white() -> None:
    assert (load_photo(b"P5 16 16 1023\n" + b"\x03\xff" * 256) == 255).all()


def test_16_bit_rgb_png() -> None:
    """Pillow cannot write one, so it is put together here (PNG specification, section 11)."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    sample = struct.pack(">HHH", 0xFFFF, 0x8040, 0x0123)
    rows = (b"\0" + sample * 16) * 16
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert (load_photo(data) == (0xFF, 0x80, 0x01)).all()


@pytest.mark.parametrize(
    ("values", "full_scale"),
    [
        (np.linspace(0, 1, 256, dtype=np.float32), 1),
        (np.linspace(0, 255, 256, dtype=np.float32), 255),
        (np.linspace(0, 65535, 256, dtype=np.float32), 65535),
        (np.arange(256, dtype=np.int32), 255),
        (np.arange(256, dtype=np.int32) * 257, 65535),
    ],
)
def test_wide_samples_take_the_smallest_customary_range(
    values: NDArray[np.float32], full_scale: int
) -> None:
    picture = load_photo(encode(Image.fromarray(values.reshape(16, 16)), "TIFF"))
    expected = np.round(values.astype(float) / full_scale * 255).astype(int).reshape(16, 16)
    assert np.abs(picture[:, :, 0] - expected).max() <= 1
    assert picture.max() == 255


@pytest.mark.parametrize("odd_one", [-1.0, 1e6, np.nan, np.inf, -np.inf])
def test_values_without_a_customary_range_are_refused(odd_one: float) -> None:
    levels = np.full((20, 20), 0.5, np.float32)
    levels[3, 3] = odd_one
    with pytest.raises(PhotoError) as caught:
        load_photo(encode(Image.fromarray(levels), "TIFF"))
    assert caught.value.reason == "unsupported"


def test_negative_integers_are_refused() -> None:
    levels = np.full((20, 20), -5, np.int32)
    with pytest.raises(PhotoError) as caught:
        load_photo(encode(Image.fromarray(levels), "TIFF"))
    assert caught.value.reason == "unsupported"


# --- other colour spaces ---------------------------------------------------------------------


def cmyk_of(rgb: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(rgb).convert("CMYK")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_a_negative(kind: str, scene: NDArray[np.uint8]) -> None:
    """Pillow writes CMYK JPEGs as Adobe does: inverted, with an APP14 marker."""
    options = {"quality": 95} if kind == "JPEG" else {}
    assert_close(load_photo(encode(cmyk_of(scene), kind, **options)), scene, 4)


def test_cmyk_jpeg_without_adobe_marker_is_read_alike(scene: NDArray[np.uint8]) -> None:
    """Readers agree on Adobe's polarity with or without its marker; so do we, through Pillow."""
    data = encode(cmyk_of(scene), "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    plain = data[:at] + data[at + 2 + length :]
    assert b"Adobe" not in plain
    assert_close(load_photo(plain), scene, 4)


def test_ycck_jpeg(scene: NDArray[np.uint8]) -> None:
    """YCCK is Adobe's transform 2: YCbCr of 255 minus the stored, inverted CMY (libjpeg)."""
    cmyk = np.asarray(cmyk_of(scene))
    ycc = np.asarray(Image.fromarray(np.ascontiguousarray(cmyk[:, :, :3])).convert("YCbCr"))
    # Pillow inverts all four planes on writing, so what shall reach the file is inverted here.
    planes = np.concatenate([255 - ycc, cmyk[:, :, 3:]], axis=2)
    data = bytearray(encode(Image.fromarray(planes, "CMYK"), "JPEG", quality=95, subsampling=0))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    assert_close(load_photo(bytes(data)), scene, 5)


def test_ycbcr_tiff(scene: NDArray[np.uint8]) -> None:
    assert_close(load_photo(encode(Image.fromarray(scene).convert("YCbCr"), "TIFF")), scene, 2)


def test_lab_tiff_gives_the_colours_back(scene: NDArray[np.uint8]) -> None:
    lab = ImageCms.profileToProfile(
        Image.fromarray(scene),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    assert_close(load_photo(encode(lab, "TIFF")), scene, 4)


# --- ICC profiles ----------------------------------------------------------------------------


def swapped_profile() -> bytes:
    """sRGB's own profile with its red and green primaries exchanged: a change one can see."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = icc.index(b"rXYZ"), icc.index(b"gXYZ")
    icc[red : red + 4], icc[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(icc).replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_icc_profile_is_applied(kind: str, scene: NDArray[np.uint8]) -> None:
    options = {} if kind in ("PNG", "TIFF") else {"quality": 100}
    data = encode(Image.fromarray(scene), kind, icc_profile=swapped_profile(), **options)
    assert_close(load_photo(data), scene[:, :, [1, 0, 2]], 6)


def test_srgb_profile_changes_nothing(scene: NDArray[np.uint8]) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(
        load_photo(encode(Image.fromarray(scene), "PNG", icc_profile=icc)), scene
    )


@pytest.mark.parametrize(
    "icc", [b"junk", swapped_profile()[:200], swapped_profile() + bytes(4 * 2**20)]
)
def test_useless_profile_is_left_out(icc: bytes, scene: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(scene), "TIFF", icc_profile=icc)
    np.testing.assert_array_equal(load_photo(data), scene)


def test_profile_of_another_colour_space_is_left_out(scene: NDArray[np.uint8]) -> None:
    grey = Image.fromarray(scene[:, :, 0])
    data = encode(grey, "PNG", icc_profile=swapped_profile())
    np.testing.assert_array_equal(load_photo(data), scene[:, :, :1].repeat(3, 2))


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (8192, 16), (16, 8192), (17, 8191)])
def test_extreme_sizes_are_read(size: tuple[int, int]) -> None:
    picture = load_photo(encode(Image.new("RGB", size, (9, 8, 7)), "PNG"))
    assert picture.shape == (size[1], size[0], 3)
    assert (picture == (9, 8, 7)).all()


def test_default_limits_are_the_promised_ones() -> None:
    assert (DEFAULT_LIMITS.min_side, DEFAULT_LIMITS.max_side) == (16, 8192)


# -- what is not quite as it should be ------------------------------------------------------------


def jpeg(**options: Any) -> bytes:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, int) + rng.integers(-20, 21, (120, 160, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}, {"restart_marker_blocks": 4}],
)
def test_a_jpeg_with_all_its_pixels_needs_no_end_marker(options: dict[str, Any]) -> None:
    data = jpeg(**options)
    whole = load_photo(data)
    for cut in (1, 2):
        assert np.array_equal(load_photo(data[:-cut]), whole)
    for cut in (*range(5, 40), 300, len(data) // 2):
        with pytest.raises(PhotoError) as caught:
            load_photo(data[:-cut])
        assert caught.value.reason == "truncated", cut


PRIMARIES = {
    "P3": (
        (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407),
    ),
    "sRGB": (
        (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141),
    ),
}  # fmt: skip


def profile(description: str, primaries: str) -> bytes:
    """An ICC profile (version 4) with the curve of sRGB."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    text = description.encode("utf-16-be")
    name = b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS"
    name += struct.pack(">II", len(text), 28) + text
    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0)
    curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    red, green, blue = PRIMARIES[primaries]
    tags = [
        (b"desc", name), (b"cprt", name), (b"wtpt", xyz(0.9642, 1, 0.8249)),
        (b"rXYZ", xyz(*red)), (b"gXYZ", xyz(*green)), (b"bXYZ", xyz(*blue)),
        (b"rTRC", curve), (b"gTRC", curve), (b"bTRC", curve),
    ]  # fmt: skip
    at, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, body in tags:
        body += bytes(-len(body) % 4)
        table += tag + struct.pack(">II", at + len(data), len(body))
        data += body
    head = struct.pack(">I", at + len(data)) + bytes(4) + struct.pack(">I", 0x04300000)
    head += b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


@pytest.mark.parametrize(
    ("description", "primaries", "expected"),
    [
        ("Display P3", "P3", (217, 42, 23)),  # as LittleCMS says
        ("Display P3 Gamut with sRGB Transfer", "P3", (217, 42, 23)),
        ("sRGB IEC61966-2.1", "P3", (217, 42, 23)),
        ("", "P3", (217, 42, 23)),
        ("sRGB", "sRGB", (200, 60, 40)),
        ("c2", "sRGB", (200, 60, 40)),  # what small files call it
        ("Camera RGB", "sRGB", (200, 60, 40)),
    ],
)
def test_a_profile_is_what_it_contains_and_not_what_it_is_called(
    description: str, primaries: str, expected: tuple[int, int, int]
) -> None:
    buffer = io.BytesIO()
    image = Image.new("RGB", (32, 32), (200, 60, 40))
    image.save(buffer, "PNG", icc_profile=profile(description, primaries))
    assert tuple(load_photo(buffer.getvalue())[5, 5]) == expected
