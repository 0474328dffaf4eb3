"""Muon: momentum, orthogonalised, for matrices and convolutions; Adam for everything else.

Jordan et al. 2024 (the Newton-Schulz iteration and its coefficients), with the scale of Liu et
al. 2025 (arXiv 2502.16982), 0.2 sqrt(max(rows, columns)), so that both kinds of update share one
learning rate. Torch's own Muon takes matrices only.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LEAST_SIDE = 16
_OUTER = {
    "stem", "semantic_linear", "texture_linear", "prediction", "linear", "leave",
    "leave_semantic", "leave_texture", "enter_semantic", "enter_texture",
}  # fmt: skip


class Muon(torch.optim.Optimizer):
    """Parameter groups say which rule they follow and their share of the learning rate."""

    def __init__(self, modules: Iterable[nn.Module], *, momentum: float = 0.95) -> None:
        """Weights of convolutions and linear layers of at least 16 x 16 are orthogonalised. Those
        that touch pixels or latents are not: orthogonal updates of all their inputs add up to
        jumps. They go with the rest, at a fifth of the rate."""
        matrices, starting, others = [], [], []
        for module in modules:
            for name, parameter in module.named_parameters():
                if any(part in _OUTER for part in name.split(".")):
                    starting.append(parameter)
                elif parameter.ndim in (2, 4) and min(_matrix(parameter).shape) >= _LEAST_SIDE:
                    matrices.append(parameter)
                else:
                    others.append(parameter)
        groups = [
            {"params": matrices, "orthogonal": True, "share": 1.0},
            {"params": starting, "orthogonal": False, "share": 0.2},
            {"params": others, "orthogonal": False, "share": 1.0},
        ]
        defaults = {"lr": 0.0, "momentum": momentum, "betas": (0.9, 0.99)}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            rate = group["lr"] * group["share"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["orthogonal"]:
                    update = self._orthogonal(parameter, group["momentum"])
                else:
                    update = self._adam(parameter, *group["betas"])
                parameter.add_(update, alpha=-rate)

    def _orthogonal(self, parameter: Tensor, momentum: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["first"] = torch.zeros_like(parameter)
        state["first"].lerp_(gradient, 1 - momentum)
        ahead = _matrix(gradient.lerp(state["first"], momentum).contiguous())
        update: Tensor = orthogonalise(ahead) * 0.2 * max(ahead.shape) ** 0.5
        return update.view(parameter.shape)

    def _adam(self, parameter: Tensor, beta1: float, beta2: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["first"] = torch.zeros_like(parameter)
            state["second"] = torch.zeros_like(parameter)
            state["count"] = torch.zeros(())
        state["count"] += 1
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(gradient.square(), 1 - beta2)
        count = float(state["count"])
        first = state["first"] / (1 - beta1**count)
        update: Tensor = first / ((state["second"] / (1 - beta2**count)).sqrt() + 1e-8)
        return update


def orthogonalise(matrix: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix: singular values between 0.7 and 1.2; bfloat16
    inside. matrix: float32 [rows, columns]."""
    x: Tensor = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()


def _matrix(parameter: Tensor) -> Tensor:
    return parameter.reshape(len(parameter), -1)
