"""Training samples from the latents and conditions shards, one row group a sample: only what is asked for is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pvtt_model.backbones.architectures import Kind
from pvtt_model.curation.augment import reference_name
from pvtt_model.curation.i2v_context import FIRST, IMAGE, context_for
from pvtt_model.curation.variants import cell_of, control_of, count_videos, variant_name
from pvtt_model.data.tensor_rows import TensorRows
from pvtt_model.reference.features import PictureFeatures, ReferenceFeatures, pictures_of, stack_features, stack_references

#: A local file, or what opens one elsewhere; of one shard always the same object, so that it is opened once.
Shard = Path | Callable[[], TensorRows]


class Place(NamedTuple):
    """Where one clip's latents and conditions lie."""

    clip_key: str
    latents_shard: Shard
    conditions_shard: Shard
    row: int
    bucket: tuple[int, int] | None = None  # width and height of its frames; a batch holds one bucket's samples
    selected: bool = False  # one of the best, data.selected_share of what is seen


class Batch(NamedTuple):
    x0_BCFHW: Tensor
    control_BMFHW: Tensor
    text_BLD: Tensor
    reference: ReferenceFeatures
    words_BLD: Tensor  # of the product alone, padded as the text; no length at all where no sample has any
    first_BCFHW: Tensor  # the first frame's latents (i2v_context.first_latents) and
    image_BNC: Tensor  # its CLIP tokens; of both no elements where the rows have none

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        return Batch(*(t.to(device, dtype) for t in self))  # type: ignore[arg-type]  # tensors and features

    @property
    def mask_BMFHW(self) -> Tensor:
        """VACE's mask, last in its context: the pixels of each latent cell."""
        return self.control_BMFHW[:, 2 * self.x0_BCFHW.shape[1] :]

    def context(self, kind: Kind) -> Tensor:
        """The context (B, M, F, H, W) that a backbone of this kind takes."""
        return context_for(kind, self.control_BMFHW, self.x0_BCFHW, self.first_BCFHW)

    @property
    def image(self) -> Tensor | None:
        """The first frame's CLIP tokens (B, N, C), where the rows have any."""
        return self.image_BNC if self.image_BNC.numel() else None


NONE = torch.zeros(0)


class Sample(NamedTuple):
    x0_CFHW: Tensor
    control_VMFHW: Tensor  # VACE's context (inactive, reactive, mask) for each variant of the mask; variant 0 is the policy's own
    text_LD: Tensor
    pictures: tuple[PictureFeatures, ...]  # by variant: as they are, then augmented
    words_LD: Tensor  # the product's words alone; none (0, D) where the manifest names none
    more_x0_NCFHW: Tensor = NONE  # of the video's further variants,
    more_control_NVMFHW: Tensor = NONE  # and their contexts
    first_NCFHW: Tensor = NONE  # of the video and its variants, the first frame's latents and
    image_NPC: Tensor = NONE  # its CLIP tokens

    @property
    def num_variants(self) -> int:
        return len(self.control_VMFHW)

    def control_MFHW(self, variant: int = 0) -> Tensor:
        """The context of a variant, modulo those there."""
        return self.control_VMFHW[variant % self.num_variants]

    def num_bytes(self) -> int:
        """Of all its tensors."""
        return sum(t.numel() * t.element_size() for t in (*self, *(t for p in self.pictures for t in p)) if isinstance(t, Tensor))

    @property
    def num_videos(self) -> int:
        return 1 + len(self.more_x0_NCFHW)

    def of_video(self, video: int) -> Sample:
        """The sample with a variant of the video in the clip's place; 0 is the clip as it is."""
        if video == 0:
            return self
        chosen = self._replace(x0_CFHW=self.more_x0_NCFHW[video - 1], control_VMFHW=self.more_control_NVMFHW[video - 1])
        return chosen._replace(first_NCFHW=self.first_NCFHW[video:], image_NPC=self.image_NPC[video:])


