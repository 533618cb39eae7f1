"""`pvtt edit --tasks` killed with SIGKILL at several moments: the next run keeps what was finished, makes the rest, and leaves nothing half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

TASKS = 4


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    from pvtt_model.data.video_io import png_bytes, write_mp4

    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[16:32, 20:40] = True
    (tmp_path / "m.png").write_bytes(png_bytes(mask))
    (tmp_path / "r.png").write_bytes(png_bytes(torch.full((3, 16, 16), 90, dtype=torch.uint8)))
    lines = []
    for i in range(TASKS):
        write_mp4(tmp_path / f"v{i}.mp4", torch.full((13, 3, 48, 64), 60 + 30 * i, dtype=torch.uint8), 8)
        lines.append({"id": f"t{i}", "video": f"v{i}.mp4", "references": ["r.png"], "mask": "m.png"})
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def started(folder: Path, out: Path) -> subprocess.Popen[str]:
    sizes = [part for name, value in (("width", 48), ("height", 32), ("num_frames", 5)) for part in ("--set", f"latents.video.{name}={value}")]
    command = [sys.executable, "-m", "cli.main", "edit", "--tasks", folder / "tasks.jsonl", "--out", out, "--untrained", "--steps", "2", *sizes]
    command += ["--store", folder / "store"]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ), start_new_session=True
    )


def done(out: Path) -> dict[str, str]:
    """The composited video's hash in the report of each finished edit."""
    return {path.parent.name: json.loads(path.read_text())["files"]["composited.mp4"] for path in out.glob("t*/report.json")}


def wait_for(process: subprocess.Popen[str], there: object) -> None:
    until = time.monotonic() + 240
    while not there() and process.poll() is None and time.monotonic() < until:  # type: ignore[operator]
        time.sleep(0.01)


def killed(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_batch_goes_on_where_it_was(listed: Path) -> None:
    whole = started(listed, listed / "whole")
    said, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0 and f"{TASKS} tasks: {TASKS} done" in said, said
    out = listed / "out"

    def writing() -> bool:  # inside the first edit: its folder is being made beside its place
        return any(path.is_dir() and path.name not in {f"t{i}" for i in range(TASKS)} for path in out.glob("*"))

    for moment in (writing, lambda: len(done(out)) >= 1, lambda: len(done(out)) >= 3):
        before = done(out)
        process = started(listed, out)
        wait_for(process, moment)
        killed(process)
        assert before.items() <= done(out).items()
        assert all((out / name).is_dir() for name in done(out))
    kept = done(out)
    assert kept
    last = started(listed, out)
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0 and f"{TASKS} tasks: {TASKS - len(kept)} done, {len(kept)} found, 0 failed, 0 left" in said, said
    assert done(out) == done(listed / "whole"), "the same videos as of a run that nobody killed"
    assert sorted(p.name for p in out.iterdir()) == sorted([f"t{i}" for i in range(TASKS)] + ["results.jsonl"]), "nothing half is left"
