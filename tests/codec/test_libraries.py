"""torchvision works beside a torch that its C++ library does not load into."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codec.libraries import ensure_torchvision, nms

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


def brute_force(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            low, high = (
                torch.maximum(boxes[i, :2], boxes[j, :2]),
                torch.minimum(boxes[i, 2:], boxes[j, 2:]),
            )
            shared = float((high - low).clamp_min(0).prod())
            areas = [float((b[2:] - b[:2]).prod()) for b in (boxes[i], boxes[j])]
            if shared / (sum(areas) - shared) > threshold:
                break
        else:
            kept.append(i)
    return kept


def random_boxes(seed: int, count: int = 80):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    sides = 4 + torch.rand(count, 2, generator=generator) * 30
    scores = (torch.rand(count, generator=generator) * 20).round() / 20  # with ties
    return torch.cat([corner, corner + sides], 1), scores


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_equals_its_definition(seed, threshold):
    boxes, scores = random_boxes(seed)
    assert nms(boxes, scores, threshold).tolist() == brute_force(boxes, scores, threshold)


def test_nothing_in_nothing_out():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)


def test_torchvisions_own_nms_gives_the_same():
    ensure_torchvision()
    ensure_torchvision()
    from torchvision.ops import batched_nms
    from torchvision.ops import nms as theirs

    boxes, scores = random_boxes(11)
    assert theirs(boxes, scores, 0.4).tolist() == brute_force(boxes, scores, 0.4)
    classes = torch.arange(len(boxes)) % 3
    kept = set(batched_nms(boxes, scores, classes, 0.4).tolist())
    expected = set()
    for label in range(3):
        index = torch.nonzero(classes == label)[:, 0]
        expected |= {int(index[i]) for i in brute_force(boxes[index], scores[index], 0.4)}
    assert kept == expected


def test_it_helps_in_a_fresh_process():
    """The order matters there: nothing has imported torchvision before."""
    script = (
        "from codec.libraries import ensure_torchvision\n"
        "ensure_torchvision()\n"
        "import torch, torchvision\n"
        "from torchvision.transforms import functional\n"
        "b = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])\n"
        "print(torchvision.ops.nms(b, torch.tensor([.5, .9, .1]), 0.5).tolist())\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 2]"
