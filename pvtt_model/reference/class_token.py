"""The class tokens of any number of pictures as a fixed few tokens: plain IP-Adapter's image projection. arXiv:2308.06721, section 3.2."""

from __future__ import annotations

from torch import Tensor, nn


class ClassTokenProjection(nn.Module):
    """Class tokens (B, N, image_width) -> num_tokens tokens (B, num_tokens, width), or of out_width where that is given.

    One linear layer and a LayerNorm, on the mean of the pictures' tokens, so that their order and number change no shape; `keep` marks the
    real ones where clips with fewer pictures were padded: padding cannot change the result.
    """

    def __init__(self, image_width: int, width: int, num_tokens: int, out_width: int | None = None) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj_in = nn.Linear(image_width, num_tokens * width)
        self.norm_out = nn.LayerNorm(width)
        self.to_out = nn.Linear(width, out_width) if out_width else nn.Identity()

    def forward(self, cls_BNC: Tensor, keep_BN: Tensor | None = None) -> Tensor:
        if keep_BN is None:
            mean_BC = cls_BNC.mean(1)
        else:
            keep_BN1 = keep_BN.unsqueeze(-1)
            mean_BC = cls_BNC.masked_fill(~keep_BN1, 0).sum(1) / keep_BN1.sum(1).clamp(min=1).to(cls_BNC.dtype)
        return self.to_out(self.norm_out(self.proj_in(mean_BC).unflatten(1, (self.num_tokens, -1))))
