"""Which cells of every grid a window of the picture needs, and what it takes to compute it.

Positions are those of the semantic grid; a *cell* is one element of some grid, of which a position
has ``ratio`` along each side. Boxes are half-open, and never reach outside their grid: what lies
beyond a picture's border is zero for every layer, wherever a window ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codec.areas.boxes import Box
from codec.markov_palette.networks import DecoderConfig

BLOCK_REACH = 2
"""Cells that a residual block sees to each side: two convolutions of three taps."""

TEXTURE_RATIO = 2


def around(boxes: Sequence[Box]) -> Box:
    """The least box that covers all; at least one."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))


@dataclass(frozen=True, slots=True)
class Stack:
    """Residual blocks in a row. entered: what they get; left: what they give, in cells."""

    entered: Box
    left: Box


@dataclass(frozen=True, slots=True)
class RestorerPlan:
    """Boxes of the restorer's parts for estimates of ``wanted`` positions.

    semantic: in positions. whole: texture with its prediction, in cells of the texture grid.
    """

    wanted: Box
    semantic: Stack
    texture: Stack
    whole: Box

    @classmethod
    def of(cls, wanted: Box, grid: Box) -> RestorerPlan:
        """wanted, grid: in positions."""
        fine = grid.times(TEXTURE_RATIO)
        left = wanted.times(TEXTURE_RATIO).grown(1, fine)
        texture = Stack(left.grown(2 * BLOCK_REACH, fine), left)
        coarse = around([texture.entered.below(grid), wanted.grown(1, grid)])
        semantic = Stack(coarse.grown(2 * BLOCK_REACH, grid), coarse)
        whole = texture.entered.grown(1, fine).over(TEXTURE_RATIO).times(TEXTURE_RATIO)
        return cls(wanted, semantic, texture, whole)

    def work(self, config: DecoderConfig) -> float:
        """Multiplications, about."""
        width = config.restorer_width
        coarse, fine = config.semantic_channels, config.texture_channels
        return (
            _stack_work(self.semantic, width, 2)
            + _stack_work(self.texture, width, 2)
            + 9 * coarse * width * (self.semantic.entered.cells + self.wanted.cells)
            + 9 * fine * width * (self.texture.entered.cells + 4 * self.wanted.cells)
            + 9 * coarse * fine * self.whole.cells
            + 16 * width * width * self.semantic.left.cells
        )


@dataclass(frozen=True, slots=True)
class SynthesisPlan:
    """Boxes of the synthesis' parts for the pixels of ``wanted`` positions.

    stacks: one a level, each in cells of its own grid. whole: texture with its prediction.
    """

    wanted: Box
    stacks: tuple[Stack, ...]
    whole: Box

    @classmethod
    def of(cls, wanted: Box, grid: Box, config: DecoderConfig) -> SynthesisPlan:
        """wanted, grid: in positions."""
        finest = len(config.blocks) - 1
        left = wanted.times(1 << finest).grown(leaving_reach(config), grid.times(1 << finest))
        stacks: list[Stack] = []
        for level in range(finest, -1, -1):
            here = grid.times(1 << level)
            stacks.append(Stack(left.grown(BLOCK_REACH * config.blocks[level], here), left))
            if level:
                left = stacks[-1].entered.below(grid.times(1 << (level - 1)))
        stacks.reverse()
        fine = grid.times(TEXTURE_RATIO)
        linear = wanted.times(TEXTURE_RATIO).grown(1, fine)
        read = around([stacks[1].entered.grown(1, fine), linear])
        return cls(wanted, tuple(stacks), read.over(TEXTURE_RATIO).times(TEXTURE_RATIO))

    def work(self, config: DecoderConfig) -> float:
        """Multiplications, about."""
        coarse, fine = config.semantic_channels, config.texture_channels
        total = 9.0 * coarse * (4 * fine * self.whole.cells / 4 + 768 * self.wanted.cells)
        total += 9 * 192 * fine * 4 * self.wanted.cells
        total += 9 * coarse * config.widths[0] * self.stacks[0].entered.cells
        total += 9 * fine * config.widths[1] * self.stacks[1].entered.cells
        for level, (stack, width) in enumerate(zip(self.stacks, config.widths, strict=True)):
            total += _stack_work(stack, width, config.blocks[level])
            if level + 1 < len(config.widths):
                total += 16 * width * config.widths[level + 1] * stack.left.cells
        stride = leaving_stride(config)
        return total + 3 * (stride + 4) ** 2 * config.widths[-1] * self.stacks[-1].left.cells


def leaving_stride(config: DecoderConfig) -> int:
    """Pixels a cell of the finest level."""
    return 16 >> (len(config.widths) - 1)


def leaving_reach(config: DecoderConfig) -> int:
    """Cells of the finest level to each side that a pixel is made of: ``stride + 4`` taps."""
    return 1 if leaving_stride(config) > 1 else 2


@dataclass(frozen=True, slots=True)
class Reach:
    """How many positions to each side a changed position is felt.

    estimates: what the restorer makes; pixels: of the picture.
    """

    estimates: int
    pixels: int

    @classmethod
    def of(cls, config: DecoderConfig) -> Reach:
        """Of a decoder; neither depends on a picture's size."""
        middle, endless = 1 << 12, Box(0, 0, 1 << 13, 1 << 13)
        one = Box(middle, middle, middle + 1, middle + 1)
        restored = RestorerPlan.of(one, endless)
        # Texture estimates look further than the semantic ones, which two blocks make.
        texture = middle - restored.semantic.entered.grown(1, endless).top
        semantic = 1 + 2 * BLOCK_REACH + 1
        painted = SynthesisPlan.of(one, endless, config)
        coarse = max(
            middle - painted.stacks[0].entered.grown(1, endless).top,
            middle - painted.whole.over(TEXTURE_RATIO).grown(1, endless).top,
        )
        fine = middle - painted.whole.over(TEXTURE_RATIO).top
        return cls(texture, max(coarse + semantic, fine + texture))


def inner_boxes(stack: Stack, blocks: int, grid: Box) -> list[Box]:
    """What each of the blocks gives, the last one ``left``: just what the next one needs."""
    return [stack.left.grown(BLOCK_REACH * (blocks - 1 - one), grid) for one in range(blocks)]


def _stack_work(stack: Stack, width: int, blocks: int) -> float:
    # Inner boxes shrink by steps; the mean of both ends is near enough.
    return 18 * width * width * blocks * (stack.entered.cells + stack.left.cells) / 2
