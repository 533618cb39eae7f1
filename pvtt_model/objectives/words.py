"""The reference's tokens as words: how far they are from what the text encoder makes of the product's own words.

ELITE (arXiv:2302.13848) and BLIP-Diffusion (arXiv:2305.14720) give a picture a place in the space of words before it conditions a
diffusion model; here the distance stands beside the flow loss, which alone tells little of a product at the noise where it is decided.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def words_loss(tokens_BND: Tensor, words_BLD: Tensor) -> Tensor:
    """Squared distance of token i and word i over the squared length of the words, one value a sample (B), float32; 1 is as good as zeros.

    Behind the words' end a token has to be zero, as the base's own padding is; of more words than tokens the first N count. A sample
    without words (all zero) has the loss 0.
    """
    num_tokens = tokens_BND.shape[1]
    words_BND = words_BLD[:, :num_tokens].float()
    words_BND = F.pad(words_BND, (0, 0, 0, num_tokens - words_BND.shape[1]))
    length_B = words_BND.square().sum((1, 2))
    distance_B = (tokens_BND.float() - words_BND).square().sum((1, 2))
    return torch.where(length_B > 0, distance_B / length_B.clamp(min=torch.finfo(torch.float32).tiny), torch.zeros_like(length_B))
