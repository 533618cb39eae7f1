"""The data card: what is in this version of the data, as JSON, as a page, and in the UI."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from prefect import task

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import ArtifactRef, Manifest, Planned
from pvtt_model.backbones.weight_record import ENCODER_COLUMNS, ENCODERS, encoder_rows
from pvtt_model.chain import card_artifact
from pvtt_model.specs import RecipeSpec
from tasks.ingest_clips import DUPLICATES, REFUSALS
from tasks.pieces import by_shard, reasons
from tasks.policy import POLICY, produce
from tasks.shard_tallies import TALLIES, kept_tallies, shard_tallies
from tasks.tables import attach_json, read_json
from tasks.ui import picture, show_markdown, table

CARD, PAGE, SHEET = "data_card.json", "data_card.html", "contact_sheet.png"
SHEET_CLIPS = 24


@task(task_run_name="describe {data[clips].version}", description="The data card of what was curated", **POLICY)
def describe_data(data: dict[str, ArtifactRef], recipe: RecipeSpec, store: str) -> ArtifactRef:
    """The card of the four curated artifacts (clips, masks, latents, conditions); what is risky by the recipe's masks.risky_*."""
    planned = card_artifact(recipe, *(data[kind].name for kind in ("clips", "masks", "latents", "conditions")))
    return produce(planned, store, lambda s, p: _make(s, p, data, recipe), _show)


def _make(store: ArtifactStore, planned: Planned, data: dict[str, ArtifactRef], recipe: RecipeSpec) -> Manifest:
    from pvtt_model.data.card import data_card
    from pvtt_model.data.card_html import card_html, headline
    from pvtt_model.data.tally import together
    from pvtt_model.evaluation.clip_sheet import clip_sheet
    from pvtt_model.specs import VideoSpec

    manifests = {kind: store.manifest(ref) for kind, ref in data.items()}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1, thread_name_prefix="contact-sheet") as thread:
        paths = {name: Path(folder) / name for name in (CARD, PAGE, SHEET)}
        sample = _sampled(store, manifests)
        sheet = thread.submit(clip_sheet, sample.rows, sample.shown, sample.of, paths[SHEET])  # decodes while the tables are counted
        counted = shard_tallies(store, manifests, recipe.masks)
        stored = {kind: sum(shard.bytes for shard in m.shards()) for kind, m in manifests.items()}
        refusals, twins = (read_json(store, manifests["clips"], name) for name in (REFUSALS, DUPLICATES))
        video = VideoSpec.model_validate(manifests["latents"].spec["latents"]["video"])
        used = {kind: manifests[kind].summary.get(ENCODERS, {}) for kind in ("masks", "latents", "conditions")}
        encoders = [row | {"encoder": f"{kind}: {row['encoder']}"} for kind, found in used.items() for row in encoder_rows(found)]
        card = data_card(together(one.tally for one in counted.values()), refusals, stored, twins, video, encoders)
        paths[CARD].write_text(card.model_dump_json(indent=1))
        sheet.result()
        card_html(card, data["clips"].name, paths[SHEET], paths[PAGE])
        files = [store.attach(planned, name, path) for name, path in paths.items()]
        files.append(attach_json(store, planned, TALLIES, kept_tallies(counted)))
    return store.commit(planned, files, {"headline": headline(card), "warnings": list(card.warnings), ENCODERS: encoders})


class _Sample(NamedTuple):
    """Usable clips to be shown: their rows of the clips' and the masks' shards, read as they are taken; how many they are, of how many."""

    rows: Iterable[tuple[Any, Any]]
    shown: int
    of: int


def _sampled(store: ArtifactStore, manifests: dict[str, Manifest]) -> _Sample:
    """Evenly out of the first, the middle and the last shard that has usable clips: others need not be fetched."""
    from pvtt_model.curation.frames import as_seen
    from pvtt_model.data.shards import some_rows

    unusable = {row["clip_key"] for row in reasons(store, manifests["masks"]) if not row["usable"]}
    usable = by_shard(fact for fact in read_json(store, manifests["clips"]) if fact["clip_key"] not in unusable)
    numbers = list(usable)
    near = sorted({numbers[i] for i in (0, len(numbers) // 2, -1)}) if numbers else []
    shown = [fact for number in near for fact in usable[number]]
    step = max(1, len(shown) / SHEET_CLIPS)
    chosen = [shown[int(i * step)] for i in range(min(SHEET_CLIPS, len(shown)))]
    shards = {kind: manifests[kind].shards() for kind in ("clips", "masks")}
    by = [(number, [fact["row"] for fact in its]) for number, its in by_shard(chosen).items()]  # a shard is opened once
    rows = zip(*(chain(*(some_rows(store.local_path(shards[kind][n]), its) for n, its in by)) for kind in shards), strict=True)
    return _Sample(((as_seen(clip), mask) for clip, mask in rows), len(chosen), sum(map(len, usable.values())))


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    said = manifest.summary
    warned = "".join(f"- {w}\n" for w in said["warnings"])
    sheet = picture(store.local_path(manifest.file(SHEET)), "a sample of the clips", 900)
    where = f"{store.store.uri}/{manifest.name}/{PAGE}"
    text = f"## Data card\n\n{said['headline']}\n\n{warned}\n{sheet}\n\n{table(said[ENCODERS], ENCODER_COLUMNS)}\n\nThe whole card: `{where}`"
    show_markdown("data-card", text, f"card {manifest.version}")
