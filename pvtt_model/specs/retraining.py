"""When new clips are worth a training, how it goes on from the last release, and where its release is put."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from pvtt_model.specs.base import Positive, Spec


class Decision(NamedTuple):
    """Whether to train now, and the sentence that says why or why not."""

    train: bool
    why: str


class RetrainSpec(Spec):
    """The policy of re-training. No artifact's name hangs on it: what of it decides a checkpoint goes into that checkpoint's own settings."""

    min_new_clips: Positive = Field(default=1, description="so many new clips are enough; at 1 anything new is")
    min_new_product_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="or this share of the new clips shows products that the released data has not. A product is the manifest's product_id, else its "
        "first reference picture's hash: clips hold no category",
    )
    max_age_days: Annotated[float, Field(gt=0)] | None = Field(default=None, description="or the release is so old, and one clip at least is new")
    start_from: Literal["release", "base"] = Field(
        default="release",
        description="release: the stages whose weights the release holds (the last one; of two experts each one's last) go on from its checkpoints; "
        "base: the whole curriculum anew on old and new clips",
    )
    replay_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.8, description="clips of the released data make up so much of what is seen; new ones are the rest. 0.8 is ours"
    )
    steps: Positive | None = Field(default=None, description="of each stage of the re-training; None: the stage's own")
    lr: Annotated[float, Field(gt=0)] | None = Field(default=None, description="of each stage of the re-training; None: the stage's own")
    tolerance: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="a metric that is surely worse, but by no more than this share of the last release's mean, is let pass. The bootstrap is of "
        "paired edits and sees differences that nobody else does",
    )
    promote_to: Literal["production", "staging"] = Field(
        default="production", description="where a release that is not worse is put; from staging a person promotes it: pvtt releases promote"
    )

    def decide(self, new_clips: int, of_new_products: int, age_days: float) -> Decision:
        """By the number of new clips, those of them that show a new product, and the release's age. Nothing new never trains."""
        if not new_clips:
            return Decision(False, "no clip is new")
        share = of_new_products / new_clips
        said = [f"{new_clips} new clips, {self.min_new_clips} are enough (retrain.min_new_clips)"]
        met = [new_clips >= self.min_new_clips]
        if self.min_new_product_share is not None:
            said.append(f"{share:.0%} of them show new products, {self.min_new_product_share:.0%} is enough (retrain.min_new_product_share)")
            met.append(share >= self.min_new_product_share)
        if self.max_age_days is not None:
            said.append(f"the release is {age_days:.1f} days old, {self.max_age_days:g} is enough (retrain.max_age_days)")
            met.append(age_days >= self.max_age_days)
        if any(met):
            return Decision(True, "; ".join(text for text, yes in zip(said, met, strict=True) if yes))
        return Decision(False, "; ".join(said))
