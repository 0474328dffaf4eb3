"""A bundle's network without its codec, and the parts of encoding, for codecs of features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codec.base import Pixels
from codec.latents import FeatureLatents, Features
from codec.onnx import FeatureExtractor
from codec.settings import FeatureSettings
from shared.bundle import Bundle
from shared.preprocess import pad_to_multiple

Job = Callable[[], object]


class UncutFeatures:
    """The extractor's features as float16, in the place of what a decoder gets.

    See :class:`codec.base.Uncut`.
    """

    def __init__(
        self, bundle: Bundle, as_decoded: Callable[[Features], Features] = lambda features: features
    ) -> None:
        """as_decoded: features to what decoders and tails take of them.

        Raises BundleError for a damaged bundle.
        """
        self._extractor = FeatureExtractor(bundle, threads=1, precision="fp32")
        self._settings, self._as_decoded = FeatureSettings.of(bundle), as_decoded

    @property
    def input_size(self) -> tuple[int, int] | None:
        """See :class:`codec.base.Uncut`."""
        resize = self._settings.resize
        return None if resize is None else (resize.width, resize.height)

    def prepare(self, picture: Pixels) -> Pixels:
        """See :class:`codec.base.Uncut`."""
        placement = self._settings.placement(picture.shape[1], picture.shape[0])
        if placement is not None:
            return placement.apply(picture)
        return pad_to_multiple(picture, self._settings.input_multiple)

    def encode(
        self, picture: Pixels, size: tuple[int, int] | None = None
    ) -> tuple[int, FeatureLatents]:
        """See :class:`codec.base.Uncut`."""
        halves = {
            name: values.astype(np.float16) for name, values in self._extractor(picture).items()
        }
        features = {name: values.astype(np.float32) for name, values in halves.items()}
        width, height = size or (picture.shape[1], picture.shape[0])
        latents = FeatureLatents(self._as_decoded(features), 0, width, height)
        return sum(values.nbytes for values in halves.values()), latents


def feature_stages(bundle: Bundle, photo: Pixels) -> tuple[dict[str, Job], Features]:
    """Padding or resizing and the network as jobs, and the photo's features for what follows."""
    extractor, uncut = FeatureExtractor(bundle, threads=1), UncutFeatures(bundle)
    seen = uncut.prepare(photo)
    jobs: dict[str, Job] = {
        "pad" if uncut.input_size is None else "resize": lambda: uncut.prepare(photo),
        f"network ({extractor.precision})": lambda: extractor(seen),
    }
    return jobs, extractor(seen)
