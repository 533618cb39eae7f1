"""`pvtt compare` on reports in files and in a store."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import plan_artifact
from pvtt_model.evaluation.edit_scores import EditScores, Score
from pvtt_model.evaluation.report import aggregate
from pvtt_model.recipes import recipe_by_name

SPEC = recipe_by_name("nano").stages[0].evaluate


def written(path: Path, by: float) -> Path:
    scores = [{"bg_ssim": Score(name="bg_ssim", value=0.5 + 0.01 * i + by + 0.001 * (i % 2), direction="higher")} for i in range(10)]
    edits = [EditScores(clip_key=f"c{i}", reference_key="r", status="done", scores=s) for i, s in enumerate(scores)]
    path.write_text(aggregate("refine", edits, SPEC).model_dump_json())
    return path


def test_better_and_worse(tmp_path: Path) -> None:
    old, new = written(tmp_path / "old.json", 0.0), written(tmp_path / "new.json", 0.02)
    better = CliRunner().invoke(app, ["compare", str(new), str(old), "--markdown"])
    assert better.exit_code == 0 and "| `bg_ssim` | 0.5655 | 0.5455 | +0.02 |" in better.stdout and "**better**" in better.stdout
    worse = CliRunner().invoke(app, ["compare", str(old), str(new)])
    assert worse.exit_code == 3 and "worse" in worse.stdout


def test_a_report_of_the_store_by_its_beginning_and_what_is_none(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "store"))
    planned = plan_artifact("reports", {"n": 1})
    store.commit(planned, [store.attach(planned, "report.json", written(tmp_path / "report.json", 0.0))], {})
    same = CliRunner().invoke(app, ["compare", planned.version[:6], planned.name, "--store", str(tmp_path / "store")])
    assert same.exit_code == 0 and "cannot tell" in same.stdout
    none = CliRunner().invoke(app, ["compare", "reports/nothing", planned.name, "--store", str(tmp_path / "store")])
    assert none.exit_code == 1 and "nothing" in none.output
