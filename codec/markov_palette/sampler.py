"""The chain's scheduler: one backward step of the Markov palette, for diffusers' machinery.

Forward, a step merges colours: I_{t+1} = m(I_t), without noise. Backward, a step splits every
position's node into one of its two children. With the network's estimate of the fine latents,
normally distributed around it with variance v, Bayes' rule gives each child's odds:

    log P(b) / P(a) = (|z - c_a|**2 - |z - c_b|**2) / (2 v) + log n_b / n_a

with the children's colours c and training counts n. (Our own derivation; the chain is Guo et al.'s,
arXiv 2410.06149.) A child is drawn, or at temperature 0 taken; either way the merged result is the
node that was received, so that a sample never contradicts what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from codec.markov_palette.palette import MarkovPalette


@dataclass
class MarkovPaletteSchedulerOutput(BaseOutput):
    """prev_sample: each plane's nodes at the next finer state, int64 [n, h, w]."""

    prev_sample: dict[str, Tensor]


class MarkovPaletteScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # its mixins differ
    """Steps from a received state down to state 0."""

    order = 1
    timesteps: Tensor

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers does not type it
    def __init__(self, num_train_timesteps: int = 10, temperature: float = 1.0) -> None:
        """num_train_timesteps: states of the chain. temperature: 0 takes the likelier child."""
        self.timesteps = torch.arange(num_train_timesteps - 1, 0, -1)

    def set_palette(self, palette: MarkovPalette, device: torch.device) -> None:
        """The trees to walk down; colours and counts of every depth go to ``device``."""
        self._palette = palette
        self._colours = {
            plane.name: [
                torch.from_numpy(palette.trees[plane.name].colours(depth)).to(device)
                for depth in range(plane.depth + 1)
            ]
            for plane in palette.planes
        }
        self._log_counts = {}
        for plane in palette.planes:
            leaves = torch.from_numpy(palette.trees[plane.name].counts.astype("float32"))
            self._log_counts[plane.name] = [
                leaves.view(2**depth, -1).sum(1).clamp_min(0.5).log().to(device)
                for depth in range(plane.depth + 1)
            ]

    def set_timesteps(self, received_state: int) -> None:
        """Walk from ``received_state`` to 1; each step ends at the state below."""
        self.timesteps = torch.arange(received_state, 0, -1)

    def colours(self, nodes: dict[str, Tensor], state: int) -> dict[str, Tensor]:
        """Each scale's colours of the nodes at ``state``: float32 [n, C, h, w]."""
        depths = self._palette.depths(state)
        parts: dict[str, list[Tensor]] = {}
        for plane in self._palette.planes:
            colour = self._colours[plane.name][depths[plane.name]][nodes[plane.name]]
            parts.setdefault(plane.scale, []).append(colour.permute(0, 3, 1, 2))
        return {scale: torch.cat(groups, 1) for scale, groups in parts.items()}

    def step(
        self,
        model_output: dict[str, Tensor],
        timestep: int,
        sample: dict[str, Tensor],
        variances: dict[str, float],
        generator: torch.Generator | None = None,
        received: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> MarkovPaletteSchedulerOutput:
        """One step from state ``timestep`` to ``timestep - 1``.

        model_output: estimates of the fine latents per scale, float32 [n, C, h, w]. sample: nodes
        of every plane at ``timestep``, int64 [n, h, w]. variances: of the estimates, per element.
        received: nodes and their depths, int64 [n, h, w] a plane, none finer than ``timestep - 1``:
        where one is deeper than ``timestep``, its splits are taken instead of drawn.
        """
        before = self._palette.depths(timestep)
        after = self._palette.depths(timestep - 1)
        finer = dict(sample)
        for plane in self._palette.planes:
            channels = slice(plane.first_channel, plane.first_channel + plane.channels)
            estimate = model_output[plane.scale][:, channels].permute(0, 2, 3, 1)
            for depth in range(before[plane.name], after[plane.name]):
                drawn = self._split(
                    plane.name,
                    finer[plane.name],
                    depth,
                    estimate,
                    variances[plane.scale],
                    generator,
                )
                if received is not None:
                    nodes, depths = received[plane.name]
                    known = nodes >> (depths - depth - 1).clamp_min(0)
                    drawn = torch.where(depths > depth, known, drawn)
                finer[plane.name] = drawn
        return MarkovPaletteSchedulerOutput(prev_sample=finer)

    def _split(
        self,
        plane: str,
        nodes: Tensor,
        depth: int,
        estimate: Tensor,
        variance: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        colours, log_counts = self._colours[plane][depth + 1], self._log_counts[plane][depth + 1]
        first, second = 2 * nodes, 2 * nodes + 1
        nearer = (estimate - colours[first]).square().sum(-1)
        nearer = nearer - (estimate - colours[second]).square().sum(-1)
        odds = nearer / (2 * max(variance, 1e-8)) + log_counts[second] - log_counts[first]
        temperature = float(self.config["temperature"])
        if temperature > 0:
            chance = torch.sigmoid(odds / temperature)
            draw = torch.rand(chance.shape, generator=generator, device="cpu").to(chance.device)
            return torch.where(draw < chance, second, first)
        return torch.where(odds > 0, second, first)
