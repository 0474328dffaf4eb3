"""The decoder's networks on any window of a picture, with the very bits that the whole would have.

Three things make a value depend on its window, and none of them happens here. A window that ends
inside the picture would see zeros there: every layer gets just the cells that the next one needs,
and is computed with those around them. Torch picks other kernels for small inputs, and oneDNN's
transposed convolutions change theirs with shape: all are plain convolutions here, by oneDNN on the
CPU whatever their size. And torch's SiLU rounds the last elements of a chunk another way: here
every element is in the midst of one. What a device's library does beyond that is for
:mod:`codec.markov_palette.pictures.repaint` to check.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.areas.boxes import Box
from codec.markov_palette.networks import (
    Decoder,
    FilmBlock,
    FilmStack,
    LatentRestorer,
    Synthesis,
    TexturePrediction,
)
from codec.markov_palette.pictures.geometry import (
    BLOCK_REACH,
    TEXTURE_RATIO,
    RestorerPlan,
    Stack,
    SynthesisPlan,
    inner_boxes,
    leaving_reach,
    leaving_stride,
)

_VECTORS = 64
"""Torch computes so many elements at a time alike on every CPU; what is left over, another way."""

_SERIAL = 32768 - _VECTORS
"""Torch divides no fewer elements among threads, at places that the number of threads decides."""


class WindowedDecoder:
    """A decoder whose parts run on windows of one picture. Not for use by two threads at once."""

    def __init__(self, decoder: Decoder) -> None:
        """decoder: with its weights, on its device; they must not change afterwards."""
        self.config = decoder.config
        self._restorer: LatentRestorer = decoder.restorer
        self._synthesis: Synthesis = decoder.synthesis
        self._lift = lifting_kernel(decoder.restorer.lift)
        self._lifts = [lifting_kernel(lift) for lift in decoder.synthesis.lifts]  # type: ignore[arg-type]  # a ModuleList forgets
        self._stride = leaving_stride(self.config)
        self._leave = leaving_kernel(
            decoder.synthesis.leave, self._stride, leaving_reach(self.config)
        )

    def restore(
        self, semantic: Tensor, texture: Tensor, state: Tensor, wanted: Box
    ) -> tuple[Tensor, Tensor]:
        """Estimates of the fine latents of the positions ``wanted``.

        semantic [1, C16, h, w] and texture [1, C8, 2h, 2w] of the whole picture; state int64 [1].
        Returns float32 [1, C16, h', w'] and [1, C8, 2h', 2w'].
        """
        net, grid = self._restorer, _grid(semantic)
        fine = grid.times(TEXTURE_RATIO)
        plan = RestorerPlan.of(wanted, grid)
        embedded = net.embed(state)
        x = _entered(net.enter_semantic, semantic, grid, plan.semantic.entered)
        coarse = _stack(net.semantic, x, plan.semantic, grid, embedded)
        whole = _predicted(net.prediction, semantic, texture, grid, plan.whole)
        lifted = _lifted(self._lift, coarse, plan.semantic.left, plan.texture.entered)
        x = _entered(net.enter_texture, whole, plan.whole, plan.texture.entered) + lifted
        x = _stack(net.texture, x, plan.texture, fine, embedded)
        new = _cut(_convolved(net.leave_semantic, coarse), plan.semantic.left, wanted)
        finer = wanted.times(TEXTURE_RATIO)
        detail = _cut(_convolved(net.leave_texture, x), plan.texture.left, finer)
        return _cut(semantic, grid, wanted) + new, _cut(texture, fine, finer) + detail

    def paint(self, semantic: Tensor, texture: Tensor, state: Tensor, wanted: Box) -> Tensor:
        """Pixels of the positions ``wanted``, float32 [1, 3, 16h', 16w'] around -0.5..0.5.

        semantic [1, C16, h, w] and texture [1, C8, 2h, 2w]: estimates of the whole picture, of
        which those that the window sees are read.
        """
        net, grid = self._synthesis, _grid(semantic)
        plan = SynthesisPlan.of(wanted, grid, self.config)
        embedded = net.embed(state)
        whole = _predicted(net.prediction, semantic, texture, grid, plan.whole)
        x = _entered(net.enter_semantic, semantic, grid, plan.stacks[0].entered)
        for level, stack in enumerate(plan.stacks):
            if level:
                x = _lifted(self._lifts[level - 1], x, plan.stacks[level - 1].left, stack.entered)
            if level == 1:
                x = x + _entered(net.enter_texture, whole, plan.whole, stack.entered)
            here = grid.times(1 << level)
            x = _stack(net.stacks[level], x, stack, here, embedded)  # type: ignore[arg-type]  # a ModuleList forgets
        stride, reach = self._stride, leaving_reach(self.config)
        leaving = _convolve(silu(x), *self._leave, padding=reach)
        finest = plan.stacks[-1].left.times(stride)
        out = _cut(nn.functional.pixel_shuffle(leaving, stride), finest, wanted.times(16))
        around, fine = wanted.grown(1, grid), plan.whole
        linear = _convolved(net.linear.semantic, _cut(semantic, grid, around))
        coarse = nn.functional.pixel_shuffle(_cut(linear, around, wanted), 16)
        finer = wanted.times(TEXTURE_RATIO)
        around = finer.grown(1, grid.times(TEXTURE_RATIO))
        linear = _convolved(net.linear.texture, _cut(whole, fine, around))
        detail = nn.functional.pixel_shuffle(_cut(linear, around, finer), 8)
        return out + (coarse + detail)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), of which no element depends on where in the tensor it lies."""
    if x.device.type != "cpu":
        return nn.functional.silu(x)
    values = x.contiguous()
    out = torch.empty_like(values)
    given, made = values.view(-1), out.view(-1)
    even = given.numel() - given.numel() % _VECTORS
    for start in range(0, even, _SERIAL):
        part = slice(start, min(start + _SERIAL, even))
        torch.ops.aten.silu.out(given[part], out=made[part])
    if even < given.numel():
        rest = nn.functional.pad(given[even:], (0, even + _VECTORS - given.numel()))
        made[even:] = nn.functional.silu(rest)[: given.numel() - even]
    return out


