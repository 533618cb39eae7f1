"""The order of the work, shared by the flows: curation, then for each stage checkpoint, edits, report, gate.

Stages run in sequence: concurrent subflows may take each other's results on a retry (prefect#22259).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from pvtt_model.artifacts import ArtifactRef
from pvtt_model.specs import RecipeSpec
from tasks.describe_data import describe_data
from tasks.embed_conditions import embed_conditions
from tasks.encode_latents import encode_latents
from tasks.extract_masks import extract_masks
from tasks.generate_edits import generate_edits
from tasks.ingest_clips import ingest_clips
from tasks.pass_gate import GateOutcome, pass_gate
from tasks.score_edits import score_edits
from tasks.train_stage import stage_index, train_stage

OnGateFailure = Literal["recipe", "stop", "continue", "ask"]
APPROVAL_TIMEOUT_S = 7 * 24 * 3600


class Approval(RunInput):
    """What a person answers when a gate was missed and the recipe says 'ask'."""

    approve: bool = Field(default=False, description="go on although the gate was missed")
    why: str = Field(default="", description="kept in the log")


class GateMissed(Exception):
    """The run stops here; the message is the table of thresholds."""


class StageRefs(NamedTuple):
    checkpoint: ArtifactRef
    edits: ArtifactRef
    report: ArtifactRef
    gate: ArtifactRef


def where_to_look(store: str, gate: ArtifactRef, edits: ArtifactRef) -> str:
    """The last lines of a finished run: report, contact sheet, videos."""
    return (
        f"report: {store}/{gate.name}/report.html\ncontact sheet: {store}/{edits.name}/contact_sheet.png\n"
        f"videos: pvtt artifacts get {edits.name} --match '*.mp4' --out edits --store {store}"
    )


def stage_or_last(recipe: RecipeSpec, name: str | None) -> str:
    """A stage's name, the recipe's last one where it is empty. Raises ValueError naming the stages there are."""
    return recipe.stages[stage_index(recipe, name) if name else -1].name


def curated(recipe: RecipeSpec, clips: str, store: str, base: ArtifactRef | None = None) -> dict[str, ArtifactRef]:
    """clips -> masks -> latents -> conditions, and the card of all four."""
    data = encoded(recipe, ingest_clips(clips, recipe, store, base), store)
    describe_data(data, recipe, store)
    return data


def encoded(recipe: RecipeSpec, clips: ArtifactRef, store: str) -> dict[str, ArtifactRef]:
    """The clips with their masks, latents and conditions."""
    masks = extract_masks(clips, recipe, store)
    latents = encode_latents(clips, masks, recipe, store)
    return {"clips": clips, "masks": masks, "latents": latents, "conditions": embed_conditions(clips, recipe, store)}


def trained(recipe: RecipeSpec, data: dict[str, ArtifactRef], until: str, store: str) -> dict[str, ArtifactRef]:
    """The checkpoints by stage up to `until`, found or trained."""
    found: dict[str, ArtifactRef] = {}
    checkpoint = None
    for stage in recipe.stages[: stage_index(recipe, until) + 1]:
        found[stage.name] = checkpoint = train_stage(recipe, stage.name, data, checkpoint, store)
    return found


def edits_and_report(
    recipe: RecipeSpec, stage_name: str, checkpoint: ArtifactRef, partner: ArtifactRef | None, data: dict[str, ArtifactRef], store: str
) -> tuple[ArtifactRef, ArtifactRef]:
    """The held-out clips of `data` edited with a checkpoint, and what the edits are worth. partner: the other expert's checkpoint, of two."""
    edits = generate_edits(recipe, stage_name, checkpoint, data, store, partner)
    return edits, score_edits(recipe, stage_name, edits, store)


def judged(
    recipe: RecipeSpec, stage_name: str, checkpoints: dict[str, ArtifactRef], data: dict[str, ArtifactRef], store: str, on_failure: OnGateFailure
) -> StageRefs:
    """edits -> report -> gate. checkpoints: by stage. Raises GateMissed where the gate was missed and nobody lets it pass."""
    checkpoint, partner = checkpoints[stage_name], recipe.partner_of(recipe.stages[stage_index(recipe, stage_name)])
    edits, report = edits_and_report(recipe, stage_name, checkpoint, checkpoints[partner.name] if partner else None, data, store)
    outcome = pass_gate(recipe, stage_name, report, store)
    if not outcome.passed:
        _after_a_miss(recipe, stage_name, outcome, on_failure)
    return StageRefs(checkpoint, edits, report, outcome.ref)


def _after_a_miss(recipe: RecipeSpec, stage_name: str, outcome: GateOutcome, on_failure: OnGateFailure) -> None:
    from prefect import get_run_logger

    stage = recipe.stages[stage_index(recipe, stage_name)]
    policy = stage.gate.on_failure if on_failure == "recipe" else on_failure
    log = get_run_logger()
    if policy == "continue":
        log.warning("stage '%s' missed its gate; going on, as on_gate_failure says\n%s", stage_name, outcome.table)
        return
    if policy == "ask":
        log.warning("stage '%s' missed its gate; waiting for a person to resume this run in the UI\n%s", stage_name, outcome.table)
        form = Approval.with_initial_data(description=f"Stage `{stage_name}` missed its gate.\n\n{outcome.table}\n\nGo on?")
        answer = pause_flow_run(wait_for_input=form, timeout=APPROVAL_TIMEOUT_S, key=f"gate-{stage_name}")
        if answer.approve:
            log.warning("stage '%s' missed its gate and was approved by a person: %s", stage_name, answer.why or "(no reason given)")
            return
        raise GateMissed(f"stage '{stage_name}' missed its gate and was not approved: {answer.why or '(no reason given)'}\n\n{outcome.table}")
    raise GateMissed(f"stage '{stage_name}' missed its gate\n\n{outcome.table}")
