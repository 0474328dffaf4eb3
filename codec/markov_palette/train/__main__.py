"""The fit step alone, for a machine that has only torch, numpy, Pillow and safetensors.

    featherwire-train plan -o plan.json        # where the recipe can be read
    python -m codec.markov_palette.train plan.json --run RUN --device cuda    # there

RUN/cache is what the photos step made. Bring RUN/checkpoint.safetensors and RUN/log.jsonl back,
and go on with palette, tables and export.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from codec.kit.losses import PerceptualDistance, load_losses
from codec.kit.textures import TextureLabels
from codec.markov_palette.networks import DecoderConfig
from codec.markov_palette.train.config import FitConfig, PlaneLayout
from codec.markov_palette.train.extractor import ExtractorConfig
from codec.markov_palette.train.fit import Fit


def read_plan(plan: dict[str, Any]) -> tuple[FitConfig, ExtractorConfig, DecoderConfig, bool]:
    """The configurations in a plan, and whether to compute in bf16."""
    values = dict(plan["fit"])
    planes = tuple(PlaneLayout(**plane) for plane in values.pop("planes"))
    states = tuple(tuple(row) for row in values.pop("states"))
    extractor = dict(plan["extractor"])
    extractor["widths"] = tuple(extractor["widths"])
    return (
        FitConfig(planes, states, **values),
        ExtractorConfig(**extractor),
        DecoderConfig.from_dict(plan["decoder"]),
        bool(plan["bf16"]),
    )


def main() -> int:
    """Train until done or out of time; prints a line per 100 steps."""
    parser = argparse.ArgumentParser(prog="python -m codec.markov_palette.train")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-minutes", type=float, default=math.inf)
    parser.add_argument("--backbone", type=Path, help="squeezenet safetensors, for the LPIPS loss")
    parser.add_argument("--heads", type=Path, help="its LPIPS heads")
    parser.add_argument("--detector", type=Path, help="its backbone, for detector_weight")
    parser.add_argument("--classifier", type=Path, help="its weights, for classifier_weight")
    given = parser.parse_args()
    config, extractor, decoder, bf16 = read_plan(json.loads(given.plan.read_text()))
    perceptual = None
    if given.backbone and given.heads:
        perceptual = PerceptualDistance(
            load_file(given.backbone), load_file(given.heads), even=True
        )
    files = {"detector": given.detector, "classifier": given.classifier}
    missing = [n for n, w in config.feature_weights.items() if w > 0 and files[n] is None]
    if missing:
        parser.error(f"the plan has losses whose weights are not given: --{' --'.join(missing)}")
    job = Fit(
        config,
        extractor,
        decoder,
        cache=given.run / "cache",
        run=given.run,
        device=given.device,
        bf16=bf16,
        perceptual=perceptual,
        features=load_losses({name: file for name, file in files.items() if file is not None}),
        labels=TextureLabels(given.run / "cache") if config.texture_weight > 0 else None,
    )

    def tell(step: int, total: int, figures: dict[str, float]) -> None:
        if step % 100 == 0:
            rounded = {key: round(value, 4) for key, value in figures.items()}
            print(step, total, rounded, flush=True)

    done = job.train(tell, max_seconds=60 * given.max_minutes)
    print("done" if done else f"stopped at {job.step} of {job.total_steps}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
