"""The contract: what a codec's folder gives, and all that the rest of the project knows of it.

    photo --EdgeCodec.encode--> Bitstream --CloudCodec.decode--> Latents --+--> Tail.run --> results
                                                                           |
                                                  Reconstructor.reconstruct +--> pictures

A bundle's manifest names its codec; the codec ``some-name`` is the folder ``codec/some_name``:

    edge.py     open_edge(bundle, options) -> EdgeCodec     numpy and ONNX Runtime, never torch
    cloud.py    open_cloud(bundle) -> CloudCodec            imported in the cloud only
    train.py    open_trainer() -> Trainer                   or a package of that name
                small_bundle(folder) -> Bundle              for tests of this contract
                SMALL_BUNDLES                               more kinds of them, if there are

Nothing is registered: a folder with these modules is a codec, and no other file knows its name.
What a state, a plane or a latent is made of, grids of floats, labels, vectors or trees, stays
inside the folder: others see :class:`Latents`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from shared.bitstream import FORMAT_VERSION, FORMAT_VERSIONS, Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError
from shared.results import ModelInfo, TaskResult
from shared.targets import FINEST, RateTarget, Regions

FloatArray = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
"""A picture: uint8 [height, width, 3], RGB."""

PrecisionChoice = Literal["auto", "fp32", "int8"]


# -- what is decoded -------------------------------------------------------------------------------


class Latents(Protocol):
    """What a bitstream says, decoded. Opaque: only its own codec knows what it is made of."""

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""

    @property
    def state(self) -> int:
        """The finest complete state, 0 finest."""

    @property
    def batch_key(self) -> Hashable:
        """Latents of equal keys can be handled in one batch."""

    def checksum(self) -> bytes:
        """A SHA-256 of all that was decoded: equal on every machine for equal bitstreams, so that
        two ends can tell whether they hold the same reference."""


L = TypeVar("L", bound=Latents)
L_in = TypeVar("L_in", bound=Latents, contravariant=True)


# -- the edge --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """How an edge works; a codec ignores what it has no use for.

    threads: for one picture. precision: of networks, ``auto`` (or None) is what is faster here.
    rate_weight: the squared error that one bit is worth (the lambda of entropy-constrained
    quantisation), 0 or more; None is what the bundle was made for.
    """

    threads: int = 1
    precision: PrecisionChoice | None = None
    rate_weight: float | None = None


DEFAULT_OPTIONS = EdgeOptions()


class Prepared(Protocol):
    """A photo, and what no target changes of its encoding: networks have run. Opaque."""

    @property
    def width(self) -> int:
        """Of the photo, in pixels."""

    @property
    def height(self) -> int:
        """Of the photo, in pixels."""


P = TypeVar("P", bound=Prepared)


class Half(Protocol[L]):
    """What both halves of a codec do: they decode, and keep what is decoded.

    A predicted frame looks at the values of its reference, a frame that was decoded before it.
    Every layer of it looks at the same and coarser layers of the reference only, so that it stays
    decodable when both are cut to a coarser state, or the reference was decoded at a coarser one
    that still is as fine as the predicted layers need.
    """

    @property
    def predicts(self) -> bool:
        """Whether the bundle codes predicted frames. Without it a reference is refused, BundleError
        ``reference_unsupported``, and perhaps the methods that only references need."""

    def decode(self, bitstream: Bitstream, *, reference: L | None = None) -> L:
        """Latents at the bitstream's state.

        reference: what the frame that it refers to was decoded to; a key frame takes no notice of
        it. Raises BitstreamError on anything but a valid bitstream of this bundle,
        ``reference_needed`` for a predicted frame without its reference, ``reference_mismatch`` for
        one with another frame, or with the right one at too coarse a state; and BundleError
        ``reference_unsupported``.
        """

    def reference_checksum(self, latents: L) -> bytes:
        """The four bytes by which predicted frames know their reference: the beginning of the
        checksum of its coarsest layer, so that it is the same at every state."""

    def cut(self, latents: L, state: int) -> L:
        """What decoding gives when a bitstream is truncated to ``state`` first, or as it is where
        the latents are no finer."""

    def key_frame(self, latents: L, *, version: int = FORMAT_VERSION) -> Bitstream:
        """The latents as a bitstream that stands alone, and is decoded to the same values."""

    def pack(self, latents: L) -> bytes:
        """The latents as bytes, for another process of the same release; quickly, not briefly."""

    def unpack(self, data: bytes) -> L:
        """What :meth:`pack` was given. Raises BitstreamError ``bad_latents``."""


class EdgeCodec(Half[L], Protocol[L, P]):
    """A codec's edge half, opened for one bundle. Not for use by two threads at once."""

    def load(self) -> None:
        """Open all that encoding needs, which the first photo would otherwise wait for.

        Raises BundleError for a damaged or incomplete bundle, or a precision that it lacks.
        """

    def prepare(self, photo: Pixels) -> P:
        """Run what no target changes, once for several encodings of a photo."""

    def encode(
        self,
        photo: Pixels | P,
        target: RateTarget = FINEST,
        *,
        regions: Regions = (),
        reference: L | None = None,
        distance: int = 1,
        version: int = FORMAT_VERSION,
    ) -> Bitstream:
        """The bitstream of a photo, or of what :meth:`prepare` made of it, at ``target``.

        A budget is met by the finest whole layers that fit, then as many passes of the next one.
        regions: what shall have its own state where that is finer than the target's; a budget gives
        them what they want first, and the rest what is left. reference: what the receiver has
        decoded of the frame ``distance`` before this one, for a predicted frame. The codec codes a
        key frame all the same where that is cheaper, or where the reference is of no use: another
        size, another chain. None is a key frame, which stands alone. version: of the container's
        format, one that its reader knows; version 3 has key frames only.

        What was encoded last is decoded without work, by :meth:`decode` of that very bitstream.

        Raises BudgetError ``budget_too_small`` when the coarsest state takes more than the budget,
        ``target_unreachable`` when not even the finest state is expected to have the PSNR,
        ``bad_target`` for regions with a PSNR or a rate weight; BundleError
        ``reference_unsupported``; and what :meth:`check` and :meth:`check_regions` raise.
        """

    def shorten(
        self, bitstream: Bitstream, target: RateTarget, *, reference: L | None = None
    ) -> Bitstream:
        """What :meth:`encode` gives at ``target``, from a finer bitstream instead of the photo.

        reference: what a predicted frame is decoded with; a state alone needs none. Raises
        BitstreamError as :meth:`decode` does, and ``bad_state`` for a state that it lacks;
        BudgetError as :meth:`encode` does, and ``no_photo`` for a PSNR.
        """

    def recode(self, bitstream: Bitstream, version: int) -> Bitstream:
        """The same values in another version of the container's format, for who reads no other.

        It is what :meth:`encode` would have written in that version. Raises BitstreamError as
        :meth:`decode` does, ``reference_needed`` for a predicted frame: :meth:`key_frame` is what
        an older reader gets of one.
        """

    def passes(self, state: int) -> int:
        """Passes of the layer that leads to ``state``: the parts in which it can be sent."""

    def check(self, target: RateTarget) -> None:
        """Whether the bundle can aim at ``target`` at all.

        Raises BudgetError ``unknown_state`` or BundleError ``no_psnr_model``.
        """

    def check_regions(self) -> None:
        """Whether parts of a picture can have a finer state than the rest.

        Raises BundleError ``regions_unsupported``, which says why not.
        """


