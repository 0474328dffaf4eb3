"""Single files, for commands: bitstreams decoded to pictures, and tasks run on any file.

A server does the same in batches (``pipeline``, ``local``).
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from cloud_server.engine.pipeline import Showing
from cloud_server.engine.spec import check_device
from cloud_server.tasks import open_task, task_names
from cloud_server.tasks.base import Task
from codec import PLAIN, Latents, Rendering, no_picture, open_cloud
from codec.base import rendering_for_tasks
from shared.bitstream import Bitstream, is_file
from shared.bundle import Bundle, bundle_for, packaged_names
from shared.errors import BitstreamError, TaskError
from shared.preprocess import load_photo
from shared.results import AnalysisResult, TaskResult
from shared.weights import ModelStore


def parse(data: bytes, state: int | None = None) -> tuple[Bitstream, str | None]:
    """The bitstream (at ``state``, if given) and a warning when the file's end is missing.

    Raises BitstreamError as :meth:`Bitstream.from_bytes` and ``truncate`` do.
    """
    warning = None
    try:
        bitstream = Bitstream.from_bytes(data)
    except BitstreamError as error:
        bitstream = Bitstream.from_bytes(data, allow_cut=True)
        warning = f"{error.message}; state {bitstream.state} is the finest that is complete"
    return (bitstream if state is None else bitstream.truncate(state)), warning


class BitstreamDecoder:
    """Decodes bitstreams of one bundle."""

    def __init__(
        self, bundle: Bundle, *, device: str = "cpu", score_threshold: float | None = None
    ) -> None:
        """score_threshold: of tails, 0 to 1. Raises BundleError for a damaged bundle, TaskError
        for a device that is not there."""
        check_device(device)
        self.bundle = bundle
        self._codec = open_cloud(bundle)
        self._reconstructor = (
            self._codec.open_reconstructor(device=device) if bundle.manifest.pictures else None
        )
        self.for_tasks = rendering_for_tasks(bundle)
        """How the picture is made that tasks look at."""
        self.tails = self._codec.open_tails(device=device, score_threshold=score_threshold)
        """Tasks that run on this bundle's features, by name."""

    @property
    def makes_pictures(self) -> bool:
        """Whether there is a picture to be had of this bundle's features."""
        return self._reconstructor is not None

    def latents(self, bitstream: Bitstream) -> Latents:
        """The decoded features. Raises BitstreamError."""
        latents: Latents = self._codec.decode(bitstream)
        return latents

    def picture(self, bitstream: Bitstream, how: Rendering = PLAIN) -> npt.NDArray[np.uint8]:
        """The reconstruction: uint8 [height, width, 3] RGB. Raises BitstreamError.

        Raises BundleError ``no_picture`` for a bundle of features that are no picture's, and what
        :meth:`codec.base.Reconstructor.reconstruct` raises.
        """
        return self.picture_of(self.latents(bitstream), how)

    def picture_of(self, latents: Latents, how: Rendering = PLAIN) -> npt.NDArray[np.uint8]:
        """:meth:`picture` of features that are decoded already."""
        if self._reconstructor is None:
            raise no_picture(self.bundle)
        return self._reconstructor.reconstruct([latents], how)[0]


class Decoders:
    """A decoder for each bundle that files were made with, opened when the first file comes."""

    def __init__(
        self,
        bundle: str | None = None,
        *,
        device: str = "cpu",
        score_threshold: float | None = None,
    ) -> None:
        """bundle: for all files; None takes the packaged one that each file was made with.
        score_threshold: of tails, 0 to 1.

        Raises BundleError, or TaskError for a device that is not there.
        """
        check_device(device)
        self.bundle = None if bundle is None else Bundle.load(bundle)
        self._device, self._score_threshold = device, score_threshold
        self._open: dict[bytes, BitstreamDecoder] = {}

    def of(self, bitstream: Bitstream) -> BitstreamDecoder:
        """The decoder for a bitstream; for a foreign one the default's, which refuses it."""
        bundle = bundle_for(bitstream.bundle_id, self.bundle)
        if bundle.short_id not in self._open:
            self._open[bundle.short_id] = BitstreamDecoder(
                bundle, device=self._device, score_threshold=self._score_threshold
            )
        return self._open[bundle.short_id]


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [height, width, 3] RGB as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Analysed:
    """What was found in a file, and its picture: uint8 [H, W, 3] RGB, None of mere features.

    passes: that the file has of the layer after its state; None for a photo. warning: what is
    wrong with a file that was decoded all the same.
    """

    picture: Pixels | None
    result: AnalysisResult
    passes: int | None
    warning: str | None


