"""What the console's rate page shows, taken out of ``benchmarks/results``.

After `make bench` this writes cloud_server/console/measured.json anew:

python -m benchmarks.console_curves
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "coco128"
TARGET = Path(__file__).parents[1] / "cloud_server" / "console" / "measured.json"

METRICS = (
    ("lpips_vgg", "LPIPS-like distance (VGG16)", "lower"),
    ("dists_vgg", "DISTS-like distance (VGG16)", "lower"),
    ("detection_ap", "Detection AP, against the uncompressed", "higher"),
    ("ms_ssim", "MS-SSIM", "higher"),
    ("psnr", "PSNR, dB", "higher"),
)
CODECS = {
    "featherwire": "Featherwire",
    "avif": "AVIF",
    "avif-half": "AVIF, half size",
    "jpeg": "JPEG",
}
SUBJECTS = {
    "detect": "Featherwire detect",
    "picture": "Featherwire picture",
    "avif-input": "AVIF at 320x320",
    "jpeg-input": "JPEG at 320x320",
}


def condensed() -> dict[str, Any]:
    """By bundle: its id, the set of photos, and curves of (bits per pixel, value)."""
    return {"picture": _picture(), "detect": _detect()}


def main() -> None:
    """Write the file."""
    TARGET.write_text(json.dumps(condensed(), indent=1) + "\n")


def _picture() -> dict[str, Any]:
    measured = json.loads((RESULTS / "curves.json").read_text())
    metrics = []
    for name, label, better in METRICS:
        curves = []
        for codec, codec_label in CODECS.items():
            points = [
                [one["bits_per_pixel"], one[name], _knob(codec, one["knob"])]
                for one in measured["averages"]
                if one["codec"] == codec and one.get(name) is not None
            ]
            curves.append({"label": codec_label, "points": sorted(points)})
        metrics.append({"label": label, "better": better, "curves": curves})
    photos = len(measured["photos"])
    return {"id": measured["bundle"], "set": "coco128", "photos": photos, "metrics": metrics}


def _detect() -> dict[str, Any]:
    measured = json.loads((RESULTS / "accuracy-detection.json").read_text())
    curves = []
    for subject, label in SUBJECTS.items():
        points = [
            [one["bits_per_pixel"], one["of_uncompressed"], _knob(subject, one["knob"])]
            for one in measured["points"]
            if one["subject"] == subject
        ]
        curves.append({"label": label, "points": sorted(points)})
    metric = {
        "label": "Detection AP, as a part of the uncompressed network's",
        "better": "higher",
        "curves": curves,
    }
    return {
        "id": measured["bundles"]["detect"],
        "set": "coco128",
        "photos": measured["photos"],
        "metrics": [metric],
    }


def _knob(codec: str, knob: float) -> str:
    ours = codec in {"featherwire", "detect", "picture"}
    return f"state {knob}" if ours else f"quality {knob}"


if __name__ == "__main__":
    main()