# -- the cloud -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a picture shall be made of latents.

    decoder: one of the manifest's ``pictures``, by name; None is the first of them. seed: of what
    is drawn by chance; the same seed gives the same picture on the same machine.
    """

    decoder: str | None = None
    seed: int = 0


PLAIN = Rendering()


def rendering_for_tasks(bundle: Bundle) -> Rendering:
    """How the picture is made that tasks look at: by the decoder that the bundle's advice names,
    or by the first. Raises BundleError ``bad_advice``."""
    name = bundle.advice.task_decoder
    return Rendering(name) if name and name != bundle.manifest.pictures[0].name else PLAIN


class Reconstructor(Protocol[L_in]):
    """Makes pictures of latents. One worker uses it at a time."""

    def reconstruct(
        self,
        batch: Sequence[L_in],
        how: Rendering = PLAIN,
        *,
        before: Sequence[tuple[L_in, Pixels] | None] = (),
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Pixels]:
        """A picture of each of the batch, whose ``batch_key`` are equal.

        before: of each of the batch a frame and the picture that this worker's kind made of it the
        same way, or None; where values have not changed the picture is taken from there. What
        comes out is the same with it and without it, bit for bit, on the same device.

        ``should_stop`` is asked now and then; when it says so the work ends with TaskError
        ``cancelled``. Raises BundleError ``unknown_decoder`` or ``no_sampler`` for a rendering that
        the bundle does not have.
        """


class Tail(Protocol[L_in]):
    """A task that reads latents and needs no picture. One worker uses it at a time."""

    @property
    def name(self) -> str:
        """What ``--tasks`` calls it."""

    @property
    def models(self) -> list[ModelInfo]:
        """The weights it runs."""

    def run(self, batch: Sequence[L_in]) -> list[TaskResult]:
        """A result of each of the batch, whose ``batch_key`` are equal. Raises TaskError."""


class CloudCodec(Half[L], Protocol[L]):
    """A codec's cloud half, opened for one bundle. Any number of threads may decode at once."""

    def open_reconstructor(self, *, device: str = "cpu") -> Reconstructor[L]:
        """A new instance of what makes pictures.

        Raises BundleError: ``no_picture`` for a bundle without pictures, or for a damaged one.
        """

    def open_tails(
        self, *, device: str = "cpu", threads: int = 1, score_threshold: float | None = None
    ) -> Mapping[str, Tail[L]]:
        """New instances of all tasks that read latents, by name; none in most bundles.

        score_threshold: 0 to 1, of detections; None is what results show. Raises BundleError.
        """


