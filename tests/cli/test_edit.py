"""`pvtt edit` through typer: which teacher, what is refused, one edit and a batch."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from cli.edit import edit
from cli.edit_teacher import choose_teacher, with_overrides
from infra.artifact_store import ArtifactStore
from infra.release_registry import ReleaseRegistry
from pvtt_model.artifacts import plan_artifact
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import EditorSpec

app = typer.Typer()
app.command()(edit)


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def clip(tmp_path):
    import torch

    from pvtt_model.data.video_io import png_bytes, write_mp4

    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[16:32, 20:40] = True
    frames = torch.where(mask, 30, 170).to(torch.uint8).expand(5, 3, -1, -1)
    write_mp4(tmp_path / "v.mp4", frames, 8)
    (tmp_path / "m.png").write_bytes(png_bytes(mask))
    (tmp_path / "r.png").write_bytes(png_bytes(torch.full((3, 16, 16), 90, dtype=torch.uint8)))
    return tmp_path


def small(folder) -> list[object]:
    sizes = [part for name, value in (("width", 48), ("height", 32), ("num_frames", 5)) for part in ("--set", f"latents.video.{name}={value}")]
    return ["--untrained", "--steps", 1, *sizes, "--store", folder / "store"]


def test_without_a_release_the_cure_is_named(clip):
    answer = run("--video", clip / "v.mp4", "--reference", clip / "r.png", "--store", clip / "store")
    assert answer.exit_code == 2 and "make demo" in answer.output and "--untrained" in answer.output


def test_mistakes_are_refused_before_a_model_is_loaded(clip):
    given = ["--video", clip / "v.mp4", "--reference", clip / "r.png", *small(clip)]
    for args, says in (
        (["--video", clip / "v.mp4"], "--reference"),
        (small(clip), "--tasks"),
        ([*given, "--tasks", clip / "t.jsonl"], "--tasks"),
        ([*given, "--point", "3"], "--point is '3'"),
        ([*given, "--set", "latents.video.widht=3"], "Did you mean 'width'"),
        ([*given, "--release", "x"], "exclude one another"),
        ([*given, "--frames", 9], "9 frames are asked for"),
    ):
        answer = run(*args)
        assert answer.exit_code == 2 and says in answer.output, answer.output


def test_one_edit_and_a_batch(clip):
    out = clip / "out"
    answer = run(
        "--video", clip / "v.mp4", "--reference", clip / "r.png", "--mask", clip / "m.png", "--out", out, "--scheduler", "dpmpp", *small(clip)
    )
    assert answer.exit_code == 0, answer.output
    report = json.loads((out / "report.json").read_text())
    assert (
        report["teacher"] == "untrained"
        and report["settings"]["edit"]["scheduler"] == "dpmpp"
        and report["settings"]["edit"]["colour_match"] == "ring"
    )
    lines = [{"id": "good", "video": "v.mp4", "references": ["r.png"], "mask": "m.png"}, {"id": "bad", "video": "none.mp4", "references": ["r.png"]}]
    (clip / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = ["--tasks", clip / "t.jsonl", "--out", clip / "batch", *small(clip)]
    answer = run(*batch)
    assert answer.exit_code == 1 and "2 tasks: 1 done, 0 found, 1 failed, 0 left" in answer.output and "none.mp4" in answer.output
    answer = run(*batch)
    assert "0 done, 1 found, 1 failed" in answer.output, "the finished edit is known again"


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    """A store with a trained nano-wide checkpoint, its edits' settings and a release: manifests as the tasks write them, files of a fresh teacher."""
    from safetensors.torch import save_file

    from pvtt_model.chain import checkpoint_artifact, conditions_artifact, edits_artifact, latents_artifact, masks_artifact, release_artifact
    from pvtt_model.editing.editor import local_folder
    from pvtt_model.training.teacher import build_teacher
    from pvtt_model.training.trained_tensors import ADAPTER, LORA, split_trainable

    recipe = recipe_by_name("nano-wide")
    stage = recipe.stages[-1].model_copy(update={"init_from": "base"})
    opened = ArtifactStore.open(tmp_path / "store")
    clips = plan_artifact("clips", {"of": "the test"})
    masks = masks_artifact(recipe, clips.name)
    latents, conditions = latents_artifact(recipe, clips.name, masks.name), conditions_artifact(recipe, clips.name)
    for planned in (clips, masks, latents, conditions):
        opened.commit(planned, [])
    trained = checkpoint_artifact(recipe, stage, latents.name, conditions.name, masks.name, clips.name, None)
    import torch

    teacher = build_teacher(stage.backbone, stage.reference, stage.lora, "nano-dinov2", local_folder(stage.backbone), torch.float32, seed=3)
    files = []
    split = split_trainable({name: p.detach().clone() for name, p in teacher.trainable().items()})
    assert not split.backbone
    for name, tensors in ((LORA, split.lora), (ADAPTER, split.adapter)):
        save_file(tensors, tmp_path / name)
        files.append(opened.attach(trained, name, tmp_path / name))
    opened.commit(trained, files, {"stage": stage.name})
    opened.commit(edits_artifact(recipe, stage, trained.name, clips.name, masks.name, latents.name, conditions.name), [])
    opened.commit(release_artifact(recipe, trained.name, [], []), [], {"recipe": "nano-wide"})
    return opened


