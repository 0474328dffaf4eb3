"""What most codecs have in common: frames that stand alone, and names for what they refuse.

A codec derives its two halves from :class:`StandaloneEdge` and :class:`StandaloneCloud`, gives what
is abstract, and overrides the defaults that it is better than. See :mod:`codec.base`, the contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from codec.base import Latents, Pixels, Reconstructor, Tail, no_picture
from shared.bitstream import FORMAT_VERSION, Bitstream, Reference
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError, BundleError
from shared.targets import RateTarget

L = TypeVar("L", bound=Latents)


@dataclass(frozen=True, slots=True, eq=False)
class WithPhoto:
    """A photo: uint8 [height, width, 3]."""

    photo: Pixels

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.photo.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.photo.shape[0])


class StandaloneHalf(ABC, Generic[L]):
    """What both halves do: see :class:`codec.base.Half`. By default nothing is predicted."""

    def __init__(self, bundle: Bundle) -> None:
        """bundle: which the half is opened for."""
        self._bundle = bundle

    @property
    def predicts(self) -> bool:
        """See :attr:`codec.base.Half.predicts`."""
        return False

    def decode(self, bitstream: Bitstream, *, reference: L | None = None) -> L:
        """See :meth:`codec.base.Half.decode`."""
        self._check_reference(reference)
        if bitstream.reference is None:
            return self._decode(bitstream)
        if reference is None:
            raise reference_needed(bitstream.reference)
        found = self.reference_checksum(reference)
        if found != bitstream.reference.checksum:
            raise reference_mismatch(
                f"a predicted frame refers to values with the checksum "
                f"{bitstream.reference.checksum.hex()}, and was given some with {found.hex()}"
            )
        return self._decode(bitstream, reference)

    def reference_checksum(self, latents: L) -> bytes:
        """See :meth:`codec.base.Half.reference_checksum`."""
        self._check_reference(latents)
        raise NotImplementedError

    def cut(self, latents: L, state: int) -> L:
        """See :meth:`codec.base.Half.cut`."""
        self._check_reference(latents)
        raise NotImplementedError

    def key_frame(self, latents: L, *, version: int = FORMAT_VERSION) -> Bitstream:
        """See :meth:`codec.base.Half.key_frame`."""
        self._check_reference(latents)
        raise NotImplementedError

    def pack(self, latents: L) -> bytes:
        """See :meth:`codec.base.Half.pack`."""
        self._check_reference(latents)
        raise NotImplementedError

    def unpack(self, data: bytes) -> L:
        """See :meth:`codec.base.Half.unpack`."""
        raise self._no_references()

    def _check_reference(self, reference: L | None) -> None:
        if reference is not None and not self.predicts:
            raise self._no_references()

    def _no_references(self) -> BundleError:
        return BundleError(
            "reference_unsupported",
            f"bundle {self._bundle.manifest.name} codes every frame by itself, without the one "
            "before",
        )

    @abstractmethod
    def _decode(self, bitstream: Bitstream, reference: L | None = None) -> L:
        """The latents of a bitstream; raises as :meth:`decode` does. The reference is the right
        frame, perhaps at too coarse a state."""


class StandaloneEdge(StandaloneHalf[L]):
    """The edge half of frames that stand alone; by default without regions and PSNR targets."""

    def load(self) -> None:
        """See :meth:`codec.base.EdgeCodec.load`. By default there is nothing to load."""

    def shorten(
        self, bitstream: Bitstream, target: RateTarget, *, reference: L | None = None
    ) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.shorten`. It stays in its chain of states."""
        if target.psnr_db is not None:
            raise BudgetError("no_photo", "a PSNR target needs the photo, not its features")
        if target.state is not None:
            return bitstream.truncate(target.state)
        budget = target.budget_bytes(bitstream.width, bitstream.height)
        if budget is None:
            return bitstream
        self._check_reference(reference)
        if bitstream.reference is not None and reference is None:
            raise reference_needed(bitstream.reference)
        return self._shorten(bitstream, budget, reference)

    def recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        """See :meth:`codec.base.EdgeCodec.recode`."""
        check_alone(bitstream)
        check_bundle(bitstream, self._bundle)
        return bitstream if bitstream.version == version else self._recode(bitstream, version)

    @abstractmethod
    def _recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        """The same values in another version; raises as :meth:`decode` does."""

    def _shorten(self, bitstream: Bitstream, budget: int, reference: L | None = None) -> Bitstream:
        """The bitstream in at most ``budget`` bytes; by default all of it, or none."""
        if bitstream.file_bytes > budget:
            raise too_small(budget, bitstream.state, bitstream.file_bytes)
        return bitstream

    def check(self, target: RateTarget) -> None:
        """See :meth:`codec.base.EdgeCodec.check`. By default there are states, bits and bytes."""
        check_target(target, self._bundle)

    def check_regions(self) -> None:
        """See :meth:`codec.base.EdgeCodec.check_regions`. By default there are none."""
        raise no_regions(self._bundle)