def read_sample(place: Place, injection: str = "ip_adapter_plus") -> Sample:
    """One clip, with all variants of its mask and video, and of its reference pictures what the injection reads.

    Raises ValueError where the shards' rows are of another clip or another bucket, or do not hold it.
    """
    latents, conditions = _opened(place.latents_shard), _opened(place.conditions_shard)
    keys = [shard.places[place.row].clip_key if place.row < len(shard) else "none" for shard in (latents, conditions)]
    if keys != [place.clip_key] * 2:
        raise ValueError(
            f"row {place.row} holds clips {keys[0]} and {keys[1]}, not {place.clip_key}. The shards are of different data sets; re-run curation."
        )
    z, c = latents.read(place.row), conditions.read(place.row)
    height, width = (cell_of(z) * side for side in z["latents_CFHW"].shape[-2:])
    if place.bucket not in (None, (width, height)):
        raise ValueError(f"clip {place.clip_key} was encoded at {width}x{height}, its bucket is {place.bucket}. Re-run curation with this recipe.")
    controls = [_controls(z, video) for video in range(count_videos(z))]
    text_LD = c["text_LD"].float()
    words_LD = c["words_LD"].float() if "words_LD" in c else text_LD[:0]
    # the pictures' latents are of the pictures as they are
    variants = 1 if injection == "reference_net" else next(n for n in itertools.count() if reference_name(n) not in c)
    pictures = [pictures_of({**z, **c}, injection, i) for i in range(variants)]
    sample = Sample(z["latents_CFHW"].float(), controls[0], text_LD, tuple(pictures), words_LD)
    sample = sample._replace(first_NCFHW=_of_videos(z, FIRST, len(controls)), image_NPC=_of_videos(z, IMAGE, len(controls)))
    if len(controls) == 1:
        return sample
    more = [z[variant_name("latents_CFHW", 0, video)].float() for video in range(1, len(controls))]
    return sample._replace(more_x0_NCFHW=torch.stack(more), more_control_NVMFHW=torch.stack(controls[1:]))


def _of_videos(row: Mapping[str, Tensor], name: str, videos: int) -> Tensor:
    """A tensor of each variant of the video, stacked; none where the row has it not."""
    return torch.stack([row[variant_name(name, 0, video)].float() for video in range(videos)]) if name in row else NONE


def _controls(row: Mapping[str, Tensor], video: int) -> Tensor:
    """The contexts (V, M, F, H, W) of a variant of the video, one for each variant of the mask."""
    controls: list[Tensor] = []
    while (control := control_of(row, len(controls), video)) is not None:
        controls.append(control)
    return torch.stack(controls)


def _opened(shard: Shard) -> TensorRows:
    """The shard with its footer read, once for shards elsewhere; open files of a process are few, so of local ones the last 256 stay."""
    return _local(shard) if isinstance(shard, Path) else _elsewhere(shard)


@lru_cache(maxsize=256)
def _local(shard: Path) -> TensorRows:
    return TensorRows.open(shard)


@cache
def _elsewhere(shard: Callable[[], TensorRows]) -> TensorRows:
    return shard()


def collate(
    samples: Sequence[Sample],
    max_text_tokens: int,
    empty_text_LD: Tensor,
    keep_text: Sequence[bool],
    variants: Sequence[int] | None = None,
    reference_variants: Sequence[int] | None = None,
) -> Batch:
    """Stack samples. Text is padded with zeros to `max_text_tokens`, as Wan does; a dropped prompt becomes the empty prompt's embedding.

    variants: which of each sample's masks, modulo those there; None takes the policy's own of each. reference_variants: the same of its
    reference pictures; None takes them as they are.
    """
    pictures = [s.pictures[v % len(s.pictures)] for s, v in zip(samples, reference_variants or [0] * len(samples), strict=True)]
    controls = [s.control_MFHW(v) for s, v in zip(samples, variants if variants is not None else [0] * len(samples), strict=True)]
    texts = [s.text_LD if keep else empty_text_LD for s, keep in zip(samples, keep_text, strict=True)]
    return Batch(
        torch.stack([s.x0_CFHW for s in samples]),
        torch.stack(controls),
        torch.stack([pad_rows(t, max_text_tokens) for t in texts]),
        stack_features(pictures),
        stack_references([s.words_LD for s in samples])[0],
        _first_of([s.first_NCFHW for s in samples]),
        _first_of([s.image_NPC for s in samples]),
    )


def _first_of(each: Sequence[Tensor]) -> Tensor:
    return torch.stack([one[0] for one in each]) if all(one.numel() for one in each) else NONE


def pad_rows(tokens_LD: Tensor, length: int) -> Tensor:
    """Zeros appended up to `length` rows. Raises ValueError where there are more already."""
    if len(tokens_LD) > length:
        raise ValueError(f"{len(tokens_LD)} text tokens, the recipe allows {length}. Re-run conditions with this recipe.")
    return torch.cat([tokens_LD, tokens_LD.new_zeros(length - len(tokens_LD), tokens_LD.shape[1])])