# -- training --------------------------------------------------------------------------------------

R = TypeVar("R", bound=BaseModel)
L_out = TypeVar("L_out", bound=Latents, covariant=True)

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with a step's progress: what is done, of how much, and figures so far."""


@dataclass(frozen=True, slots=True)
class TrainingStep(Generic[R]):
    """One step from files to files.

    summary: one line for the command's help. run: called with the recipe, the folder of the run,
    whose files it reads and writes, and a :data:`Report`; what else it takes are keyword arguments
    with defaults, each ``Annotated`` with its help (``Path | None``, ``float | None``, ``int``,
    ``str`` or ``bool``), which the command line gives as options. It returns figures, JSON-ready,
    and raises RecipeError ``step_missing`` when what it reads is not there yet. Started again it
    goes on from its last checkpoint where it has one. reads: names of the steps whose results it
    needs.
    """

    name: str
    summary: str
    run: Callable[..., Mapping[str, Any]]
    reads: tuple[str, ...] = ()


class Uncut(Protocol[L_out]):
    """A bundle's network without the codec: nothing is quantised, nothing coded."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(width, height) that pictures are brought to; None when they keep their size."""

    def prepare(self, picture: Pixels) -> Pixels:
        """What the network looks at of a picture: resized or padded, uint8 [h, w, 3]."""

    def encode(self, picture: Pixels, size: tuple[int, int] | None = None) -> tuple[int, L_out]:
        """Bytes of all features as float16, and latents that hold them as they are.

        size: width and height of the photo that the picture is a version of, for results in the
        photo's pixels; None is the picture's own.
        """


class Check(Protocol):
    """A measurement that only makes sense of one codec's bundles."""

    def __call__(
        self, bundle: Bundle, photos: Iterable[Pixels], *, cache: Path | None, seed: int
    ) -> Any:
        """JSON-ready figures of photos (uint8 [H, W, 3]) never trained on.

        cache: folder of the photos step, where one has run.
        """


class Trainer(Protocol[R]):
    """How a codec's bundles are made."""

    @property
    def recipe(self) -> type[R]:
        """The model of a recipe file: all that decides what a bundle becomes."""

    @property
    def steps(self) -> tuple[TrainingStep[R], ...]:
        """In the order in which they run; the last one writes the bundle."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """Further measurements of bundles, by name; none for most codecs."""

    def uncut(self, bundle: Bundle) -> Uncut[Any] | None:
        """The bundle's network without the codec; None for a codec without one."""

    def stages(self, bundle: Bundle, photo: Pixels) -> Mapping[str, Callable[[], object]]:
        """The parts of encoding the photo, by name, in their order: jobs that can be timed."""


