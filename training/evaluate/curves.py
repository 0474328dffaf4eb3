"""Rate-distortion curves over a set of photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from cloud_server.reconstruct import Reconstructor
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.codec import open_codec
from shared.preprocess import pad_to_multiple
from training.evaluate.metrics import Metrics
from training.evaluate.rivals import Rival

Pixels = npt.NDArray[np.uint8]
Point = dict[str, Any]


class BundleUnderTest:
    """A bundle's two halves in one process: the ONNX extractor, the codec, the decoder."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._session = ort.InferenceSession(
            bundle.read("extractor.onnx"), providers=["CPUExecutionProvider"]
        )
        self._codec = open_codec(bundle)
        self._reconstructor = Reconstructor.from_bundle(bundle)

    def points(self, pixels: Pixels) -> Iterable[tuple[int, int, Pixels]]:
        """(state, file bytes, reconstruction) at every state."""
        padded = pad_to_multiple(pixels, self.bundle.manifest.input_multiple)
        names = [scale.name for scale in self.bundle.manifest.scales]
        features = dict(zip(names, self._session.run(names, {"image": padded}), strict=True))
        height, width = pixels.shape[:2]
        layers = tuple(self._codec.layers(features))
        whole = Bitstream(self.bundle.short_id, width, height, 0, layers)
        for layer in layers:
            bitstream = whole.truncate(layer.state)
            picture = self._reconstructor.reconstruct([self._codec.decode(bitstream)])[0]
            yield layer.state, bitstream.file_bytes, picture


def measure(
    photos: Iterable[tuple[str, Pixels]],
    under_test: BundleUnderTest,
    rivals: Iterable[Rival],
    metrics: Metrics,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Point]:
    """One record per photo, codec and operating point: bytes, bits per pixel, distances."""
    points: list[Point] = []
    rivals = list(rivals)
    for name, pixels in photos:
        progress(name)
        area = pixels.shape[0] * pixels.shape[1]

        def add(codec: str, knob: int, size: int, decoded: Pixels) -> None:
            figures = {key: round(v, 5) for key, v in metrics(pixels, decoded).items()}  # noqa: B023
            points.append(
                {"photo": name, "codec": codec, "knob": knob, "bytes": size,  # noqa: B023
                 "bits_per_pixel": round(8 * size / area, 6), **figures}  # noqa: B023
            )  # fmt: skip

        for state, size, decoded in under_test.points(pixels):
            add("featherwire", state, size, decoded)
        for rival in rivals:
            for quality in rival.qualities:
                add(rival.name, quality, *rival.code(pixels, quality))
    return points


def averages(points: list[Point]) -> list[Point]:
    """Means over photos for every codec and operating point, in order of first appearance."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point["codec"], point["knob"]), []).append(point)
    rows = []
    for (codec, knob), members in groups.items():
        row: Point = {"codec": codec, "knob": knob, "photos": len(members)}
        for key in ("bytes", "bits_per_pixel", "psnr", "ms_ssim", "lpips_like"):
            values = [member[key] for member in members if key in member]
            if values:
                row[key] = round(float(np.mean(values)), 5)
        rows.append(row)
    return rows


def markdown(rows: list[Point]) -> str:
    """The averages as a Markdown table."""
    keys = [k for k in ("bits_per_pixel", "bytes", "psnr", "ms_ssim", "lpips_like") if k in rows[0]]
    lines = ["| codec | state or quality | " + " | ".join(keys) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(keys))
    for row in rows:
        cells = " | ".join(_cell(row.get(key)) for key in keys)
        lines.append(f"| {row['codec']} | {row['knob']} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}"