def test_the_newest_release_brings_its_own_settings(store):
    chosen = choose_teacher(store, None, None, None, False)
    expected = EditorSpec.of(recipe_by_name("nano-wide"))
    assert chosen.trained.startswith("releases/") and chosen.spec == expected.model_copy(update={"edit": chosen.spec.edit})
    assert chosen.spec.edit.num_steps == expected.edit.num_steps and chosen.tensors()
    by_name = choose_teacher(store, chosen.trained, None, None, False)
    assert by_name == chosen
    checkpoint = store.manifest(chosen.trained).inputs[0]
    assert choose_teacher(store, None, checkpoint, None, False)._replace(trained=chosen.trained).files == chosen.files
    with pytest.raises(ValueError, match="no release of recipe 'nano'"):
        choose_teacher(store, None, None, "nano", False)
    with pytest.raises(ValueError, match="no release of project 'mugs' in"):
        choose_teacher(store, None, None, None, False, "mugs")
    ReleaseRegistry(store, "mugs").claim(chosen.trained)
    assert choose_teacher(store, None, None, None, False, "mugs") == chosen
    assert with_overrides(chosen.spec, {"edit.num_steps": 7}).edit.num_steps == 7
    from pvtt_model.editing import load_editor

    editor = load_editor(chosen.spec, chosen.tensors(), trained=chosen.trained)
    tensors = chosen.tensors()
    assert all((p == tensors[name]).all() for name, p in editor.teacher.trainable().items())


def test_another_projects_edits_with_the_same_checkpoint_do_not_change_a_releases_settings(store):
    """The release names the report that it was judged by, and that its edits; newer edits with other settings are somebody else's."""
    from pvtt_model.chain import release_artifact, report_artifact

    recipe = recipe_by_name("nano-wide")
    (edits,) = store.manifests("edits")
    trained = store.manifest(edits.inputs[0])
    report = report_artifact(recipe.stages[-1], edits.name)
    store.commit(report, [])
    release = release_artifact(recipe, trained.name, [report.name], [])
    store.commit(release, [], {"recipe": "nano-wide"})
    theirs = dict(edits.spec["edit"]) | {"num_steps": 3}
    store.commit(plan_artifact("edits", {"edit": theirs}, edits.inputs), [])
    assert choose_teacher(store, release.name, None, None, False).spec.edit.num_steps == edits.spec["edit"]["num_steps"] != 3
    assert choose_teacher(store, None, trained.name, None, False).spec.edit.num_steps == 3, "of a checkpoint alone: the last edits made with it"