# -- lookup ----------------------------------------------------------------------------------------


def open_edge(bundle: Bundle, options: EdgeOptions = DEFAULT_OPTIONS) -> EdgeCodec[Any, Any]:
    """The edge half of the bundle's codec. Nothing heavy is loaded; see :meth:`EdgeCodec.load`.

    Raises BundleError: ``unknown_codec``, or what is wrong with the bundle.
    """
    codec: EdgeCodec[Any, Any] = _module(bundle.manifest.codec, "edge").open_edge(bundle, options)
    return codec


def open_cloud(bundle: Bundle) -> CloudCodec[Any]:
    """The cloud half of the bundle's codec: decodes, and opens what makes pictures and results.

    Raises BundleError: ``unknown_codec``, or what is wrong with the bundle.
    """
    codec: CloudCodec[Any] = _module(bundle.manifest.codec, "cloud").open_cloud(bundle)
    return codec


def recode(bundle: Bundle, bitstream: Bitstream, versions: Iterable[int]) -> Bitstream:
    """The bitstream as it is, or coded again, without loss, for who reads only these versions.

    bundle: which wrote it. Raises as :meth:`EdgeCodec.recode` and :func:`open_edge` do, and
    BitstreamError ``bad_version`` when none of ``versions`` can be written here.
    """
    wanted = set(versions)
    if bitstream.version in wanted:
        return bitstream
    return open_edge(bundle).recode(bitstream, writable(wanted))


def writable(versions: Iterable[int]) -> int:
    """The latest of these versions that can be written here.

    Raises BitstreamError ``bad_version`` for none.
    """
    wanted = set(versions)
    if not wanted & set(FORMAT_VERSIONS):
        raise BitstreamError(
            "bad_version", f"none of the format versions {sorted(wanted)} can be written here"
        )
    return max(wanted & set(FORMAT_VERSIONS))


def trainer(name: str) -> Trainer[Any]:
    """The trainer of a codec, by the name in manifests. Raises BundleError ``unknown_codec``."""
    found: Trainer[Any] = _module(name, "train").open_trainer()
    return found


def small_bundle(name: str, folder: Path, kind: str = "") -> Bundle:
    """A complete bundle of a codec without data or training, made in seconds: for tests.

    kind: one of :func:`small_kinds`. Raises BundleError ``unknown_codec``.
    """
    makers = _small_bundles(name)
    return makers[kind or next(iter(makers))](folder)


def small_kinds(name: str) -> tuple[str, ...]:
    """The kinds of bundles that a codec makes small ones of, the first of them first; most have
    one, which has no name. Raises BundleError ``unknown_codec``."""
    return tuple(_small_bundles(name))


def _small_bundles(name: str) -> Mapping[str, Callable[[Path], Bundle]]:
    module = _module(name, "train")
    found: Mapping[str, Callable[[Path], Bundle]] = getattr(
        module, "SMALL_BUNDLES", {"": module.small_bundle}
    )
    return found


def codec_names() -> tuple[str, ...]:
    """Every codec there is, by the name in manifests."""
    folders = [
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if module.ispkg and (Path(__file__).parent / module.name / "edge.py").is_file()
    ]
    return tuple(sorted(folder.replace("_", "-") for folder in folders))


def no_picture(bundle: Bundle) -> BundleError:
    """What is wrong with asking for a picture where there are only features for tasks."""
    tasks = ", ".join(bundle.manifest.tasks) or "nothing here"
    return BundleError(
        "no_picture",
        f"bundle {bundle.manifest.name} carries features for {tasks}, and no picture; encode the "
        "photo with the picture bundle to see it",
    )


def _module(name: str, half: str) -> ModuleType:
    if name not in codec_names():
        raise BundleError(
            "unknown_codec",
            f"the bundle is for codec {name!r}, which this release does not have; it has "
            f"{', '.join(codec_names())}",
        )
    return importlib.import_module(f"codec.{name.replace('-', '_')}.{half}")
