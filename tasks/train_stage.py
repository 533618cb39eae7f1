"""A stage's checkpoint: LoRA and reference adapter, or what the stage trains, on Ray with DeepSpeed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task

from infra.artifact_store import ArtifactStore
from infra.settings import Settings, settings
from infra.step_checkpoints import StepCheckpoints
from infra.watchdog import newly_hung, who_hangs
from pvtt_model.artifacts import ArtifactRef, Manifest, Planned, StoredFile, canonical_json
from pvtt_model.chain import checkpoint_artifact
from pvtt_model.preflight.check import as_lines, refuse
from pvtt_model.specs import RecipeSpec, StageSpec
from pvtt_model.training.carried import Carried, carried_counts, carried_over, carried_rows
from pvtt_model.training.records import STATE, TRAINED, by_validation, released_file, summary_of
from pvtt_model.training.trained_tensors import ADAPTER, BACKBONE, LORA, join_trainable, split_trainable
from tasks.clip_table import Curated, clip_places
from tasks.embed_conditions import EMPTY_TEXT
from tasks.policy import POLICY, produce
from tasks.preflight import driver_checks
from tasks.tables import attach_json, read_json
from tasks.train_pairs import place_ref, sample_pairs, select_pairs, selected_keys, validation_clips
from tasks.train_payload import TrainPayload
from tasks.train_seen import Seen, board_folder, put_events, seen_files
from tasks.training_slot import training_slot
from tasks.ui import picture, show_markdown, table

RECORDS, CURVE, CLIPS = "records.json", "loss_curve.png", "trained_on.json"
CARRIED, OPTIMIZER = "carried_over.json", "optimizer-rank"  # OPTIMIZER and a rank: for a next stage that goes on with it
START = {"base": "the untrained base", "previous": "the stage before", "release": "the release"}  # what the loss by noise level is held against
LEVELS, LEVELS_PICTURE = "loss_by_level.json", "loss_by_level.png"  # with the reference it is held against


def stage_index(recipe: RecipeSpec, name: str) -> int:
    """The stage's place in the recipe. Raises ValueError naming the stages there are."""
    names = [s.name for s in recipe.stages]
    if name not in names:
        raise ValueError(f"recipe '{recipe.name}' has no stage '{name}'. Valid: {', '.join(names)}.")
    return names.index(name)


@task(task_run_name="train stage {stage_name}", description="LoRA and reference adapter on the frozen base", **POLICY)
def train_stage(recipe: RecipeSpec, stage_name: str, curated: dict[str, ArtifactRef], previous: ArtifactRef | None, store: str) -> ArtifactRef:
    """The checkpoint artifact of a stage. A training that was cut off goes on from its last step checkpoint.

    curated: the artifacts by kind (clips, masks, latents, conditions). previous: the checkpoint of the stage before, or, for a stage with
    init_from 'release', its released one.
    """
    stage = recipe.stages[stage_index(recipe, stage_name)]
    data = Curated(**curated)
    planned = checkpoint_artifact(
        recipe, stage, data.latents.name, data.conditions.name, data.masks.name, data.clips.name, previous.name if previous else None
    )
    return produce(planned, store, lambda s, p: _make(s, p, recipe, stage_name, data, previous), lambda s, m: _show(s, m, recipe, stage))


