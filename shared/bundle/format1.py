"""Manifests of the first format, in which a codec's settings lay among the rest.

They are read and hashed as they are, for ever: a bundle that was made with one keeps its id. In
memory they look like those of the second format, with what they lack derived from what they have.
"""

from __future__ import annotations

from typing import Any, Final

FORMAT: Final = "featherwire-bundle/1"

_DECODER_FILE: Final = "decoder.safetensors"
_SETTINGS: Final = frozenset(
    {
        "scales", "planes", "states", "input_multiple", "halo_positions", "resize", "chains",
        "tails", "psnr_model", "decoder",
    }
)  # fmt: skip
_COMMON: Final = frozenset({"format", "name", "version", "description", "licence", "codec"})


def lifted(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest's values in the second format; ``format`` stays as it is.

    Raises ValueError for what no manifest of the first format can be.
    """
    unknown = set(values) - _SETTINGS - _COMMON - {"files"}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: extra inputs are not permitted")
    try:
        return _lifted(values)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"it is malformed or lacks something: {error!r}") from None


def lowered(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`lifted`."""
    common = {name: values[name] for name in _COMMON}
    files = {
        name: {"sha256": entry["sha256"], "size_bytes": entry["size_bytes"]}
        for name, entry in values["files"].items()
    }
    return {**common, **values["settings"], "files": files}


def _lifted(values: dict[str, Any]) -> dict[str, Any]:
    settings = {name: values[name] for name in _SETTINGS if values.get(name) is not None}
    settings.setdefault("decoder", {})
    # What the first format's model filled in or converted, it also hashed.
    rows = [
        {**row, "typical_bits_per_pixel": float(row["typical_bits_per_pixel"])}
        for row in settings["states"]
    ]
    settings["states"] = rows
    if "resize" in settings:
        settings["resize"] = {"fit": "stretch", **settings["resize"]}
    if "tails" in settings:
        settings["tails"] = [{"file": "tail.onnx", **tail} for tail in settings["tails"]]
    if "psnr_model" in settings:
        settings["psnr_model"] = _floats(settings["psnr_model"])
    tails = settings.get("tails", [])
    cloud = {_DECODER_FILE, *(tail["file"] for tail in tails)}
    files: dict[str, Any] = {}
    for name, entry in values["files"].items():
        edge = name.startswith("extractor") and name.endswith(".onnx")
        side = "cloud" if name in cloud else "edge" if edge else "both"
        files[name] = {"sha256": entry["sha256"], "size_bytes": entry["size_bytes"], "side": side}
        if len(entry) != 2:
            raise ValueError(f"files.{name}: extra inputs are not permitted")
    pictures = []
    if _DECODER_FILE in files:
        pictures = ["faithful", "vivid"] if settings["decoder"].get("variances") else ["faithful"]
    return {
        "format": FORMAT,
        **{name: values[name] for name in _COMMON - {"format"} if name in values},
        "states": _states(rows, settings.get("chains")),
        "scales_with_size": "resize" not in settings,
        "pictures": [{"name": name} for name in pictures],
        "tasks": [tail["task"] for tail in tails],
        "files": files,
        "settings": settings,
    }


def _states(
    rows: list[dict[str, Any]], chains: list[dict[str, int]] | None
) -> list[dict[str, Any]]:
    begins, last = set(), -1
    for chain in chains or [{"states": len(rows)}]:
        last += int(chain["states"])
        begins.add(last)
    return [
        {
            "state": row["state"],
            "typical_bits_per_pixel": row["typical_bits_per_pixel"],
            "begins": number in begins,
        }
        for number, row in enumerate(rows)
    ]


def _floats(value: Any) -> Any:
    """Every number as a float."""
    if isinstance(value, dict):
        return {name: _floats(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
