"""The texture loss: latents of the same texture nearer to one another than to other textures'."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.fit.labels import NO_LABEL


def texture_contrast(
    latents: Tensor, labels: Tensor, *, temperature: float = 0.1, samples: int = 768
) -> Tensor:
    """InfoNCE with the positions of the same label in other pictures as one positive.

    (Khosla et al., "Supervised Contrastive Learning", 2020, L_in without the count of positives:
    minus the logarithm of the share of a position's neighbourhood that has its label.) The other
    form, L_out, wants every positive near; but a texture comes in many colours, which latents
    have to tell apart, and it is enough to be near some of one's own. Positions of the same label
    in the same picture count neither way: their patches overlap, and being near is no merit.

    latents: [n, channels, h, w]. labels: int [n, h, w], NO_LABEL where there is none. At most
    ``samples`` positions take part, evenly spaced (no chance is used up: a run with this loss
    sees the crops and states of one without). The latents are taken as they lie around their
    mean, so that what is compared is a direction in the space that the palette divides. Returns
    a float32 mean over the positions that have a positive; 0 when there is none. Call it outside
    autocast.
    """
    count, channels = latents.shape[:2]
    values = latents.permute(0, 2, 3, 1).reshape(-1, channels).float()
    flat = labels.reshape(-1).long()
    picture = torch.arange(count, device=flat.device).repeat_interleave(len(flat) // count)
    drawn = (flat != NO_LABEL).nonzero()[:, 0]
    if len(drawn) == 0:
        return latents.sum() * 0.0
    if len(drawn) > samples:
        drawn = drawn[torch.arange(samples, device=drawn.device) * len(drawn) // samples]
    centre = values.detach().mean(0)
    values, flat, picture = F.normalize(values[drawn] - centre, dim=1), flat[drawn], picture[drawn]
    same = flat[:, None] == flat[None]
    apart = picture[:, None] != picture[None]
    positive, negative = same & apart, ~same
    similarity = values @ values.T / temperature
    anchors = positive.any(1)
    if not bool(anchors.any()):
        return latents.sum() * 0.0
    similarity, positive, negative = similarity[anchors], positive[anchors], negative[anchors]
    own = similarity.masked_fill(~positive, -torch.inf).logsumexp(1)
    all_of_them = similarity.masked_fill(~(positive | negative), -torch.inf).logsumexp(1)
    return (all_of_them - own).mean()
