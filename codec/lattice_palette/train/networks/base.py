"""What a network must offer to be cut in two: the protocol that everything behind it keeps to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

OutputKind = Literal["boxes", "classes", "labels"]
Features = dict[str, Tensor]
"""float32 [n, C, h, w] by scale."""
Outputs = dict[str, Tensor]
"""What a tail gives before its last, parameterless step; see :class:`SplitNetwork`."""


@dataclass(frozen=True)
class CutScale:
    """One place where the network is cut: ``channels`` values every ``stride`` pixels."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class SplitInfo:
    """What the manifest, the export and the steps say about a network.

    fit: how a picture comes to width x height (as the manifest's ``resize``). classes: id and
    name, in the order of the scores.
    """

    name: str
    version: str
    licence: str
    task: Literal["detection", "classification", "segmentation"]
    output: OutputKind
    width: int
    height: int
    fit: Literal["stretch", "letterbox"]
    scales: tuple[CutScale, ...]
    classes: tuple[tuple[int, str], ...]
    notice: str = ""


class SplitNetwork(Protocol):
    """A frozen network in two halves, as ``nn.Module``s, differentiable.

    Outputs by kind, all raw, so that a distance between two of them is well behaved:
    ``boxes``: ``logits`` [n, B, K] (a sigmoid a class) and ``boxes`` [n, B, 4] as the network
    encodes them; ``classes``: ``logits`` [n, K] (a softmax); ``labels``: ``logits`` [n, K, h, w].
    """

    info: SplitInfo

    def head(self, picture: Tensor) -> Features:
        """float32 [n, 3, height, width], RGB 0..255 -> features at the cut."""

    def tail(self, features: Mapping[str, Tensor]) -> Outputs:
        """Features at the cut -> raw outputs."""

    def finish(self, outputs: Outputs) -> tuple[Tensor, ...]:
        """Raw outputs -> the tensors of the contract: for ``boxes`` corners as shares of the
        input [n, B, 4] and scores [n, B, K]; scores [n, K] (probabilities); scores [n, K, h, w].
        """

    def tail_parameters(self) -> Sequence[Tensor]:
        """What may be trained behind the cut."""


def parts(network: SplitNetwork) -> dict[str, CutScale]:
    """The cut's scales by name."""
    return {scale.name: scale for scale in network.info.scales}
