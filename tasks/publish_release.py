"""The release: adapter and LoRA with their card, from the last checkpoint and every stage's report."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact

from infra.artifact_store import ArtifactStore
from infra.store import LocalStore
from pvtt_model.artifacts import ArtifactRef, Manifest, Planned
from pvtt_model.chain import release_artifact
from pvtt_model.specs import RecipeSpec
from tasks.generate_edits import SHEET
from tasks.pass_gate import VERDICT
from tasks.policy import POLICY, produce
from tasks.project import registry_of_run
from tasks.score_edits import REPORT
from tasks.train_stage import ADAPTER, BACKBONE, LORA, trained_files
from tasks.ui import picture, show_markdown, table


@task(task_run_name="publish release of {recipe.name}", description="Adapter, LoRA, card, lineage", **POLICY)
def publish_release(
    recipe: RecipeSpec,
    clips: ArtifactRef,
    checkpoints: list[ArtifactRef],
    edits: list[ArtifactRef],
    reports: list[ArtifactRef],
    gates: list[ArtifactRef],
    store: str,
    after: str | None = None,
) -> ArtifactRef:
    """The release artifact: a folder that diffusers can read, and a model card made from lineage and reports. Lists are by stage. after: the release
    that a re-training goes on from: until the registry says how the two compare, this one is not in use."""
    planned = release_artifact(recipe, checkpoints[-1].name, [r.name for r in reports], [g.name for g in gates])
    registry_of_run(store).claim(planned.name)
    return produce(planned, store, lambda s, p: _make(s, p, recipe, clips, checkpoints, edits, reports, gates, after), _show)


def _make(
    store: ArtifactStore,
    planned: Planned,
    recipe: RecipeSpec,
    clips: ArtifactRef,
    checkpoints: list[ArtifactRef],
    edits: list[ArtifactRef],
    reports: list[ArtifactRef],
    gates: list[ArtifactRef],
    after: str | None,
) -> Manifest:
    from pvtt_model.evaluation.gate import Verdict
    from pvtt_model.evaluation.report import Report
    from pvtt_model.export.release import write_release

    trained = [store.manifest(ref) for ref in checkpoints]
    stages: list[dict[str, Any]] = []
    for i, manifest in enumerate(trained):
        facts = {k: manifest.summary[k] for k in ("steps", "pairs", "final_loss", "trained_parameters")}
        stages.append({"name": recipe.stages[i].name, "checkpoint": manifest.name, "edits": edits[i].name, "report": reports[i].name, **facts})
    data = store.manifest(clips)
    lineage = {
        "release": planned.name,
        "data": {"clips": data.summary["accepted"], "products": data.summary["products"], "held_out_clips": data.summary["held_out"]},
        "artifacts": sorted({*_reached(store, checkpoints[-1].name), *(r.name for r in (*edits, *reports, *gates, *checkpoints))}),
        "code": data.code,
        "libraries": data.libraries,
    }

    def text(ref: ArtifactRef, name: str) -> str:
        return store.local_path(store.manifest(ref).file(name)).read_text()

    last = {name: store.local_path(file) for name, file in trained_files(trained[-1]).items()}
    partner = recipe.partner_of(recipe.stages[-1])
    before = trained_files(trained[recipe.stages.index(partner)]) if partner else {}
    other = {name: store.local_path(file) for name, file in before.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_release(
            folder,
            adapter=last.get(ADAPTER),
            lora=last.get(LORA),
            backbone=last.get(BACKBONE),
            other_expert=other,
            other_stage=partner.model_dump(mode="json") if partner else None,
            recipe=recipe.model_dump(mode="json"),
            stages=stages,
            reports=[Report.model_validate_json(text(r, REPORT)) for r in reports],
            verdicts=[Verdict.model_validate(json.loads(text(g, VERDICT))) for g in gates],
            lineage=lineage,
            contact_sheet=store.local_path(store.manifest(edits[-1]).file(SHEET)),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        files = [store.attach(planned, path.name, path) for path in paths]
    passed = [store.manifest(g).summary["passed"] for g in gates]
    said = {"recipe": recipe.name, "clips": clips.name, "gates_passed": all(passed), "stages": [s["name"] for s in stages]}
    return store.commit(planned, files, said | ({"after": after} if after else {}))


def _reached(store: ArtifactStore, name: str) -> set[str]:
    """The artifact and all it was made from."""
    names, todo = set(), [name]
    while todo:
        one = todo.pop()
        if one not in names:
            names.add(one)
            todo += store.manifest(one).inputs
    return names


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    place = f"{store.store.uri}/{manifest.name}"
    files = [{"file": f.name, "bytes": f.bytes, "sha256": f.sha256[:16]} for f in manifest.files]
    sheet = picture(store.local_path(manifest.file("contact_sheet.png")), "contact sheet")
    show_markdown("release", f"## Release `{manifest.version}`\n\n`{place}`\n\n{table(files, ['file', 'bytes', 'sha256'])}\n\n{sheet}", "the release")
    link = f"file://{place}" if isinstance(store.store, LocalStore) else place
    create_link_artifact(link, link_text=f"release {manifest.version}", key="release-link", description=place)
