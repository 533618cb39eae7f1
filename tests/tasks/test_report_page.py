"""What the page shows beside the report, gathered from a real store: small videos, earlier reports, lineage."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import tasks.report_page as report_page
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import Manifest, plan_artifact
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.video_io import decode, png_bytes
from pvtt_model.evaluation.edit_scores import EditScores, Score
from pvtt_model.evaluation.preview import preview_videos
from pvtt_model.evaluation.report import Report, aggregate
from pvtt_model.recipes import NANO
from tasks.edit_previews import make_preview, preview_unit, seen_of

VIDEOS = ("source", "raw", "composited", "round_trip")


def row(clip_key: str, height: int = 33, width: int = 47, **changes: Any) -> dict[str, Any]:
    """Four frames, each of one grey: 40, 80, 120, 160."""
    greys = [torch.full((3, height, width), 40 * (t + 1), dtype=torch.uint8) for t in range(4)]
    picture = io.BytesIO()
    Image.new("RGBA", (20, 10), (255, 0, 0, 128)).save(picture, "PNG")
    found: dict[str, Any] = dict.fromkeys(SCHEMAS["edits"].names)
    found |= {name: [png_bytes(g) for g in greys] for name in VIDEOS}
    found |= {"clip_key": clip_key, "usable": True, "reference_key": "ref", "prompt": "a cup", "fps": 8.0, "reference": picture.getvalue()}
    found["mask"] = [png_bytes(torch.zeros(height, width, dtype=torch.bool))] * 4
    return found | changes


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "store"))


def commit(store: ArtifactStore, kind: Any, spec: dict[str, Any], inputs: tuple[str, ...] = (), files=None, **summary: Any) -> Manifest:
    planned = plan_artifact(kind, spec, inputs)
    return store.commit(planned, [store.attach(planned, name, path) for name, path in (files or {}).items()], summary)


def scored(store: ArtifactStore, tmp_path, stage: str, value: float, edits: str) -> Manifest:
    score = Score(name="clip_i", value=value, direction="higher")
    report = aggregate(stage, [EditScores(clip_key="c", status="done", scores={"clip_i": score})], NANO.stages[0].evaluate)
    path = tmp_path / f"{stage}-{value}.json"
    path.write_text(report.model_dump_json())
    return commit(store, "reports", {"stage": stage, "value": value}, (edits,), {"report.json": path})


def test_earlier_reports_are_of_this_run_and_of_earlier_releases(store, tmp_path) -> None:
    data = tuple(commit(store, kind, {"n": 1}).name for kind in ("clips", "masks", "latents", "conditions"))
    other = tuple(commit(store, kind, {"n": 2}).name for kind in ("clips", "masks", "latents", "conditions"))
    stages = [stage.name for stage in NANO.stages]
    first = commit(store, "checkpoints", {"k": 1}, data)
    second = commit(store, "checkpoints", {"k": 2}, (*data, first.name))
    made = {k: commit(store, "edits", {"edit": {"k": k}}, (its.name, *inputs)) for k, its, inputs in ((1, first, data), (2, second, data))}
    strange = commit(store, "edits", {"edit": {}}, (commit(store, "checkpoints", {"k": 3}, other).name, *other))
    scored(store, tmp_path, stages[0], 0.1, made[1].name)
    scored(store, tmp_path, stages[0], 0.9, strange.name)  # newer, but of other data
    old = scored(store, tmp_path, stages[1], 0.5, strange.name)
    commit(store, "releases", {"recipe": NANO.name}, ("checkpoints/gone", old.name), recipe=NANO.name)
    commit(store, "releases", {"recipe": "another"}, ("checkpoints/gone", old.name), recipe="another")
    past = report_page.earlier_reports(store, NANO, stages[1], made[2])
    assert [(p.kind, p.label) for p in past][1:] == [("stage", stages[0])] and past[0].kind == "release"
    assert [p.metrics["clip_i"].value for p in past] == [0.5, 0.1]
    assert report_page.earlier_reports(store, NANO, stages[0], made[1])[0].kind == "release"  # no stage before the first


def test_a_preview_is_the_edit_frame_for_frame(store, tmp_path) -> None:
    write_shard(tmp_path / "c.parquet", [row("c")], SCHEMAS["edits"])
    unit = preview_unit(store, store.pool(tmp_path / "c.parquet", "c.parquet", rows=1))
    seen = seen_of(store, make_preview(unit))
    assert [video.label for video in seen.videos] == ["source", "edit, raw", "edit, composited"] and (seen.fps, seen.frames) == (8.0, 4)
    for video in seen.videos:
        frames = decode(video.mp4.read_bytes())
        assert frames.shape == (4, 3, 32, 48)  # even sides
        assert frames.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([40, 80, 120, 160], abs=2)
        with av.open(str(video.mp4)) as file:
            assert file.streams.video[0].average_rate == 8
    assert Image.open(seen.reference).size == (48, 32)
    assert make_preview(unit).commit_id == make_preview(unit).commit_id  # found again
    assert seen.bytes == sum(p.stat().st_size for v in seen.videos for p in (v.mp4, v.poster)) + seen.reference.stat().st_size


def test_an_edit_that_cannot_be_shown_says_why(store, tmp_path) -> None:
    write_shard(tmp_path / "c.parquet", [row("c", raw=[b"no picture"] * 4)], SCHEMAS["edits"])
    record = make_preview(preview_unit(store, store.pool(tmp_path / "c.parquet", "c.parquet", rows=1)))
    assert seen_of(store, record) is None and "identify" in record.summary["reason"]


def test_a_large_edit_is_made_smaller(tmp_path) -> None:
    videos = preview_videos(row("c", 480, 832, truth=row("t", 480, 832)["source"], truth_mask=row("t", 480, 832)["mask"]))
    assert list(videos) == ["source", "edit, raw", "edit, composited", "right edit"]
    assert {tuple(video.shape) for video in videos.values()} == {(4, 3, 370, 640)}
    assert np.allclose(videos["right edit"][3].numpy(), 160)


def test_what_the_page_is_given(store, tmp_path, monkeypatch) -> None:
    data = tuple(commit(store, kind, {"n": 1}).name for kind in ("clips", "masks", "latents", "conditions"))
    trained = commit(store, "checkpoints", {"k": 1}, data)
    planned = plan_artifact("edits", {"edit": {"seed": 7}}, (trained.name, *data))
    write_shard(tmp_path / "c.parquet", [row("c")], SCHEMAS["edits"])
    edits = store.commit(planned, [store.pool(tmp_path / "c.parquet", "c.parquet", rows=1)])
    monkeypatch.setattr(report_page, "map_units", lambda store, make, units, **_: [make(unit) for unit in units])
    its = {"clip_i": Score(name="clip_i", value=0.5, direction="higher")}
    per_edit = [
        EditScores(clip_key="c", reference_key="ref", status="done", scores=its),
        EditScores(clip_key="lost", status="missing", reason="gone"),
    ]
    report: Report = aggregate(NANO.stages[0].name, per_edit, NANO.stages[0].evaluate)
    beside = report_page.beside_report(store, "reports/x", NANO, report, edits)
    assert list(beside.seen) == [("c", "ref")] and beside.past == ()
    assert [o.name for o in beside.lineage][:2] == [edits.name, trained.name] and {o.name for o in beside.lineage} >= set(data)
    assert beside.settings["edit: how the edits were sampled"] == {"seed": 7}
    assert (
        beside.get_videos.startswith(f"pvtt artifacts get {edits.name} --match '*.mp4' --out videos --store ") and str(tmp_path) in beside.get_videos
    )