def _make(store: ArtifactStore, planned: Planned, recipe: RecipeSpec, stage_name: str, data: Curated, previous: ArtifactRef | None) -> Manifest:
    where, index = settings(store.store.uri), stage_index(recipe, stage_name)
    stage = recipe.stages[index]
    stage = stage.model_copy(update={"parallel": stage.parallel.as_run()})
    start_only_where_it_can_end(stage, where)
    usable = clip_places(store, data)
    before = store.manifest(previous) if previous and stage.init_from != "base" else None
    new: set[str] = set()
    if before and stage.init_from == "release":
        as_released(before, stage)
        new = set(usable) - {fact["clip_key"] for fact in read_json(store, clips_of(store, before))}
    chosen = select_pairs(usable, stage.data, stage_name, new)
    selected = new or selected_keys({p.clip_key: usable[p.clip_key][1] for p in chosen}, stage.data)
    earlier = stage if stage.init_from == "release" else recipe.stages[index - 1]
    carried = trained_files(before) if before else None
    if carried and earlier.backbone != stage.backbone:  # another network's own weights are none of this one's
        carried.pop(BACKBONE, None)
    payload = TrainPayload(
        store=store.store.uri,
        planned=planned,
        recipe=recipe,
        stage_index=index,
        places=tuple(place_ref(p, usable[p.clip_key][1], recipe.latents.video, p.clip_key in selected) for p in chosen),
        empty_text=store.manifest(data.conditions).file(EMPTY_TEXT),
        init=carried,
        init_is_partial=any(getattr(earlier, part) != getattr(stage, part) for part in ("backbone", "reference", "lora")),
        validation=tuple(place_ref(place, fact, recipe.latents.video) for place, fact in validation_clips(usable, stage)),
        samples=sample_pairs(usable, stage),
        kept_optimizer=optimizer_files(before) if before and stage.init_optimizer == "kept" else (),
    )
    steps = StepCheckpoints(store.store, planned)
    said = _train(payload, steps, store, where) | {"selected": len(selected)}
    return _commit(store, planned, recipe, index, steps, [p.clip_key for p in chosen], said, carried or {})


def clips_of(store: ArtifactStore, checkpoint: Manifest) -> Manifest:
    """The clips that a checkpoint was trained on."""
    return store.manifest(next(name for name in checkpoint.inputs if name.startswith("clips/")))


def as_released(released: Manifest, stage: StageSpec) -> None:
    """Raises ValueError where the stage's network is another than that of its released checkpoint."""
    differ = [
        part for part in ("backbone", "reference", "lora") if released.spec[part] != json.loads(canonical_json(getattr(stage, part).identity()))
    ]
    if differ:
        raise ValueError(
            f"stage '{stage.name}' would go on from {released.name}, and has another {' and '.join(differ)} than it. "
            "Leave these settings as they were released, or train the curriculum anew on all clips: --set retrain.start_from=base."
        )


def optimizer_files(before: Manifest) -> tuple[StoredFile, ...]:
    """Each rank's optimizer state of the stage before, by rank."""
    return tuple(sorted((file for file in before.files if file.name.startswith(OPTIMIZER)), key=lambda file: file.name))


def trained_files(checkpoint: Manifest) -> dict[str, StoredFile]:
    """The files of a checkpoint's tensors, by name: LoRA, adapter and backbone, those there are."""
    return {file.name: file for name in (LORA, ADAPTER, BACKBONE) for file in checkpoint.files if file.name == name}


def start_only_where_it_can_end(stage: StageSpec, where: Settings) -> None:
    """The preflight of a stage: warnings to the log, PreflightFailed (not tried again) for what failed. The workers look at the rest."""
    checks = driver_checks(stage, where)
    for check in checks:
        if check.status == "warn" or (check.status == "fail" and where.preflight == "warn"):
            get_run_logger().warning("%s", as_lines([check]))
    if where.preflight == "fail":
        refuse(checks, f"training of stage '{stage.name}'")


def _train(payload: TrainPayload, steps: StepCheckpoints, store: ArtifactStore, where: Settings) -> dict[str, Any]:
    from infra.ray_launch import start_ray, train_on_ray

    stage = payload.recipe.stages[payload.stage_index]
    parallel = stage.parallel.as_run()
    said: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = steps.fetch_last(Path(folder), [TRAINED, STATE])
        records = json.loads((whole[1] / STATE).read_text())["records"] if whole else []
    last = whole[0] if whole else 0
    if last >= stage.train.steps:
        return {"resumed_at": last}
    if last:
        get_run_logger().info("resuming stage %s at step %d of %d", stage.name, last, stage.train.steps)
    seen = Seen(store, payload.planned, payload.recipe, stage, where, records)

    def on_progress(board: dict[str, Any]) -> None:
        for key, say in (("warnings", get_run_logger().warning), ("carried_over", get_run_logger().info)):
            if board.get(key) and key not in said:
                say("%s", board[key])
        if newly_hung(board, said):
            get_run_logger().warning("stage %s: %s", stage.name, who_hangs(board))
        said.update(board)
        seen.look(board)

    try:
        with training_slot():
            start_ray(where)
            train_on_ray(
                "tasks.train_worker:train_worker", payload, name=payload.planned.version, settings=where, num_workers=parallel.num_workers,
                use_gpu=parallel.accelerator == "gpu", max_restarts=stage.train.max_worker_restarts, on_progress=on_progress,
                collective_timeout_s=max(300, int(stage.train.hang_timeout_s) + 60),
            )  # fmt: skip
    finally:
        seen.close()
    return said


