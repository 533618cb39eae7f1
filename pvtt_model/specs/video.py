"""The frames that the model sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pvtt_model.specs.base import Added, Positive, Spec


class VideoSpec(Spec):
    """The frames the model sees. Wan's VAE wants 4k+1 frames; its 8x8 compression and the DiT's 2x2 patches want sides in sixteens
    (of Wan2.2's 16x16 VAE in thirty-twos, which a recipe that names it is held to).

    With `buckets` there are several sizes, and each clip is cut (or stretched) to the one nearest to its own aspect.
    """

    width: Positive = Field(default=832, multiple_of=16)
    height: Positive = Field(default=480, multiple_of=16)
    num_frames: Positive = 81
    fit: Literal["crop", "stretch"] = Field(default="crop", description="crop: cover the frame and cut the centre; stretch: change the aspect")
    fps: Annotated[float, Field(gt=0)] | None = Added(
        None, description="frames a second that the model sees, taken by their times in the file; null: the file's own frames, one after the other"
    )
    buckets: tuple[tuple[int, int], ...] = Added(
        (), description="further [width, height] beside width x height, e.g. a portrait one: each clip takes the one nearest to its own aspect"
    )

    @field_validator("num_frames")
    @classmethod
    def _four_k_plus_one(cls, n: int) -> int:
        if n % 4 != 1:
            raise ValueError(f"num_frames is {n}; Wan's VAE takes 4k+1 frames. Use {n // 4 * 4 + 1} or {n // 4 * 4 + 5}.")
        return n

    @model_validator(mode="after")
    def _buckets_are_sizes(self) -> VideoSpec:
        for width, height in self.buckets:
            if max(width, height) > 8192:
                raise ValueError(f"bucket {width}x{height} is larger than 8192 pixels a side. Name a size that the model is run at.")
            if min(width, height) < 16 or width % 16 or height % 16:
                near = "x".join(str(max(1, round(side / 16)) * 16) for side in (width, height))
                raise ValueError(f"bucket {width}x{height} has a side that is no positive multiple of 16. Use {near}.")
        twice = next((size for i, size in enumerate(self.sizes) if size in self.sizes[:i]), None)
        if twice:
            raise ValueError(f"bucket {twice[0]}x{twice[1]} stands twice among {list(self.sizes)}, width x height first. Name each size once.")
        return self

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every bucket, width x height first."""
        return ((self.width, self.height), *self.buckets)

    @property
    def largest(self) -> tuple[int, int]:
        """(width, height) of the bucket with most pixels, by which memory is planned."""
        return max(self.sizes, key=lambda size: size[0] * size[1])

    def bucket_of(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the bucket that a picture of that size is fitted to: the least |log(aspect / its aspect)|.

        Of two that are as near the one with more pixels, then the first of `sizes`.
        """
        return max(self.sizes, key=lambda size: (_shared_aspect((width, height), size), size[0] * size[1]))

    def kept_share(self, width: int, height: int) -> float:
        """The share of a picture of that size that is left once it is cut to its bucket's aspect, (0, 1]."""
        return _shared_aspect((width, height), self.bucket_of(width, height))


def _shared_aspect(one: tuple[int, int], other: tuple[int, int]) -> float:
    """The smaller of two aspects over the larger, exp(-|log ratio|): 1 where they are equal. A quotient of integers, so ties are exact."""
    a, b = one[0] * other[1], one[1] * other[0]
    return min(a, b) / max(a, b)