class Analyzer:
    """Opens what it needs once, then analyses any number of files."""

    def __init__(
        self,
        tasks: Sequence[str] | None = None,
        *,
        bundle: str | None = None,
        backends: Mapping[str, str | None] | None = None,
        device: str = "cpu",
        store: ModelStore | None = None,
        shown_score: float | None = None,
    ) -> None:
        """tasks: None runs all that a file has enough for. bundle: None takes the packaged one
        that a file was made with. backends: task name -> back end or weights, where not the
        embedded one; features are only good for the network that they were cut from. shown_score:
        from which score everything is shown, 0 to 1; None leaves that to tasks and bundles.

        Raises TaskError for an unknown task. Models and bundles are loaded when a file needs them.
        """
        self._store = store or ModelStore()
        self._backends = backends or {}
        self._device = device
        self._shown_score = shown_score
        self._decoders = Decoders(bundle, device=device, score_threshold=shown_score)
        self._wanted = None if tasks is None else tuple(dict.fromkeys(tasks))
        for name in self._wanted or ():
            self._check_name(name)
        self._tasks: dict[str, Task] = {}

    def analyze(
        self, data: bytes, state: int | None = None, *, features: bool | None = None
    ) -> Analysed:
        """Run every task on one file.

        data: a .fwf file or a photo; its first bytes tell, unless ``features`` says which it has
        to be. state: decode at this coarser state. Raises BitstreamError,
        BundleError, PhotoError, ModelError or TaskError: ``needs_picture`` for a task that the
        file's features are not enough for.
        """
        if features is None:
            features = is_file(data)
        return self._analyze_features(data, state) if features else self._analyze_photo(data)

    def _analyze_photo(self, data: bytes) -> Analysed:
        started = time.perf_counter()
        picture = np.asarray(load_photo(data))
        milliseconds = {"load": 1000 * (time.perf_counter() - started)}
        names = task_names() if self._wanted is None else self._wanted
        results = {name: self._open_task(name).run([picture])[0] for name in names}
        height, width = picture.shape[:2]
        return Analysed(
            picture, _analysis(width, height, len(data), results, milliseconds), None, None
        )

    def _analyze_features(self, data: bytes, state: int | None) -> Analysed:
        started = time.perf_counter()
        bitstream, warning = parse(data, state)
        decoder = self._decoders.of(bitstream)
        names = self._wanted
        if names is None:
            names = task_names() if decoder.makes_pictures else tuple(decoder.tails)
        latents = decoder.latents(bitstream)
        picture = decoder.picture_of(latents) if decoder.makes_pictures else None
        stage = "decode" if picture is None else "reconstruct"
        milliseconds = {stage: 1000 * (time.perf_counter() - started)}
        results: dict[str, TaskResult] = {}
        showing = Showing(decoder.bundle, latents.state, explicit=self._shown_score)
        looked_at = picture
        for name in names:
            if name in decoder.tails:
                results[name], _ = showing.shown(decoder.tails[name].run([latents])[0])
            elif looked_at is not None:
                if looked_at is picture and decoder.for_tasks != PLAIN:
                    looked_at = decoder.picture_of(latents, decoder.for_tasks)
                results[name], _ = showing.shown(self._open_task(name).run([looked_at])[0])
            else:
                raise TaskError(
                    "needs_picture",
                    f"{name} needs a picture, and bundle {decoder.bundle.manifest.name} carries "
                    f"features for {', '.join(decoder.tails)} alone",
                    task=name,
                )
        analysis = _analysis(
            bitstream.width,
            bitstream.height,
            bitstream.file_bytes,
            results,
            milliseconds,
            state=bitstream.state,
            bundle_id=decoder.bundle.id,
        )
        return Analysed(picture, analysis, bitstream.passes, warning)

    def _check_name(self, name: str) -> None:
        known = dict.fromkeys(task_names())
        if name in known:
            return
        given = self._decoders.bundle
        bundles = [given] if given else map(Bundle.load, packaged_names())
        for bundle in bundles:
            known |= dict.fromkeys(bundle.manifest.tasks)
        if name not in known:
            text = f"no task {name!r}; known are {', '.join(known)}"
            raise TaskError("unknown_task", text, task=name)

    def _open_task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = open_task(
                name,
                self._store,
                self._backends.get(name),
                device=self._device,
                score_threshold=self._shown_score,
            )
        return self._tasks[name]


def _analysis(
    width: int,
    height: int,
    payload_bytes: int,
    results: dict[str, TaskResult],
    milliseconds: dict[str, float],
    *,
    state: int | None = None,
    bundle_id: str | None = None,
) -> AnalysisResult:
    times = {name: sum(result.milliseconds.values()) for name, result in results.items()}
    return AnalysisResult(
        width=width,
        height=height,
        state=state,
        bundle_id=bundle_id,
        payload_bytes=payload_bytes,
        bits_per_pixel=8 * payload_bytes / (width * height),
        tasks=results,
        milliseconds=milliseconds | times,
    )