class StandaloneCloud(StandaloneHalf[L]):
    """The cloud half of frames that stand alone; by default it only decodes."""

    def open_reconstructor(self, *, device: str = "cpu") -> Reconstructor[L]:
        """See :meth:`codec.base.CloudCodec.open_reconstructor`. By default there is none."""
        raise no_picture(self._bundle)

    def open_tails(
        self, *, device: str = "cpu", threads: int = 1, score_threshold: float | None = None
    ) -> Mapping[str, Tail[L]]:
        """See :meth:`codec.base.CloudCodec.open_tails`. By default there are none."""
        return {}


def check_alone(bitstream: Bitstream) -> None:
    """Raise BitstreamError ``reference_needed`` for a predicted frame."""
    if bitstream.reference is not None:
        raise reference_needed(bitstream.reference)


def reference_needed(reference: Reference) -> BitstreamError:
    """What is wrong with a predicted frame alone: it says of which frame it is predicted."""
    return BitstreamError(
        "reference_needed",
        f"a predicted frame: it is decoded with the frame {reference.distance} before it in "
        f"its session, whose values have the checksum {reference.checksum.hex()}; it does not "
        "stand alone",
        distance=reference.distance,
        checksum=reference.checksum.hex(),
    )


def reference_mismatch(why: str) -> BitstreamError:
    """What is wrong with a predicted frame and a reference that is not the one it needs."""
    return BitstreamError("reference_mismatch", f"{why}; a key frame is needed")


def check_bundle(bitstream: Bitstream, bundle: Bundle) -> None:
    """Raise BitstreamError unless the bitstream is whole and was made with the bundle."""
    bitstream.check()
    if not bitstream.made_with(bundle.short_id):
        raise BitstreamError(
            "wrong_bundle",
            f"made with bundle {bitstream.bundle_id.hex()}, but this is {bundle.manifest.name} "
            f"{bundle.short_id.hex()}; open it with the bundle it was made with (--bundle FOLDER "
            "or ZIP, from the release that wrote it), or encode the photo again with this one",
            wanted=bitstream.bundle_id.hex(),
            have=bundle.short_id.hex(),
        )


def check_target(target: RateTarget, bundle: Bundle, *, psnr: bool = False) -> None:
    """Raise BudgetError ``unknown_state``, or BundleError ``no_psnr_model``.

    psnr: whether the bundle can aim at a PSNR.
    """
    coarsest = bundle.manifest.coarsest_state
    if target.state is not None and target.state > coarsest:
        raise BudgetError(
            "unknown_state", f"there is no state {target.state}; there are 0 to {coarsest}"
        )
    if target.psnr_db is not None and not psnr:
        raise BundleError(
            "no_psnr_model",
            f"bundle {bundle.manifest.name} does not say what PSNR to expect of it; give "
            "a state, bits per pixel or bytes",
        )


def unreachable(wanted_db: float, expected_db: float) -> BudgetError:
    """What is wrong with a PSNR that is not even expected of the finest state."""
    return BudgetError(
        "target_unreachable",
        f"{wanted_db:g} dB are wanted, but only {expected_db:.2f} are expected of the finest state",
        wanted_db=wanted_db,
        expected_db=round(expected_db, 2),
    )


def no_regions(bundle: Bundle, why: str = "a state is the whole picture's") -> BundleError:
    """What is wrong with regions where there are none."""
    return BundleError(
        "regions_unsupported",
        f"bundle {bundle.manifest.name} knows no regions of interest: {why}",
    )


def too_small(budget: int, coarsest: int, needed: int) -> BudgetError:
    """What is wrong with a budget of bytes that the coarsest state exceeds."""
    return BudgetError(
        "budget_too_small",
        f"the budget is {budget} bytes, but state {coarsest}, the coarsest, takes {needed}",
        budget_bytes=budget,
        needed_bytes=needed,
    )
