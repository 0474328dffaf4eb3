"""A bundle of any codec to measure: its pictures, its tails, its network without the codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from codec.base import EdgeOptions, Rendering, Tail, Uncut, open_cloud, open_edge, trainer
from codec.settings import FeatureSettings
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget
from training.evaluate.judges.kinds import KEPT_SCORE
from training.evaluate.measure import Coded
from training.evaluate.photos import EvaluationError, Pixels

CARD_FILE = "MODEL_CARD.md"


class Halves:
    """Both halves of a bundle's codec in one process."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Raises BundleError for a damaged bundle."""
        self.bundle = bundle
        self.edge = open_edge(bundle, EdgeOptions(threads=threads, precision="fp32"))
        self.cloud = open_cloud(bundle)
        files = {k: v for k, v in bundle.manifest.files.items() if k != CARD_FILE}
        self.identity = bundle.manifest.model_copy(update={"files": files}).id
        """The bundle's id, were it not for its card: a new text changes no picture."""
        self._threads = threads

    def bitstreams(self, pixels: Pixels, states: Sequence[int]) -> Iterator[Bitstream]:
        """The picture at some states, those of one chain cut from one bitstream."""
        prepared = self.edge.prepare(pixels)
        made: dict[int, Bitstream] = {}
        for state in states:
            finest = self.bundle.manifest.finest_of(state)
            if finest not in made:
                made[finest] = self.edge.encode(prepared, RateTarget(state=finest))
            yield made[finest].truncate(state)

    def tail(self, task: str) -> Tail[Any]:
        """The tail of ``task``, weak detections included. Raises EvaluationError ``no_tails``."""
        tails = self.cloud.open_tails(threads=self._threads, score_threshold=KEPT_SCORE)
        if task not in tails:
            raise EvaluationError(
                "no_tails", f"bundle {self.bundle.manifest.name} has no tail for {task}"
            )
        return tails[task]

    def tail_output(self, task: str) -> tuple[str, tuple[int, ...]] | None:
        """The kind of output of the tail of ``task``, and its classes' ids; None for none."""
        if task not in self.bundle.manifest.tasks:
            return None
        for spec in FeatureSettings.of(self.bundle).tails or ():
            if spec.task == task:
                return spec.output, tuple(one.id for one in spec.classes)
        return None

    def class_names(self, task: str) -> dict[int, str]:
        """Names of the classes of the tail of ``task``, by id; none without such a tail."""
        if task not in self.bundle.manifest.tasks:
            return {}
        tails = FeatureSettings.of(self.bundle).tails or ()
        return {one.id: one.name for tail in tails if tail.task == task for one in tail.classes}

    def uncut(self) -> Uncut[Any]:
        """The network without the codec. Raises EvaluationError ``no_network``."""
        found = trainer(self.bundle.manifest.codec).uncut(self.bundle)
        if found is None:
            raise EvaluationError(
                "no_network", f"codec {self.bundle.manifest.codec} has no network to look at alone"
            )
        return found


class PictureStates:
    """One decoder's pictures at every state of a bundle's finest chain; the knob is the state."""

    judges = None
    makes: Literal["picture", "result"] = "picture"

    def __init__(
        self, halves: Halves, name: str = "featherwire", decoder: str | None = None
    ) -> None:
        """decoder: one of the bundle's, by name; None is the first. Raises BundleError
        ``no_picture`` for a bundle without pictures."""
        self._halves, self.name = halves, name
        self._how = Rendering(decoder)
        self._reconstructor = halves.cloud.open_reconstructor()
        self.identity = f"featherwire/{FORMAT_VERSION}/{halves.identity}"
        if decoder not in (None, halves.bundle.manifest.pictures[0].name):
            self.identity += f"/{decoder}"
        self.knobs = tuple(range(halves.bundle.manifest.starts[0], -1, -1))

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo encoded once, and cut to each state."""
        for state, stream in zip(knobs, self._halves.bitstreams(pixels, knobs), strict=True):
            latents = self._halves.cloud.decode(stream)
            (picture,) = self._reconstructor.reconstruct([latents], self._how)
            yield Coded(state, stream.file_bytes, picture)


class TailStates:
    """A tail's results at every state of every chain; the knob is the state."""

    judges = None
    makes: Literal["picture", "result"] = "result"

    def __init__(self, halves: Halves, task: str) -> None:
        """task: one of the bundle's tails'. Raises EvaluationError ``no_tails``."""
        self._halves, self._tail = halves, halves.tail(task)
        manifest = halves.bundle.manifest
        self.name = manifest.name
        self.identity = f"tail/{FORMAT_VERSION}/{task}/1/{halves.identity}"
        self.knobs = tuple(range(manifest.coarsest_state, -1, -1))

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo encoded once a chain, and cut to each state."""
        for state, stream in zip(knobs, self._halves.bitstreams(pixels, knobs), strict=True):
            (result,) = self._tail.run([self._halves.cloud.decode(stream)])
            yield Coded(state, stream.file_bytes, result=result)


class Bypass:
    """The null baseline: a bundle's features as float16, no palette, no entropy code.

    The knob is the bits of a value. It makes pictures, or results of a tail: what the cut itself
    costs.
    """

    judges = None
    knobs = (16,)

    def __init__(self, halves: Halves, task: str | None = None) -> None:
        """task: of the tail; None for pictures."""
        self._uncut = halves.uncut()
        self.makes: Literal["picture", "result"] = "picture" if task is None else "result"
        if task is None:
            self.name, self.identity = "bypass", f"float16/{halves.identity}"
            self._reconstructor = halves.cloud.open_reconstructor()
        else:
            self.name = f"{halves.bundle.manifest.name}-unquantised"
            self.identity = f"unquantised/{task}/1/{halves.identity}"
            self._tail = halves.tail(task)

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo through both halves."""
        size, latents = self._uncut.encode(pixels)
        for knob in knobs:
            if self.makes == "picture":
                yield Coded(knob, size, self._reconstructor.reconstruct([latents])[0])
            else:
                yield Coded(knob, size, result=self._tail.run([latents])[0])


class Original:
    """The photo itself, 24 bits a pixel: what tasks find without any coding."""

    knobs = (24,)
    makes: Literal["picture", "result"] = "picture"

    def __init__(self, name: str = "original", judges: frozenset[str] | None = None) -> None:
        """judges: those that say something about it; None for all."""
        self.name = self.identity = name
        self.judges = judges

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo as it is."""
        for knob in knobs:
            yield Coded(knob, pixels.nbytes, pixels)


class Mirrored:
    """The photo's mirror image: the same things, on which a network makes other mistakes.

    What is found on it is in the mirror image's pixels.
    """

    knobs = (24,)
    judges = None
    makes: Literal["picture", "result"] = "picture"

    def __init__(self, name: str = "mirrored") -> None:
        """name: what it is called, and cached under."""
        self.name = self.identity = name

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo with left and right exchanged."""
        for knob in knobs:
            yield Coded(knob, pixels.nbytes, np.ascontiguousarray(pixels[:, ::-1]))
