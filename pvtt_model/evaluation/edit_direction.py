"""Edit direction: did the picture change the way the words did? Higher is better; -1 to 1, 0 = unrelated.

Cosine of the change of the frames' CLIP embedding (edit - source) with the change of the prompts' (target - source): StyleGAN-NADA
(arXiv:2108.00946), InstructPix2Pix (arXiv:2211.09800). A frame that did not change has no direction and counts as 0: it did not go the way.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.frames import same_shape, to_unit
from pvtt_model.evaluation.similarity import ClipExtractor, centre_squares, embedded

UNCHANGED = 1e-6  # length of a change of unit vectors below which it is rounding


@torch.no_grad()
def edit_direction(clip: ClipExtractor, edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, source_prompt: str, target_prompt: str) -> float:
    """Mean over frames' centre squares, uint8 videos. Raises ValueError for unlike shapes, an empty prompt, or two prompts that say the same."""
    same_shape(edit_TCHW, source_TCHW)
    if not (source_prompt.strip() and target_prompt.strip()):
        raise ValueError("a prompt is empty: the direction of an edit wants both, of the source and of the target.")
    words = clip.embed_texts([source_prompt, target_prompt]).to(torch.float32).cpu()
    edit, source = (embedded(clip, to_unit(centre_squares(video))) for video in (edit_TCHW, source_TCHW))
    return direction_of(F.normalize(edit, dim=-1), F.normalize(source, dim=-1), F.normalize(words, dim=-1))


def direction_of(edit_TD: torch.Tensor, source_TD: torch.Tensor, words_2D: torch.Tensor) -> float:
    """The mean cosine from embeddings, of unit length or as they are; words: of the source's prompt, then of the target's.

    Raises ValueError where the words do not differ.
    """
    way_D = words_2D[1] - words_2D[0]
    if float(way_D.norm()) < UNCHANGED:
        raise ValueError("the prompts of source and target are the same to CLIP: they have no direction.")
    change_TD = edit_TD - source_TD
    cosines = F.cosine_similarity(change_TD, way_D[None].expand_as(change_TD))
    return float(torch.where(change_TD.norm(dim=-1) < UNCHANGED, 0.0, cosines).mean())
