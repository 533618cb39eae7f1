"""Re-training on what has come since the last release: on from its weights, judged against it on the same clips."""

from __future__ import annotations

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.curriculum import GateMissed, OnGateFailure, StageRefs, curated, edits_and_report, encoded, judged, where_to_look
from flows.pvtt import Overrides, run_curriculum
from pvtt_model.artifacts import ArtifactRef
from pvtt_model.recipes import RecipeName, recipe_by_name
from pvtt_model.specs import RecipeSpec
from tasks.compare_reports import compare_reports
from tasks.find_release import LastRelease, find_last_release, look_for_new_clips
from tasks.move_release import move_release
from tasks.open_store import open_checked_store
from tasks.project import Project, named
from tasks.publish_release import publish_release
from tasks.train_stage import train_stage

ENDED = {"production": "Promoted", "staging": "Staged"}


@flow(name="retrain", flow_run_name=named("retrain {recipe} on {clips}"), description="on from the last release, on released clips and what is new")
def retrain(
    recipe: RecipeName = "nano",
    clips: str = "nano",
    overrides: Overrides = {},  # noqa: B006
    store: str | None = None,
    on_gate_failure: OnGateFailure = "recipe",
    project: Project = None,
) -> State:
    """Only new clips are curated; the recipe's `retrain` policy says whether they are worth a training, and where a release that is not worse goes.

    Ends Completed as NothingNew, NotYet, Promoted, Staged or KeptOld, with the reason; without a last release it is the whole curriculum.

    Args:
        recipe: the recipe by name
        clips: 'nano' for procedural clips, or a JSON Lines manifest, or a folder of clips: a path or s3://
        overrides: recipe fields by dotted path, e.g. {"retrain.min_new_clips": 100}
        store: a folder or s3://bucket/prefix; the worker's PVTT_STORE where empty
        on_gate_failure: what a missed gate does: stop, continue, ask; 'recipe': as each stage says
        project: whose run it is, where several share the store; the worker's PVTT_PROJECT where empty
    """
    spec = recipe_by_name(recipe, overrides)
    uri = open_checked_store(store)
    last = find_last_release(spec.name, uri)
    if last is None:
        return run_curriculum(spec, curated(spec, clips, uri), uri, on_gate_failure)
    new = look_for_new_clips(clips, spec, last, uri)
    if not new.clips:
        return Completed(name="NothingNew", message=f"every clip of {clips} is in {last.clips.name} of {last.release.name}; nothing to train")
    decision = spec.retrain.decide(new.clips, new.of_new_products, new.age_days)
    if not decision.train:
        return Completed(name="NotYet", message=f"{last.release.name} stays: {decision.why}")
    data = curated(spec, clips, uri, last.clips)
    frozen = encoded(spec, last.clips, uri)
    try:
        stages = _trained_and_judged(spec.retraining(), data, frozen, last, uri, on_gate_failure)
    except GateMissed as missed:
        return Failed(message=f"{last.release.name} stays: {missed}")
    return _promoted_or_not(spec.retraining(), data, frozen, stages, last, decision.why, uri)


def _trained_and_judged(
    again: RecipeSpec, data: dict[str, ArtifactRef], frozen: dict[str, ArtifactRef], last: LastRelease, uri: str, on_gate_failure: OnGateFailure
) -> list[StageRefs]:
    """Trained on `data`, edited on the held-out clips of `frozen`, the released data. Raises GateMissed."""
    done: list[StageRefs] = []
    found: dict[str, ArtifactRef] = {}
    for stage in again.stages:
        before = done[-1].checkpoint if done else None
        if stage.init_from == "release":
            before = last.checkpoint_of(stage != again.stages[-1])
        found[stage.name] = train_stage(again, stage.name, data, before, uri)
        done.append(judged(again, stage.name, found, frozen, uri, on_gate_failure))
    return done


def _promoted_or_not(
    again: RecipeSpec, data: dict[str, ArtifactRef], frozen: dict[str, ArtifactRef], stages: list[StageRefs], last: LastRelease, why: str, uri: str
) -> State:
    """The last release makes the same edits; the new one is published, and takes its place unless it is worse."""
    stage, ours = again.stages[-1], stages[-1]
    theirs = edits_and_report(again, stage.name, last.checkpoint, last.partner, frozen, uri)
    compared = compare_reports(ours.report, theirs[1], stage.gate, again.retrain.tolerance, uri)
    checkpoints, edits, reports, gates = (list(refs) for refs in zip(*stages, strict=True))
    release = publish_release(again, data["clips"], checkpoints, edits, reports, gates, uri, last.release.name)
    evidence = [ours.report.name, theirs[1].name]
    look = f"release: {uri}/{release.name}\n{where_to_look(uri, ours.gate, ours.edits)}"
    if compared.worse:
        reasons = "; ".join(compared.worse)
        move_release(release, "candidate", f"kept back, worse than {last.release.name}: {reasons}", evidence, last, uri)
        return Completed(name="KeptOld", message=f"{last.release.name} stays: {reasons}\n{look}")
    to = again.retrain.promote_to
    moved = move_release(release, to, f"{why}; not worse than {last.release.name}: {compared.said}", evidence, last, uri)
    if moved.why_not:
        return Completed(name="KeptOld", message=f"{last.release.name} stays; of {release.name}: {moved.why_not}\n{look}")
    return Completed(name=ENDED.get(moved.stands, ENDED[to]), message=f"{release.name} is in {moved.stands}: {why}; {compared.said}\n{look}")
