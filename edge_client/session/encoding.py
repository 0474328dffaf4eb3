"""Photos as frames: what is sent of each bundle at once, and what is kept back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codec import EdgeCodec, open_edge
from codec.base import recode
from edge_client.session.groups import Coding
from edge_client.session.refinement_store import Part
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError, PhotoError, SessionError
from shared.preprocess import load_photo
from shared.targets import RateTarget, Regions

if TYPE_CHECKING:
    from edge_client.encoder import EdgeEncoder


Photo = str | Path | bytes | NDArray[np.uint8] | Bitstream
"""A picture file or its bytes, uint8 HxWx3 RGB, or what was encoded: a Bitstream or .fwf file."""


@dataclass(frozen=True, slots=True)
class EncodedPhoto:
    """A photo by the bundles of which something is sent, and what makes the others' parts."""

    parts: tuple[Part, ...]
    others: tuple[Bundle, ...] = ()
    make_others: Callable[[], tuple[Part, ...]] = tuple


class PhotoEncoder:
    """Encodes photos with a bundle, and with others beside it. Encoders are made when needed."""

    def __init__(
        self,
        bundle: Bundle,
        also: Sequence[Bundle] = (),
        *,
        encoder: EdgeEncoder | None = None,
        threads: int = 1,
        find: Callable[[bytes], Bundle | None] = lambda short_id: None,
        commanded: bool = False,
    ) -> None:
        """encoder: for ``bundle``, to share between sessions. find: bundles of frames that were
        made before, by short id. commanded: an operator chose ``bundle``, so a state that it does
        not have, and that was meant for another one, becomes its coarsest."""
        self.bundle = bundle
        self.also = {one.short_id: one for one in also if one.id != bundle.id}
        self._threads = threads
        self._encoders = {} if encoder is None else {encoder.bundle.short_id: encoder}
        self._codecs: dict[bytes, EdgeCodec[Any, Any]] = {}
        self._find = find
        self._has_regions: bool | None = None
        self._commanded = commanded
        self._coarsest = max(row.state for row in bundle.manifest.states)

    def encoder(self, bundle: Bundle) -> EdgeEncoder:
        """The encoder of one of the bundles."""
        if bundle.short_id not in self._encoders:
            from edge_client.encoder import EdgeEncoder

            self._encoders[bundle.short_id] = EdgeEncoder(bundle, threads=self._threads)
        return self._encoders[bundle.short_id]

    def bundles(self, short_ids: Iterable[bytes]) -> tuple[Bundle, ...]:
        """The bundles of these ids; one that is not at hand is taken for the session's first."""
        return tuple(self._bundle(short_id) for short_id in short_ids)

    def _bundle(self, short_id: bytes) -> Bundle:
        return self.at_hand(short_id) or self.bundle

    def at_hand(self, short_id: bytes) -> Bundle | None:
        """The bundle whose id begins like that; None where it is not on the device."""
        for bundle in (self.bundle, *self.also.values()):
            if short_id and bundle.short_id.startswith(short_id):
                return bundle
        return self._find(short_id)

    def in_version(self, bitstream: Bitstream, version: int) -> Bitstream:
        """The bitstream for a server that reads this version of the format, without loss.

        Raises SessionError ``format_unsupported`` where that takes a bundle that is not here, and
        BitstreamError for a damaged one.
        """
        if bitstream.version <= version:
            return bitstream
        bundle = self.at_hand(bitstream.bundle_id)
        if bundle is None:
            raise SessionError(
                "format_unsupported",
                f"a bitstream in format {bitstream.version} is to be coded again for a server that "
                f"reads {version}, but its bundle {bitstream.bundle_id.hex()} is not on this "
                "device: give it, or use a newer server",
            )
        return recode(bundle, bitstream, (version,))

    def regions_of(self, regions: Regions) -> Regions:
        """``regions``; or none, with one warning, where the first bundle knows none."""
        if regions and self._has_regions is None:
            try:
                self.encoder(self.bundle).check_regions()
                self._has_regions = True
            except BundleError as error:
                self._has_regions = False
                logging.getLogger(__name__).warning("warning: %s", error.message)
        return regions if self._has_regions else ()

    def within(self, rate: RateTarget) -> RateTarget:
        """``rate``; or, where an operator chose the bundle, with a state that it has."""
        if not self._commanded or rate.state is None or rate.state <= self._coarsest:
            return rate
        return RateTarget(state=self._coarsest)

    def encode(
        self,
        photo: Photo,
        rate: RateTarget,
        *,
        refinable: bool = False,
        send_with: Mapping[bytes, int | None] | None = None,
        keep: bool = True,
        regions: Regions = (),
        version: int = FORMAT_VERSION,
        coding: Coding | None = None,
        fit: Callable[[Bitstream], int] | None = None,
    ) -> EncodedPhoto:
        """The photo by every bundle, the first one's part first, at ``rate``.

        A rate that says nothing is each bundle's default state. refinable: keep the finer layers
        of the first one too. send_with: of which others (short ids) a state is sent at once, None
        for their default; the rest of them is only kept, and encoded later, when the frame is on
        its way. Without ``keep`` there is no such rest.
        regions: what the first bundle tells more finely; nothing finer is kept of such a frame.
        version: the newest of the format that the server reads. coding: what the parts may refer
        to; None is nothing, and what is only kept stands alone always. fit: of the first bundle's
        part, see ``EdgeEncoder.encode_frame``.
        What is encoded already has no other parts. Raises PhotoError, also ``no_photo`` where
        ``send_with`` needs one; BudgetError and BitstreamError as ``EdgeEncoder`` does.
        """
        at_once = dict(send_with or {})
        if isinstance(photo, str | Path) and Path(photo).suffix.lower() == ".fwf":
            photo = _read_fwf(Path(photo))
        if isinstance(photo, Bitstream):
            if at_once:
                raise PhotoError("no_photo", "another bundle needs the photo, not its features")
            if photo.reference is not None:
                raise BitstreamError(
                    "reference_needed",
                    "a predicted frame cannot be sent without those that it refers to",
                )
            photo = self.in_version(self._named(photo), version)
            return EncodedPhoto((Part(self._cut(photo, rate), photo if refinable else None),))
        rate = self.within(rate)
        pixels: str | Path | bytes | NDArray[np.uint8] = photo
        if self.also and not isinstance(photo, np.ndarray):
            pixels = np.asarray(load_photo(photo))
        encoder = self.encoder(self.bundle)
        regions = self.regions_of(regions) if rate.psnr_db is None else ()
        keep_first = refinable and not regions
        parts = [self._part(encoder, pixels, rate, regions, keep_first, version, coding, fit)]
        for short_id, bundle in self.also.items():
            if short_id in at_once:
                target = RateTarget(state=at_once[short_id])
                also = self.encoder(bundle)
                parts.append(self._part(also, pixels, target, (), True, version, coding))
        others = tuple(one for one in self.also.values() if keep and one.short_id not in at_once)

        def make_others() -> tuple[Part, ...]:
            return tuple(
                Part(None, self.encoder(one).encode(pixels, state=0, version=version))
                for one in others
            )

        return EncodedPhoto(tuple(parts), others, make_others)

    def _part(
        self,
        encoder: EdgeEncoder,
        pixels: str | Path | bytes | NDArray[np.uint8],
        rate: RateTarget,
        regions: Regions,
        keep: bool,
        version: int,
        coding: Coding | None,
        fit: Callable[[Bitstream], int] | None = None,
    ) -> Part:
        made = encoder.encode_frame(
            pixels,
            rate,
            regions,
            keep=keep,
            decoded=coding is not None and coding.predicts,
            reference=None if coding is None else coding.reference(encoder.bundle.short_id),
            distance=1 if coding is None else coding.distance,
            version=version,
            fit=fit,
        )
        if coding is not None:
            coding.made(encoder.codec, made.latents, made.sent)
        return Part(made.sent, made.finest)

    def _named(self, bitstream: Bitstream) -> Bitstream:
        """With the eight bytes of its bundle's id, of which a file may have fewer."""
        bundle = self.at_hand(bitstream.bundle_id)
        return bitstream if bundle is None else replace(bitstream, bundle_id=bundle.short_id)

    def _cut(self, bitstream: Bitstream, rate: RateTarget) -> Bitstream:
        """What ``EdgeEncoder.encode`` would have made of the photo, from ready layers."""
        if rate.psnr_db is not None:
            raise BudgetError("no_photo", "a PSNR target needs the photo, not its features")
        if rate.state is not None:
            return bitstream.truncate(rate.state)
        budget = rate.budget_bytes(bitstream.width, bitstream.height)
        if budget is None or bitstream.file_bytes <= budget:
            return bitstream
        bundle = self._bundle(bitstream.bundle_id)
        if bundle.short_id not in self._codecs:
            self._codecs[bundle.short_id] = open_edge(bundle)
        return self._codecs[bundle.short_id].shorten(bitstream, rate)


def _read_fwf(path: Path) -> Bitstream:
    """A .fwf file; one whose end is missing gives what is complete, with a warning."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PhotoError("unreadable", f"{path}: {error.strerror or error}") from None
    bitstream = Bitstream.from_bytes(data, allow_cut=True)
    if bitstream.file_bytes != len(data):
        logging.getLogger(__name__).warning(
            "warning: %s is cut; its state %d is complete and is used", path, bitstream.state
        )
    return bitstream
