"""What the last release was made of, and what has come since."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import get_run_logger, task
from pydantic import BaseModel, ConfigDict

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from pvtt_model.artifacts import ArtifactRef
from pvtt_model.specs import RecipeSpec
from tasks.ingest_clips import new_lines
from tasks.policy import POLICY
from tasks.project import registry_of_run
from tasks.tables import read_json


class LastRelease(BaseModel):
    """The release that a new one has to stand up to."""

    model_config = ConfigDict(frozen=True)

    release: ArtifactRef
    clips: ArtifactRef
    checkpoint: ArtifactRef
    partner: ArtifactRef | None  # of two experts the other one's checkpoint
    created: str
    moves: int  # in the recipe's registry when it was found

    def checkpoint_of(self, expert_first: bool) -> ArtifactRef:
        """The checkpoint that a stage of the re-training goes on from: the last stage's, or the other expert's. Raises ValueError."""
        if not expert_first:
            return self.checkpoint
        if self.partner is None:
            raise ValueError(
                f"{self.release.name} holds one expert alone, and the recipe trains two. Train them anew on all clips: retrain.start_from=base."
            )
        return self.partner


class NewClips(BaseModel):
    """What the policy decides by."""

    model_config = ConfigDict(frozen=True)

    clips: int
    of_new_products: int
    age_days: float


@task(task_run_name="find the last release of {recipe_name}", description="The release in production, else the newest", **POLICY)
def find_last_release(recipe_name: str, store: str) -> LastRelease | None:
    """Of the run's project the recipe's release in production, else its newest, or None (`ReleaseRegistry.in_use`)."""
    registry = registry_of_run(store)
    opened = registry.artifacts
    standing, release = registry.standing(recipe_name), registry.in_use(recipe_name)
    if release is None:
        get_run_logger().info("no release of %s in %s yet: this is the first", recipe_name, store)
        return None
    checkpoint = opened.manifest(release.inputs[0])
    reports = [name for name in release.inputs if name.startswith("reports/")]
    made_by = opened.manifest(opened.manifest(reports[-1]).inputs[0]).inputs  # the edits': the checkpoint, the data, perhaps the partner
    partner = next((name for name in made_by[1:] if name.startswith("checkpoints/")), None)
    get_run_logger().info("the last release of %s is %s, made %s, %s", recipe_name, release.name, release.created[:19], standing.of(release.name))
    return LastRelease(
        release=opened.ref(release),
        clips=opened.ref(opened.manifest(release.summary["clips"])),
        checkpoint=opened.ref(checkpoint),
        partner=opened.ref(opened.manifest(partner)) if partner else None,
        created=release.created,
        moves=len(standing.moves),
    )


@task(task_run_name="look for new clips in {clips}", description="Lines whose video is not in the released data", **POLICY)
def look_for_new_clips(clips: str, recipe: RecipeSpec, last: LastRelease, store: str) -> NewClips:
    """Lines of the manifest, before probing, that the released data has not judged. A released clip whose prompt or reference changed stays."""
    opened = ArtifactStore.open(store, settings(store).cache)
    base = opened.manifest(last.clips)
    lines = new_lines(clips, recipe, base, opened)
    products = {fact["product_id"] for fact in read_json(opened, base)}
    age = datetime.now(UTC) - datetime.fromisoformat(last.created)
    return NewClips(clips=len(lines), of_new_products=sum(line.product_id not in products for line in lines), age_days=age.total_seconds() / 86400)
