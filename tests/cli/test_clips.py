"""`pvtt clips draft` through typer."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app


def run(*args: str):
    return CliRunner().invoke(app, ["clips", "draft", *args])


def test_a_draft_is_written_where_it_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "blue mug.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    (tmp_path / "in" / "notes.pdf").write_bytes(b"x")
    above = run(str(tmp_path / "in"), str(tmp_path / "m.jsonl"))
    assert above.exit_code == 0, above.output
    assert "1 clips (videos)" in above.stdout and "1 without reference_image: refused" in above.stdout and "notes.pdf" in above.stdout
    assert json.loads((tmp_path / "m.jsonl").read_text())["video_path"] == "in/blue mug.mp4" and "allow_outside_root" not in above.stdout
    outside = run(str(tmp_path / "in"), str(tmp_path / "other" / "m.jsonl"))
    assert "clips.allow_outside_root=true" in outside.stdout
    assert json.loads((tmp_path / "other" / "m.jsonl").read_text())["video_path"] == str(tmp_path / "in" / "blue mug.mp4")


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("mine")
    (tmp_path / "manifest.jsonl").write_text("{}")
    for args, says in (
        ((str(tmp_path / "none"), "o.jsonl"), "is not there"),
        ((str(tmp_path), str(tmp_path / "o.jsonl")), "needs no draft"),
        ((str(tmp_path), str(tmp_path / "m.jsonl"), "--layout", "videos"), "Correct that file"),
        ((str(tmp_path), str(tmp_path / "o.jsonl"), "--layout", "video"), "no layout 'video'"),
    ):
        answer = run(*args)
        assert answer.exit_code == 2 and says in answer.output, answer.output
