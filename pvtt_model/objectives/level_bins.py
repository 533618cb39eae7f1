"""The loss by noise level: ten bins of sigma, as sums and counts, so that any sum over steps and workers is exact.

What is counted is the plain squared error of the velocity, before any weight of mask or level: of settings that weigh differently the
numbers can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 10
#: Means of the loss's parts that are kept beside the bins, each before its weight in the sum; flow with the weights of mask and level in it.
TERMS = ("identity", "reference_recon", "flow", "words")
_EDGES = torch.arange(1, BINS) / BINS


def bin_of(sigma_B: Tensor) -> Tensor:
    """The bin of each level: [0, 0.1) is 0, ..., [0.9, 1] is 9."""
    return torch.bucketize(sigma_B.detach().float().cpu(), _EDGES, right=True)


class LevelTally:
    """Sums, sums of squares and counts by bin, float64 on the CPU; and sum and count of each optional loss."""

    def __init__(self) -> None:
        self.sums, self.squares, self.counts = (torch.zeros(BINS, dtype=torch.float64) for _ in range(3))
        self.terms = torch.zeros(len(TERMS), 2, dtype=torch.float64)

    def add(self, sigma_B: Tensor, loss_B: Tensor) -> None:
        """One value a sample."""
        bins, loss = bin_of(sigma_B), loss_B.detach().double().cpu()
        self.sums.index_add_(0, bins, loss)
        self.squares.index_add_(0, bins, loss.square())
        self.counts.index_add_(0, bins, torch.ones_like(loss))

    def add_term(self, name: str, loss_B: Tensor, counts_B: Tensor) -> None:
        """An optional loss of the samples that have it (counts_B)."""
        kept = counts_B.detach().cpu().bool()
        self.terms[TERMS.index(name)] += torch.stack([loss_B.detach().double().cpu()[kept].sum(), kept.sum().double()])

    def packed(self) -> Tensor:
        """All numbers that go into a record, in a row: to be summed over workers."""
        return torch.cat([self.sums, self.counts, self.terms.flatten()])


def level_record(packed: Tensor) -> dict[str, float]:
    """What a step's record says: level3_sum and level3_count for each bin that a sample fell into; flow_loss, and words_loss,
    identity_loss, ... where there was any."""
    record: dict[str, float] = {}
    sums, counts, terms = packed.split([BINS, BINS, 2 * len(TERMS)])
    for i, (total, count) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True)):
        if count:
            record |= {f"level{i}_sum": total, f"level{i}_count": count}
    for name, (total, count) in zip(TERMS, terms.view(-1, 2).tolist(), strict=True):
        if count:
            record[f"{name}_loss"] = total / count
    return record