def _commit(
    store: ArtifactStore,
    planned: Planned,
    recipe: RecipeSpec,
    index: int,
    steps: StepCheckpoints,
    clip_keys: list[str],
    said: dict[str, Any],
    carried: dict[str, StoredFile],
) -> Manifest:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from pvtt_model.evaluation.loss_by_level import level_report, loss_by_level
    from pvtt_model.evaluation.loss_curve import loss_curve
    from pvtt_model.nano.loss_curves import shipped_curve

    stage = recipe.stages[index]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = _rank_files if stage.train.keep_optimizer else lambda _: []
        found = steps.fetch_last(folder, lambda there: [released_file(stage.train), STATE, *kept(there)])
        if found is None or found[0] != stage.train.steps:
            raise RuntimeError(f"training ended without its last checkpoint: wanted step {stage.train.steps}, found {found and found[0]}. Run again.")
        records = json.loads((found[1] / STATE).read_text())["records"]
        released = _released(steps, folder, found, records, stage)
        trained = load_file(released[1] / released_file(stage.train))
        broken = [key for key, tensor in trained.items() if not np.isfinite(tensor).all()]
        if broken:
            raise FloatingPointError(f"stage '{stage.name}' ended with {len(broken)} tensors that are not finite, e.g. {broken[0]}. Lower optim.lr.")
        made = split_trainable(trained).files()
        for name, file in carried.items():  # what this stage does not train stays as it came
            if name not in made or name == BACKBONE:
                made[name] = load_file(store.local_path(file)) | made.get(name, {})
        for name, tensors in made.items():
            save_file(tensors, folder / name, metadata={"format": "pt"})
        loss_curve(records, folder / CURVE, title=f"{recipe.name}, stage {stage.name}")
        parts = [*made, CURVE]
        report = level_report(records, shipped_curve(recipe, stage), START[stage.init_from])
        if report is not None:
            loss_by_level(report, folder / LEVELS_PICTURE, title=f"{recipe.name}, stage {stage.name}: loss by noise level")
            parts.append(LEVELS_PICTURE)
        files = [store.attach(planned, part, folder / part) for part in parts]
        ranks = kept([path.name for path in found[1].iterdir()])
        files += [store.attach(planned, name.replace("rank", OPTIMIZER), found[1] / name) for name in ranks]
        files += seen_files(store, planned, records, folder)
        left = {name: load_file(store.local_path(file)) for name, file in carried.items()}
        taken = carried_over(_shapes(made), _shapes(left))
    files += [attach_json(store, planned, CARRIED, [c._asdict() for c in taken])] if carried else []
    files += [attach_json(store, planned, LEVELS, report)] if report is not None else []
    files += [attach_json(store, planned, RECORDS, records), attach_json(store, planned, CLIPS, clip_keys)]
    names = {LORA: "lora", ADAPTER: "reference_adapter", BACKBONE: "backbone"}
    counts = {names[name]: sum(int(t.size) for t in tensors.values()) for name, tensors in split_trainable(trained).files().items()}
    summary = {
        **summary_of(records),
        "stage": stage.name,
        "pairs": len(clip_keys),
        "trained_parameters": counts,
        "resumed_at": said.get("resumed_at", 0),
        **({"released_step": released[0]} if stage.train.release == "best" else {}),
        **({"released_weights": f"their moving average, decay {stage.train.ema_decay:g}"} if stage.train.release_ema else {}),
        **({"selected": f"{said['selected']} pairs, {stage.data.share_of_selected:.0%} of what is seen"} if said.get("selected") else {}),
        "carried_over": carried_counts(taken) if carried else None,
        "optimizer": stage.init_optimizer,
        **_last_measured(records, said),
    }
    return store.commit(planned, files, summary)


