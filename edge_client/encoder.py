"""Photos to bitstreams at a rate chosen per picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.base import EdgeOptions, PrecisionChoice, open_edge
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess import from_array, load_photo
from shared.targets import RateTarget, Regions

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A photo as a frame of a stream.

    finest: at the finest state that the layers of ``sent`` can be continued to, where that was
    asked for and there is one. latents: what the receiver decodes of ``sent``, for the next frame
    to refer to, where that was asked for and the bundle codes predicted frames.
    """

    sent: Bitstream
    finest: Bitstream | None = None
    latents: Any | None = None


class EdgeEncoder:
    """Encodes photos with one bundle. Not for use by two threads at once."""

    def __init__(
        self,
        bundle: Bundle | None = None,
        *,
        threads: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        rate_weight: float | None = None,
        precision: PrecisionChoice | None = None,
    ) -> None:
        """bundle: the default picture bundle when None. Raises BundleError when damaged.

        rate_weight: the squared error of a feature vector that one bit is worth (the lambda of
        entropy-constrained quantisation); 0 takes the nearest colours, None is what the bundle's
        palette was made for.
        precision: of the network, see :class:`codec.EdgeOptions`. Raises BudgetError ``bad_target``
        when the rate weight is negative or no finite number.
        """
        self.bundle = bundle if bundle is not None else Bundle.load()
        self._limits = limits
        self.codec = open_edge(self.bundle, EdgeOptions(threads, precision, rate_weight))
        self.codec.load()

    def encode(
        self,
        photo: str | Path | bytes | Pixels,
        *,
        state: int | None = None,
        bits_per_pixel: float | None = None,
        max_bytes: int | None = None,
        psnr_db: float | None = None,
        best_effort: bool = False,
        regions: Regions = (),
        reference: Any | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """Encode a photo (a path, a file's bytes, or uint8 [H, W, 3] RGB) at a rate.

        At most one target is given; none is the bundle's default state, the finest that is worth
        its bits, or the finest of all where the bundle names none. Bits and bytes are never
        exceeded: the finest whole layers that fit, then as many passes of the next one as fit. For
        ``psnr_db`` the file is the smallest whose reconstruction is expected to reach it, by the
        bundle's own model; see :class:`codec.settings.PsnrModel` for what share of photos does.

        ``regions`` are told to their own states where those are finer: the rest has the state that
        is asked for, or what the bits or bytes leave. They do not go with a PSNR target.

        ``reference`` is what ``codec.decode`` has made of the frame ``distance`` before this one,
        for a predicted frame; the result stands alone all the same where that is cheaper.

        ``version`` is of the file's format: 3 is for servers and tools of older releases.

        Raises PhotoError for what is no picture or has a refused size; BudgetError
        ``unknown_state``, ``budget_too_small``, or ``target_unreachable`` when even the finest
        state is not expected to reach ``psnr_db`` (with ``best_effort`` that state is returned);
        BundleError ``no_psnr_model``, and ``reference_unsupported`` where the bundle codes no
        predicted frames.
        """
        return self.encode_at(
            photo,
            RateTarget(state, bits_per_pixel, max_bytes, psnr_db, best_effort),
            regions,
            reference=reference,
            distance=distance,
            version=version,
        )

    def encode_at(
        self,
        photo: str | Path | bytes | Pixels,
        target: RateTarget,
        regions: Regions = (),
        *,
        reference: Any | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """:meth:`encode` for a target that is one already."""
        return self.encode_frame(
            photo, target, regions, reference=reference, distance=distance, version=version
        ).sent

    def encode_kept(
        self,
        photo: str | Path | bytes | Pixels,
        target: RateTarget,
        *,
        version: int = FORMAT_VERSION,
    ) -> tuple[Bitstream, Bitstream]:
        """The photo at ``target``, and at the finest state that its layers can be continued to.

        That is the finest of the chain from which the first one is. The network runs once. Raises
        like :meth:`encode`.
        """
        frame = self.encode_frame(photo, target, keep=True, version=version)
        return frame.sent, frame.finest or frame.sent

    def encode_frame(
        self,
        photo: str | Path | bytes | Pixels,
        target: RateTarget,
        regions: Regions = (),
        *,
        keep: bool = False,
        decoded: bool = False,
        reference: Any | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
        fit: Callable[[Bitstream], int] | None = None,
    ) -> EncodedFrame:
        """A frame of a stream; raises like :meth:`encode`.

        keep: with what its layers can be continued to; regions have no such thing. decoded: with
        what the receiver decodes of it. Neither runs the network again. fit: is shown the frame at
        ``target`` and says at which of its states it is sent, that or a coarser one; not where
        there are regions, whose frames cannot be cut without them.
        """
        target = self.wanted(target)
        self.codec.check(target)
        pixels = self._load(photo)
        decoded = decoded and self.codec.predicts

        def encode(photo: Any, target: RateTarget, reference: Any) -> Bitstream:
            return self.codec.encode(
                photo,
                target,
                regions=regions,
                reference=reference,
                distance=distance,
                version=version,
            )

        def fitted(sent: Bitstream, values: Any | None) -> tuple[Bitstream, Any | None]:
            if fit is None or regions or (state := fit(sent)) <= sent.state:
                return sent, values
            return sent.truncate(state), None if values is None else self.codec.cut(values, state)

        if not keep or regions:
            sent = encode(pixels, target, reference)
            values = self.codec.decode(sent, reference=reference) if decoded else None
            sent, values = fitted(sent, values)
            return EncodedFrame(sent, None, values)
        prepared = self.codec.prepare(pixels)
        if target.state is not None:
            finest = encode(prepared, self._finest(target.state), reference)
            values = self.codec.decode(finest, reference=reference) if decoded else None
            if decoded:
                values = self.codec.cut(values, target.state)
            sent, values = fitted(finest.truncate(target.state), values)
            return EncodedFrame(sent, finest, values)
        sent = encode(prepared, target, reference)
        # At once, while it costs nothing.
        values = self.codec.decode(sent, reference=reference) if decoded else None
        finest_target = self._finest(sent.state)
        if sent.state == finest_target.state:
            finest, (sent, values) = sent, fitted(sent, values)
            return EncodedFrame(sent, finest, values)
        # What was cheaper for the one rate need not be for the other.
        finest = encode(prepared, finest_target, None if sent.reference is None else reference)
        if finest.reference != sent.reference or finest.layers[: len(sent.layers)] != sent.layers:
            finest = sent
        sent, values = fitted(sent, values)
        return EncodedFrame(sent, finest, values)

    def wanted(self, target: RateTarget) -> RateTarget:
        """``target``; the bundle's default state where it asks for nothing."""
        state = self.bundle.advice.default_state
        return RateTarget(state=state) if target == RateTarget() and state is not None else target

    def _finest(self, state: int) -> RateTarget:
        return RateTarget(state=self.bundle.manifest.finest_of(state))

    def _load(self, photo: str | Path | bytes | Pixels) -> Pixels:
        if isinstance(photo, np.ndarray):
            return from_array(photo, limits=self._limits)
        return load_photo(photo, limits=self._limits)

    def check(self, target: RateTarget) -> None:
        """Raise BudgetError ``unknown_state``, or BundleError ``no_psnr_model``."""
        self.codec.check(target)

    def check_regions(self) -> None:
        """Raise BundleError ``regions_unsupported`` where the bundle knows no regions."""
        self.codec.check_regions()