def lifting_kernel(lift: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution (4 taps, stride 2, padding 1) as a plain one of 2x2 taps.

    Between four input cells lie four output cells that see just these. Output channel, row,
    column in PixelShuffle's order: weight [4 out, in, 2, 2], bias [4 out].
    """
    taps = lift.weight.detach()
    count, out = taps.shape[:2]
    weight = taps.new_zeros(out, 2, 2, count, 2, 2)
    for row in range(2):
        for column in range(2):
            # Corner j makes outputs 2j - 1 and 2j of inputs j - 1 and j: 2i - 1 + k by tap k.
            weight[:, row, column] = taps[:, :, [row + 2, row], :][
                :, :, :, [column + 2, column]
            ].transpose(0, 1)
    return weight.reshape(4 * out, count, 2, 2).contiguous(), _repeated(lift, 4)


def leaving_kernel(leave: nn.ConvTranspose2d, stride: int, reach: int) -> tuple[Tensor, Tensor]:
    """A transposed convolution (stride + 4 taps, padding 2) as a plain one of the coarse cells.

    Output row a of cell i is made of cell i + d by tap stride * -d + a + 2.
    """
    taps = leave.weight.detach()
    count, out, size = taps.shape[:3]
    side = 2 * reach + 1
    weight = taps.new_zeros(out, stride, stride, count, side, side)
    places = [
        (a, d + reach, a + 2 - stride * d)
        for a in range(stride)
        for d in range(-reach, reach + 1)
        if 0 <= a + 2 - stride * d < size
    ]
    for row, down, tap in places:
        for column, right, other in places:
            weight[:, row, column, :, down, right] = taps[:, :, tap, other].T
    shaped = weight.reshape(out * stride**2, count, side, side)
    return shaped.contiguous(), _repeated(leave, stride**2)


def _repeated(module: nn.ConvTranspose2d, times: int) -> Tensor:
    assert module.bias is not None  # ours all have one
    return module.bias.detach().repeat_interleave(times)


def _grid(semantic: Tensor) -> Box:
    return Box(0, 0, *semantic.shape[2:])


def _cut(values: Tensor, covered: Box, wanted: Box) -> Tensor:
    """The cells ``wanted`` of a tensor that has those of ``covered``."""
    top, left = covered.top, covered.left
    return values[
        :, :, wanted.top - top : wanted.bottom - top, wanted.left - left : wanted.right - left
    ]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch
        ones = (1, 1)
        return torch.mkldnn_convolution(
            x.contiguous(), weight, bias, (padding, padding), ones, ones, 1
        )
    return nn.functional.conv2d(x.contiguous(), weight, bias, padding=padding)


def _convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """3x3, zeros around. The outermost cells are right at the picture's border alone."""
    return _convolve(x, layer.weight, layer.bias, 1)


def _entered(layer: nn.Conv2d, values: Tensor, covered: Box, wanted: Box) -> Tensor:
    """A convolution's cells ``wanted`` of values that have those of ``covered``."""
    # What is covered ends where the grid ends, or at least a cell further than what is wanted.
    around = wanted.grown(1, covered)
    return _cut(_convolved(layer, _cut(values, covered, around)), around, wanted)


def _predicted(
    prediction: TexturePrediction, semantic: Tensor, texture: Tensor, grid: Box, wanted: Box
) -> Tensor:
    """Texture with its prediction, of the cells ``wanted`` (whole positions)."""
    positions = wanted.over(TEXTURE_RATIO)
    made = nn.functional.pixel_shuffle(_entered(prediction.weights, semantic, grid, positions), 2)
    return _cut(texture, grid.times(TEXTURE_RATIO), wanted) + made


def _lifted(kernel: tuple[Tensor, Tensor], x: Tensor, covered: Box, wanted: Box) -> Tensor:
    """The cells ``wanted`` of the next finer grid, of values that have those of ``covered``."""
    corners = nn.functional.pixel_shuffle(_convolve(x, *kernel, padding=1), 2)
    grid = Box(
        2 * covered.top - 1, 2 * covered.left - 1, 2 * covered.bottom + 1, 2 * covered.right + 1
    )
    return _cut(corners, grid, wanted)


def _stack(stack: FilmStack, x: Tensor, boxes: Stack, grid: Box, embedded: Tensor) -> Tensor:
    here = boxes.entered
    for block, there in zip(stack.blocks, inner_boxes(boxes, len(stack.blocks), grid), strict=True):
        x = _block(block, x, here, there, grid, embedded)  # type: ignore[arg-type]  # a ModuleList forgets
        here = there
    return x


def _block(
    block: FilmBlock, x: Tensor, here: Box, there: Box, grid: Box, embedded: Tensor
) -> Tensor:
    """See :class:`FilmBlock`: from the cells of ``here`` to those of ``there``."""
    scale, shift = block.film(embedded)[:, :, None, None].chunk(2, dim=1)
    middle = there.grown(BLOCK_REACH // 2, grid)
    hidden = _cut(_convolved(block.first, silu(x)), here, middle)
    hidden = hidden.mul_(1 + scale).add_(shift)
    new = _cut(_convolved(block.second, silu(hidden)), middle, there)
    return _cut(x, here, there) + new
