"""What the report's page shows beside the report, out of the store: videos of the worst edits, earlier reports, lineage, settings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from infra.artifact_store import ArtifactMissing, ArtifactStore
from infra.store import ObjectMissing
from pvtt_model.artifacts import Manifest
from pvtt_model.evaluation.gate import judge
from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_page.beside import Beside, Origin, Past, Seen
from pvtt_model.evaluation.report_page.cards import MOST_CARDS
from pvtt_model.evaluation.report_page.variants import main_metrics
from pvtt_model.evaluation.report_page.worst_first import worst_first
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import map_units
from tasks.edit_previews import KIND, make_preview, preview_unit, seen_of
from tasks.score_edits import REPORT
from tasks.train_stage import stage_index

MOST_RELEASES, MOST_REPORTS = 5, 60  # looked through, newest first


def beside_report(store: ArtifactStore, name: str, recipe: RecipeSpec, report: Report, edits: Manifest, scored: Manifest | None = None) -> Beside:
    """For report_html. name: of the artifact that the page is of; scored: the report's manifest, once there is one."""
    stage = recipe.stages[stage_index(recipe, report.stage)]
    origins = ([scored] if scored else []) + _manifests(store, edits)
    return Beside(
        name=name,
        seen=_seen(store, recipe, report, edits),
        past=earlier_reports(store, recipe, report.stage, edits),
        lineage=tuple(Origin(m.name, m.created[:19].replace("T", " "), _commit(m)) for m in origins),
        libraries=edits.libraries,
        settings={"edit: how the edits were sampled": edits.spec.get("edit", {}), "gate": stage.gate.model_dump(mode="json")},
        get_videos=f"pvtt artifacts get {edits.name} --match '*.mp4' --out videos --store {shlex.quote(store.store.uri)}",
    )


def earlier_reports(store: ArtifactStore, recipe: RecipeSpec, stage_name: str, edits: Manifest) -> tuple[Past, ...]:
    """The last stages of the recipe's earlier releases, oldest first, then the stages of this run before this one.

    Of this run is a report of an earlier stage whose checkpoint this one was trained from; else, where stages start from the base, the newest
    one on the same clips, masks, latents and conditions. A report that cannot be read is left out.
    """
    found = [m for m in reversed(store.newest("releases", MOST_RELEASES)) if m.summary.get("recipe") == recipe.name]
    past = []
    for release in found:
        reports = [n for n in release.inputs if n.startswith("reports/") and edits.name not in store.lineage(n).names()]  # not this one again
        past += _past(store, "release", f"{release.created[5:10]}", f"release {release.version}, {release.created[:10]}", reports[-1:])
    ancestors = set(store.lineage(edits.name).names())
    newest = store.newest("reports", MOST_REPORTS)
    for stage in recipe.stages[: stage_index(recipe, stage_name)]:
        of_stage = [m for m in newest if m.spec.get("stage") == stage.name and _of_this_run(store, m, edits, ancestors)]
        its = [m.name for m in sorted(of_stage, key=lambda m: not _is_ancestor(store, m, ancestors))]
        past += _past(store, "stage", stage.name, f"stage {stage.name}", its[:1])
    return tuple(past)


def _past(store: ArtifactStore, kind: Any, label: str, title: str, names: Sequence[str]) -> list[Past]:
    found = []
    for name in names:
        with suppress(ArtifactMissing, ObjectMissing, KeyError, ValidationError, OSError):
            report = Report.model_validate_json(store.local_path(store.manifest(name).file(REPORT)).read_bytes())
            found.append(Past(kind, label, title, {metric.name: metric for metric in report.metrics}))
    return found


def _of_this_run(store: ArtifactStore, scored: Manifest, edits: Manifest, ancestors: set[str]) -> bool:
    made = store.find(scored.inputs[0])
    return made is not None and (made.inputs[0] in ancestors or made.inputs[1:5] == edits.inputs[1:5])


def _is_ancestor(store: ArtifactStore, scored: Manifest, ancestors: set[str]) -> bool:
    made = store.find(scored.inputs[0])
    return made is not None and made.inputs[0] in ancestors


def _seen(store: ArtifactStore, recipe: RecipeSpec, report: Report, edits: Manifest) -> dict[tuple[str, str], Seen]:
    """Small videos of the edits that get a card, made on Ray where they are not there. Chosen by the stage's gate, so its page finds them made."""
    stage = recipe.stages[stage_index(recipe, report.stage)]
    cases = worst_first(report, main_metrics(report, judge(report, stage.gate)))[:MOST_CARDS]
    shards = {shard.name.removesuffix(".parquet"): shard for shard in edits.shards()}
    chosen = [case.edit for case in cases if case.edit.status == "done" and case.edit.clip_key in shards]
    units = [preview_unit(store, shards[edit.clip_key]) for edit in chosen]
    records = map_units(store, make_preview, units, kind=KIND, what=f"videos for the page ({report.stage})") if units else []
    seen = {(edit.clip_key, edit.reference_key): seen_of(store, record) for edit, record in zip(chosen, records, strict=True)}
    return {key: its for key, its in seen.items() if its is not None}


def _manifests(store: ArtifactStore, edits: Manifest) -> list[Manifest]:
    """The edits' and those of all they were made of; what the store has lost is left out."""
    found = (store.find(name) for name in store.lineage(edits.name).names())
    return [manifest for manifest in found if manifest is not None]


def _commit(manifest: Manifest) -> str:
    commit = str(manifest.code.get("commit") or "unknown")[:12]
    return commit + (" with changes" if manifest.code.get("dirty") else "")
