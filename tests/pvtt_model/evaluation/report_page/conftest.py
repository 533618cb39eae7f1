"""A report of 64 edits made by hand: 3 missing, groups, a failed check, hostile prompts; and videos of one edit."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pvtt_model.evaluation.edit_scores import Check, EditScores, Score
from pvtt_model.evaluation.gate import Verdict, judge
from pvtt_model.evaluation.report import Metric, Report
from pvtt_model.evaluation.report_page.beside import Seen, Video
from pvtt_model.specs import Threshold

HOSTILE = ("</script><img src=x onerror=alert(1)>", 'it\'s `back\\tick` "quoted" | <b>', "=HYPERLINK(1)")
NAMES = {"clip_i[nano]": "higher", "clip_i_source[nano]": "context", "warp_error[raft-small]": "lower", "bg_psnr_db": "higher"}


def scores(i: int) -> dict[str, Score]:
    """clip_i is best for the first edit and worst for the last; warp_error the other way; bg_psnr_db is 30 for all."""
    values = {"clip_i[nano]": 1 - i / 100, "clip_i_source[nano]": 0.1, "warp_error[raft-small]": 0.5 - i / 200, "bg_psnr_db": 30.0}
    found = {n: Score(name=n, value=values[n], direction=d, extractor="nano" if "[nano]" in n else None) for n, d in NAMES.items()}
    if i == 7:
        found["warp_error[raft-small]"] = Score(name="warp_error[raft-small]", value=None, direction="lower", note="near-static")
    return found


def big_report() -> Report:
    done = [
        EditScores(
            clip_key=f"clip{i:02}", reference_key="ref", prompt=HOSTILE[i] if i < 3 else f"a cup {i}", status="done", scores=scores(i),
            groups={"category": "bag" if i % 2 else "cup", "difficulty": "other kind"} if i else {"category": "cup"},
        )
        for i in range(61)
    ]  # fmt: skip
    lost = [EditScores(clip_key=f"lost{i}", reference_key="ref", prompt=HOSTILE[0], status="missing", reason="worker lost") for i in range(3)]
    metrics = []
    for name, direction in NAMES.items():
        values = [v for edit in done if (v := edit.scores[name].value) is not None]
        mean = sum(values) / len(values)
        extractor = "nano" if "[nano]" in name else None
        ends = {"low": mean - 0.05, "high": mean + 0.05, "worst": "clip60", "worst_value": min(values)}
        metrics.append(Metric(name=name, value=mean, std=0.1, n=len(values), direction=direction, extractor=extractor, note="how", **ends))
    checks = (
        Check(name="frozen", status="passed", said="none"),
        Check(name="different reference", status="failed", said="<b>2</b> of 255", clips=("clip05",)),
    )
    return Report(stage="refine", metrics=tuple(metrics), edits_done=61, edits_failed=0, edits_quarantined=0, edits_missing=3, warnings=(HOSTILE[0],),
                  extractors={"clip": "nano"}, per_edit=(*done, *lost), checks=checks)  # fmt: skip


@pytest.fixture(scope="session")
def report() -> Report:
    return big_report()


@pytest.fixture(scope="session")
def old_report(report: Report) -> Report:
    """As it was written before checks, groups and missing edits were known."""
    data = report.model_dump(mode="json")
    for name in ("checks", "edits_missing"):
        del data[name]
    data["per_edit"] = data["per_edit"][:61]
    for edit in data["per_edit"]:
        del edit["groups"]
    for metric in data["metrics"]:
        del metric["low"], metric["high"]
    return Report.model_validate(data)


@pytest.fixture(scope="session")
def verdict(report: Report) -> Verdict:
    return judge(report, [Threshold(metric="bg_psnr_db", op=">", value=40.0), Threshold(metric="warp_error[raft-small]", op="<", value=1.0)])


@pytest.fixture(scope="session")
def seen(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Seen]:
    """Of every edit that was made the same 12 frames at 8 a second, in two videos: a bar that moves, and its negative."""
    folder = tmp_path_factory.mktemp("seen")
    frames = np.full((12, 32, 48, 3), 30, dtype=np.uint8)
    for t in range(12):
        frames[t, :, 4 * t : 4 * t + 4] = 220
    videos = [_video(folder, label, video) for label, video in (("source", frames), ("edit, raw", 255 - frames))]
    its = Seen(tuple(videos), videos[0].poster, 8.0, 12)
    return {(edit.clip_key, edit.reference_key): its for edit in report.per_edit if edit.status == "done"}


def _video(folder: Path, label: str, frames_THWC: np.ndarray) -> Video:
    path, first = folder / f"{label}.mp4", folder / f"{label}.jpg"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=8, width=48, height=32, pix_fmt="yuv420p", options={"crf": "12", "threads": "1"})
        for frame in frames_THWC:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    Image.fromarray(frames_THWC[0]).save(first)
    return Video(label, path, first)
