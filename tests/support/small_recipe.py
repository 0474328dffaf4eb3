"""The recipe of a codec that is trained in seconds."""

from __future__ import annotations

RECIPE = {
    "codec": "markov-palette",
    "name": "small",
    "photos": {"short_side": 128, "sources": [{"path": "train"}], "exclude": ["held-out"]},
    "extractor": {
        "semantic_channels": 8, "texture_channels": 4, "widths": [8, 12, 16], "blocks": 1,
    },
    "decoder": {
        "restorer_width": 8, "widths": [16, 12, 8], "blocks": [1, 1, 1], "embedding": 8,
    },
    "planes": [
        {"name": "s0", "scale": "semantic", "first_channel": 0, "channels": 8, "depth": 5},
        {"name": "t0", "scale": "texture", "first_channel": 0, "channels": 4, "depth": 3},
    ],
    "states": [[5, 3], [5, 1], [4, 0], [2, 0]],
    "fit": {
        "crop": 64, "batch": 4, "joint_steps": 60, "decoder_steps": 20, "float_steps": 10,
        "settle_steps": 30, "tree_samples": 1024, "linear_samples": 16, "checkpoint_every": 20,
        "threads": 1,
    },
    "tables": {
        "photos": 6, "hidden": [8, 8], "width": 8, "trunk": 16, "features": 4, "steps": 60,
        "batch": 512,
    },
}  # fmt: skip