def _released(steps: StepCheckpoints, folder: Path, last: tuple[int, Path], records: list[dict[str, Any]], stage: StageSpec) -> tuple[int, Path]:
    """(step, folder) of the state that becomes the checkpoint: the last, or of the least validation loss; of damaged ones the next best."""
    if stage.train.release == "last":
        return last
    found = steps.fetch_first(folder / "best", [released_file(stage.train)], by_validation(records))
    if found is None:
        raise RuntimeError(
            f"stage '{stage.name}' is to release its best state by validation, and none of those validated is kept whole "
            f"(validated after steps {sorted(by_validation(records))}). Validate in training, or set train.release='last'."
        )
    return found


def _rank_files(there: Sequence[str]) -> list[str]:
    """Of a step checkpoint's files the ranks', however many wrote it."""
    return sorted(name for name in there if name.startswith("rank"))


def _shapes(files: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Of a checkpoint's files, by a teacher's names."""
    tensors = join_trainable(*(files.get(name) for name in (LORA, ADAPTER, BACKBONE)))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _last_measured(records: list[dict[str, float]], said: dict[str, Any]) -> dict[str, Any]:
    """The last validation, the highest memory, the mean MFU; or why there is none."""
    validations = [r["validation"] for r in records if "validation" in r]
    found: dict[str, Any] = {"validation": validations[-1], "first_validation": validations[0]} if validations else {}
    found |= {"memory_gib": max(r["memory_gib"] for r in records if "memory_gib" in r)} if any("memory_gib" in r for r in records) else {}
    mfu = [r["mfu"] for r in records if "mfu" in r]
    why = said.get("why_no_mfu")
    return found | ({"mfu": sum(mfu) / len(mfu)} if mfu else {"mfu": f"not measured: {why}"} if why else {})


def _carried_text(store: ArtifactStore, manifest: Manifest) -> str:
    """What was taken over from the stage before; nothing where it began from the base, or is from before this was kept."""
    if CARRIED not in [file.name for file in manifest.files]:
        return ""
    rows = carried_rows([Carried(**row) for row in read_json(store, manifest, CARRIED)])
    return f"\n\n### Taken over from the stage before\n\n{table(rows, list(rows[0]))}"


def _show(store: ArtifactStore, manifest: Manifest, recipe: RecipeSpec, stage: StageSpec) -> None:
    stage_name = stage.name
    put_events(store, manifest, board_folder(settings(store.store.uri), manifest.version, recipe, stage))
    facts = [{"what": k, "value": v} for k, v in manifest.summary.items()]
    curve = picture(store.local_path(manifest.file(CURVE)), "loss curve", 900)
    text = f"## Stage `{stage_name}`\n\n{curve}\n\n{table(facts, ['what', 'value'])}{_carried_text(store, manifest)}{_levels_text(store, manifest)}"
    show_markdown(f"loss-curve-{stage_name}", text, f"checkpoint {manifest.version}")


def _levels_text(store: ArtifactStore, manifest: Manifest) -> str:
    """The loss by noise level against its reference; nothing for a checkpoint from before it was kept."""
    if LEVELS not in [file.name for file in manifest.files]:
        return ""
    from pvtt_model.evaluation.loss_by_level import level_rows

    report = json.loads(store.local_path(manifest.file(LEVELS)).read_text())
    rows, shown = level_rows(report), picture(store.local_path(manifest.file(LEVELS_PICTURE)), "loss by noise level", 900)
    rule = f"Right is within {report['tolerance']:.0%} and three standard errors of the reference; below it at the end is what was learned."
    return f"\n\n### Loss by noise level\n\n{shown}\n\nReference: {report['reference']['source']}. {rule}\n\n{table(rows, list(rows[0]))}"
