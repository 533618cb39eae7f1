"""Task lists and their runs: what is done is found, what fails is counted, a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvtt_model.artifacts import sha256_of_file
from pvtt_model.editing.batch import Work, run_batch
from pvtt_model.editing.task_list import EditTask, read_tasks


def tasks(folder: Path, count: int = 4) -> list[EditTask]:
    lines = [{"id": f"t{i}", "video": f"v{i}.mp4", "references": ["r.png"], "prompt": f"p{i}"} for i in range(count)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_tasks(folder / "tasks.jsonl")


class Editing:
    """Writes a file and a report, as an edit does; fails where told."""

    def __init__(self, fails: str | None = None) -> None:
        self.fails, self.made = fails, []

    def work(self) -> Work:
        return Work(lambda request: f"key of {request.prompt}", self.edit)

    def edit(self, request, folder: Path) -> None:
        self.made.append(request.prompt)
        if request.prompt == self.fails:
            raise ValueError("the mask is empty")
        folder.mkdir(exist_ok=True)
        (folder / "a.mp4").write_bytes(request.prompt.encode())
        report = {"key": f"key of {request.prompt}", "files": {"a.mp4": sha256_of_file(folder / "a.mp4")}}
        (folder / "report.json").write_text(json.dumps(report))


def statuses(results) -> list[str]:
    return [result.status for result in results]


def test_what_is_done_is_found_and_failures_are_tried_again(tmp_path):
    listed, out = tasks(tmp_path), tmp_path / "out"
    first = Editing(fails="p1")
    results = list(run_batch(listed, out, first.work()))
    assert statuses(results) == ["done", "failed", "done", "done"] and results[1].reason == "the mask is empty"
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(line["id"], line["status"]) for line in lines] == [("t0", "done"), ("t1", "failed"), ("t2", "done"), ("t3", "done")]
    (out / "t2" / "a.mp4").write_bytes(b"damaged")
    second = Editing()
    assert statuses(run_batch(listed, out, second.work())) == ["found", "done", "done", "found"] and second.made == ["p1", "p2"]


def test_a_run_cut_off_goes_on(tmp_path):
    """Cut between two tasks, and in the middle of one, whose folder then has no report."""
    listed, out = tasks(tmp_path), tmp_path / "out"
    run = run_batch(listed, out, Editing().work())
    next(run), next(run)
    run.close()
    (out / "t2").mkdir()
    (out / "t2" / "a.mp4").write_bytes(b"half")
    second = Editing()
    assert statuses(run_batch(listed, out, second.work())) == ["found", "found", "done", "done"] and second.made == ["p2", "p3"]


def test_a_limit_leaves_the_rest_and_found_ones_do_not_count(tmp_path):
    listed, out = tasks(tmp_path), tmp_path / "out"
    assert statuses(run_batch(listed, out, Editing().work(), limit=2)) == ["done", "done"]
    assert statuses(run_batch(listed, out, Editing().work(), limit=1)) == ["found", "found", "done"]


def test_lines_that_are_no_tasks_are_counted(tmp_path):
    lines = ['{"id": "a", "video": "v.mp4", "references": "r.png", "point": [3, 4]}', "{", '{"id": "b", "video": "v.mp4"}', '{"id": "c", "vidio": 1}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = read_tasks(tmp_path / "t.jsonl")
    assert found[0].request.references == (tmp_path / "r.png",) and found[0].request.point == (3.0, 4.0)
    assert [task.id for task in found] == ["a", "line-2", "b", "c"] and [task.request is None for task in found] == [False, True, True, True]
    assert "no ['references']" in found[2].reason and "unknown fields ['vidio']" in found[3].reason
    results = list(run_batch(found, tmp_path / "out", Editing().work()))
    assert statuses(results) == ["done", "failed", "failed", "failed"] and results[1].reason.startswith("line 2 is not JSON")


def test_ids_must_be_folders_of_their_own(tmp_path):
    for name, says in (("../a", "no file names"), ("a", "stand twice")):
        line = json.dumps({"id": name, "video": "v", "references": ["r"]}) + "\n"
        (tmp_path / "t.jsonl").write_text(line * 2)
        with pytest.raises(ValueError, match=says):
            read_tasks(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no task"):
        read_tasks(tmp_path / "t.jsonl")


def test_the_benchmarks_json(tmp_path):
    for folder, name in (("videos", "bag1.mp4"), ("product_images", "red.png"), ("masks/bag1", "00000.png")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(b"x")
    task = {
        "id": 7,
        "video_name": "bag1",
        "inference_image_id": "red",
        "target_prompt": "A red bag.",
        "negative_prompt": "blur",
        "target_object": "red bag",
    }
    (tmp_path / "tasks.json").write_text(json.dumps([task, task | {"id": 8, "inference_image_id": "none"}]))
    one, other = read_tasks(tmp_path / "tasks.json")
    assert one.id == "7" and one.request.video == tmp_path / "videos/bag1.mp4" and one.request.mask == tmp_path / "masks/bag1"
    assert one.request.references == (tmp_path / "product_images/red.png",) and one.request.prompt == "A red bag."
    assert one.request.negative_prompt == "blur" and one.request.product_words == "red bag"
    assert other.request is None and "product_images/" in other.reason
