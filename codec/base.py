"""What every codec does, whichever paper it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codec.markov_palette.palette import Depths, Features, Indices
from codec.rate import FINEST, RateTarget
from codec.regions import Regions
from shared.bitstream import Bitstream

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Latents:
    """What a bitstream says: quantised features per scale (float32 [C, h, w]) at ``state``.

    state: the finest complete state. width, height: of the picture before padding, in pixels.
    indices: what the features were looked up from, int32 [h, w] a plane: nodes at ``depths``,
    which are those of the state, or greater where a partial layer refines it. progress: how much
    of the way to the next finer state the partial layer's passes cover, 0 without one, below 1.
    """

    scales: dict[str, FloatArray]
    indices: Indices
    state: int
    width: int
    height: int
    depths: Depths
    progress: float = 0.0


class Codec(Protocol):
    """The numpy half of a codec, for both ends. Instances hold no per-picture state."""

    def passes(self, state: int) -> int:
        """Passes of the layer that leads to ``state``."""

    def check(self, target: RateTarget) -> None:
        """Whether the bundle can aim at ``target`` at all.

        Raises BudgetError ``unknown_state`` or BundleError ``no_psnr_model``.
        """

    def check_regions(self) -> None:
        """Whether parts of a picture can be told to a finer state than the rest.

        Raises BundleError ``regions_unsupported``, which says why not.
        """

    def encode(
        self,
        features: Features,
        width: int,
        height: int,
        target: RateTarget = FINEST,
        *,
        rate_weight: float | None = None,
        detail: Sequence[float] | None = None,
        regions: Regions = (),
    ) -> Bitstream:
        """The picture's bitstream at ``target``.

        features: float32 [C, h, w] per scale of the padded picture. width, height: of the picture
        before padding, in pixels.
        A budget is met by the finest whole layers that fit, then as many passes of the next one.
        rate_weight: squared error of a feature vector that one bit is worth; None is what the
        palette was made for. detail: of the photo,
        see :func:`shared.preprocess.block_detail`; a PSNR target needs it. regions: what is told to
        its own state where that is finer than the target's; a budget gives them what they want
        first, and the rest what is left. Raises BudgetError
        ``budget_too_small`` when the coarsest state takes more than the budget,
        ``target_unreachable`` when not even the finest state is expected to have the PSNR; what
        :meth:`check` and :meth:`check_regions` raise; ``bad_target`` for regions with a PSNR or a
        rate weight; and ValueError when scales are missing or features and size do not
        fit each other.
        """

    def shorten(self, bitstream: Bitstream, max_bytes: int) -> Bitstream:
        """What encoding with ``max_bytes`` gives, from a finer bitstream instead of the photo.

        Raises BitstreamError as :meth:`decode` does, and BudgetError as :meth:`encode` does.
        """

    def decode(self, bitstream: Bitstream) -> Latents:
        """Latents at the bitstream's state. Raises BitstreamError on anything but a valid one."""
