"""Clips pushed to a prefix: each file once, lines never written over, read back as the same clips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pvtt_model.data.source import read_source
from pvtt_model.nano.world import write_world
from pvtt_model.specs import ClipSpec, NanoWorldSpec
from tasks.push_clips import push_clips

ROOT = Path(__file__).parent.parent.parent
PUSHER = """
import sys, time
from tasks.push_clips import push_clips
time.sleep(max(0.0, float(sys.argv[1]) - time.time()))
done = push_clips(sys.argv[2], sys.argv[3])
print(done.new, done.known)
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVTT_HOME", str(tmp_path / "home"))
    write_world(NanoWorldSpec(num_clips=4, num_validation=0, num_eval=2, look_alikes=2), tmp_path / "clips")
    return tmp_path / "clips"


def part(source: Path, name: str, lines: list[str]) -> str:
    (source / name).write_text("".join(f"{line}\n" for line in lines))
    return str(source / name)


def scan(place: Path, home: Path):
    return read_source(place, str(place), ClipSpec(), lambda uri: Path(uri), home / "drafts")


def test_new_clips_are_added_and_nothing_is_sent_twice(source: Path, tmp_path: Path) -> None:
    lines = (source / "manifest.jsonl").read_text().splitlines()
    target = tmp_path / "bucket"
    first = push_clips(part(source, "a.jsonl", lines[:4]), str(target))
    assert (first.new, first.known, first.refused) == (4, 0, ()) and first.files > 4 * 7 and first.bytes > 0
    objects = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    again = push_clips(part(source, "a.jsonl", lines[:4]), str(target))
    assert (again.new, again.known, again.files, again.bytes) == (0, 4, 0, 0)
    more = push_clips(part(source, "b.jsonl", [*lines[2:], '{"video_path": "gone.mp4"}']), str(target))
    assert (more.new, more.known) == (2, 2) and [kind for _, kind, _ in more.refused] == ["missing_field"]
    assert {path: path.stat().st_mtime_ns for path in objects} == objects, "nothing that was there is written again"
    assert sorted(p.name for p in (target / "pushed").iterdir()) == ["000000.jsonl", "000001.jsonl"]
    there, here = scan(target, tmp_path), scan(source, tmp_path)
    assert not there.refusals and [b.clip_key for b in there.lines.brief] == [b.clip_key for b in here.lines.brief]
    for ours, theirs in ((there.lines[i], here.lines[i]) for i in range(6)):
        assert (ours.mask_sha256, ours.reference_sha256, ours.prompt) == (theirs.mask_sha256, theirs.reference_sha256, theirs.prompt)
        assert (ours.truth and ours.truth.content()) == (theirs.truth and theirs.truth.content())


def test_other_words_for_a_clip_that_is_there_are_refused(source: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    target = tmp_path / "bucket"
    push_clips(str(source), str(target))
    corrected = lines[0] | {"text_prompt": "another " + lines[0]["text_prompt"]}
    done = push_clips(part(source, "c.jsonl", [json.dumps(corrected)]), str(target))
    assert (done.new, done.known, done.files) == (0, 0, 0)
    assert [(line, kind) for line, kind, _ in done.refused] == [(1, "differs")] and lines[0]["video_path"] in done.refused[0][2]


def test_a_prefix_that_is_a_source_already_and_one_that_lost_lines(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a manifest.jsonl, which would count"):
        push_clips(str(source), str(source))
    lines = (source / "manifest.jsonl").read_text().splitlines()
    for i in range(3):
        push_clips(part(source, "d.jsonl", lines[i : i + 1]), str(tmp_path / "bucket"))
    (tmp_path / "bucket" / "pushed" / "000001.jsonl").unlink()
    with pytest.raises(ValueError, match="lacks pushed/000001.jsonl"):
        scan(tmp_path / "bucket", tmp_path)


def test_two_push_at_once(source: Path, tmp_path: Path) -> None:
    """Both bring two clips, one of which the other brings too: every clip is there once."""
    lines = (source / "manifest.jsonl").read_text().splitlines()
    start_s = time.time() + 4
    manifests = [part(source, "x.jsonl", lines[:2]), part(source, "y.jsonl", lines[1:3])]
    command = [sys.executable, "-c", PUSHER, str(start_s)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pushers = [subprocess.Popen([*command, m, str(tmp_path / "bucket")], stdout=subprocess.PIPE, text=True, env=env) for m in manifests]
    said = [tuple(map(int, pusher.communicate(timeout=60)[0].split())) for pusher in pushers]
    assert sum(new for new, _ in said) == 3 and sum(known for _, known in said) == 1, said
    assert len(scan(tmp_path / "bucket", tmp_path).lines) == 3
