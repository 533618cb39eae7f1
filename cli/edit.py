"""`pvtt edit`: a product put into a video, or into every video of a task list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.artifacts import ProjectOption
from cli.edit_teacher import Chosen, choose_teacher, with_overrides
from infra.artifact_store import ArtifactMissing, ArtifactStore
from infra.settings import settings
from infra.store import StoreRefused
from infra.weights import WeightsUnavailable
from pvtt_model.overrides import parse_override

if TYPE_CHECKING:
    from pvtt_model.editing import Editor, EditRequest

console = Console(stderr=True, highlight=False)


class Mode(StrEnum):
    masked = "masked"
    first_frame = "first-frame"


class Scheduler(StrEnum):
    unipc = "unipc"
    dpmpp = "dpmpp"
    flow_euler = "flow_euler"


class Collage(StrEnum):
    paste = "paste"
    beside = "beside"


def edit(
    video: Annotated[Path | None, typer.Option(help="the video to edit")] = None,
    reference: Annotated[list[Path] | None, typer.Option(help="a picture of the product that goes in; may be repeated")] = None,
    prompt: Annotated[str, typer.Option(help="what the edited video shows; none: without words")] = "",
    mask: Annotated[Path | None, typer.Option(help="where the old product is: an mp4, a folder of pictures, or one picture for all frames")] = None,
    tasks: Annotated[Path | None, typer.Option(help="a list of edits instead: JSON Lines, or the benchmark's JSON")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the output; default edits/NAME")] = None,
    mode: Annotated[Mode, typer.Option(help="masked: in place, by VACE; first-frame: image-to-video from an edited first frame")] = Mode.masked,
    release: Annotated[str | None, typer.Option(help="a release's folder, or releases/VERSION of the store; default: what is in production")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="checkpoints/VERSION of the store")] = None,
    recipe: Annotated[str | None, typer.Option(help="whose release is wanted, or whose settings go with what is given")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="the recipe's base with an adapter at its start")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, path=value, e.g. latents.video.width=448")] = None,
    steps: Annotated[int | None, typer.Option(help="edit.num_steps")] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help="edit.scheduler")] = None,
    guidance_text: Annotated[float | None, typer.Option(help="scale of the text; 1 is the plain conditional")] = None,
    guidance_reference: Annotated[float | None, typer.Option(help="scale of the reference; 1 is the plain conditional")] = None,
    seed: Annotated[int | None, typer.Option(help="edit.seed")] = None,
    colour_match: Annotated[bool, typer.Option(help="match the edit's colours to the source by the background near the mask")] = True,
    negative_prompt: Annotated[str, typer.Option(help="stands in for the empty prompt of guidance")] = "",
    product_words: Annotated[str | None, typer.Option(help="what the prompt calls the product; a recipe may hide them")] = None,
    point: Annotated[str | None, typer.Option(help="x,y: on the old product in the first frame, to find its mask")] = None,
    box: Annotated[str | None, typer.Option(help="left,top,right,bottom: the old product in the first frame")] = None,
    source_reference: Annotated[list[Path] | None, typer.Option(help="a picture of the old product, to find its mask; may be repeated")] = None,
    first_frame: Annotated[Path | None, typer.Option(help="first-frame mode: the edited first frame; without it a collage is made")] = None,
    collage: Annotated[Collage, typer.Option(help="first-frame mode: the cut-out in place, or the product beside the cleaned frame")] = Collage.paste,
    frames: Annotated[int | None, typer.Option(help="edit the first so many frames only")] = None,
    limit: Annotated[int | None, typer.Option(help="of --tasks: try so many edits, leave the rest for another run")] = None,
    crf: Annotated[int, typer.Option(min=0, max=51, help="quality of the mp4s: 0 lossless, 12 visually so")] = 12,
    force: Annotated[bool, typer.Option("--force", help="replace an output that is there")] = False,
    store: Annotated[str | None, typer.Option(help="a folder or s3://bucket/prefix; default PVTT_STORE, else .pvtt/store")] = None,
    project: ProjectOption = None,
) -> None:
    """Put a product into a video, at the video's own size and length; exit status 0 where every edit was made."""
    with _plain_failures():
        if (video is None) == (tasks is None):
            raise ValueError("give --video with --reference, or --tasks with a list of them.")
        if video is not None and not reference:
            raise ValueError("--video needs at least one --reference picture of the product that goes in.")
        overrides = dict(parse_override(text) for text in set_ or [])
        asked = {"num_steps": steps, "scheduler": scheduler and scheduler.value, "guidance_text": guidance_text, "seed": seed}
        asked |= {"guidance_reference": guidance_reference, "colour_match": "ring" if colour_match else "none"}
        overrides = {f"edit.{name}": value for name, value in asked.items() if value is not None} | overrides
        where = settings(store, project)
        chosen = choose_teacher(ArtifactStore.open(where.store), release, checkpoint, recipe, untrained, where.project)
        chosen = chosen._replace(spec=with_overrides(chosen.spec, overrides))
        how = {"crf": crf} | ({} if mode is Mode.masked else {"collage": collage.value})
        if tasks is not None:
            from pvtt_model.editing.task_list import read_tasks

            listed = read_tasks(tasks)
            failed = _batch(_load(chosen), listed, out or Path("edits") / tasks.stem, mode, how, limit)
            raise typer.Exit(1 if failed else 0)
        from pvtt_model.editing.request import EditRequest, video_facts

        assert video is not None
        request = EditRequest(
            video, tuple(reference or ()), prompt, mask, negative_prompt, product_words, _numbers(point, 2, "--point"), _numbers(box, 4, "--box"),
            tuple(source_reference or ()), frames, first_frame,
        )  # fmt: skip
        place = out or Path("edits") / video.stem
        if place.exists() and not force:
            raise FileExistsError(f"{place} is there already. Give another --out, or --force to replace it.")
        video_facts(request)  # what cannot be read is said before models are loaded
        with _bar() as progress:
            report = _edit(_load(chosen), request, place, mode, how | {"force": force}, progress)
    _say(report, place)


def _load(chosen: Chosen) -> Editor:
    from pvtt_model.editing import load_editor
    from tasks.shard_work import device, weights_of

    console.print(f"teacher: {chosen.trained} (recipe {chosen.spec.recipe}, {chosen.spec.backbone.architecture})")
    return load_editor(chosen.spec, chosen.tensors(), partner=chosen.partner_tensors(), trained=chosen.trained, weights=weights_of, device=device())


def _edit(editor: Editor, request: EditRequest, out: Path, mode: Mode, how: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One edit with a bar of its own, taken away when it ends."""
    from pvtt_model.editing.first_frame import edit_from_first_frame
    from pvtt_model.editing.video_edit import edit_video

    bar = progress.add_task(request.video.name, total=None)
    call = edit_video if mode is Mode.masked else edit_from_first_frame

    def told(what: str, done: int, total: int) -> None:
        progress.update(bar, completed=done, total=total, description=f"{request.video.name}: {what}")

    try:
        return call(editor, request, out, progress=told, **how)
    finally:
        progress.remove_task(bar)


def _batch(editor: Editor, tasks: list[Any], out: Path, mode: Mode, how: dict[str, Any], limit: int | None) -> int:
    """Every task; a table at the end. The number that failed."""
    from pvtt_model.editing.batch import RESULTS, Work, run_batch
    from pvtt_model.editing.video_edit import request_key

    name = mode.value if mode is Mode.masked else f"{mode.value} {how['collage']}"
    with _bar() as progress:
        whole = progress.add_task("tasks", total=len(tasks))
        work = Work(
            key_of=lambda request: request_key(editor, request, editor.spec.edit, name),
            edit=lambda request, folder: _edit(editor, request, folder, mode, how | {"force": True}, progress),
        )
        results = []
        for result in run_batch(tasks, out, work, limit):
            results.append(result)
            progress.advance(whole)
            if result.reason:
                progress.console.print(f"{result.id}: failed: {result.reason}")
    table = Table("id", "status", "s", "reason")
    for result in results:
        table.add_row(result.id, result.status, f"{result.seconds:.1f}", result.reason or "")
    Console().print(table)
    counts = {status: sum(r.status == status for r in results) for status in ("done", "found", "failed")}
    left = len(tasks) - len(results)
    typer.echo(f"{len(tasks)} tasks: {', '.join(f'{n} {status}' for status, n in counts.items())}, {left} left. {out / RESULTS}")
    return counts["failed"]


def _say(report: dict[str, Any], out: Path) -> None:
    for warning in report["warnings"]:
        console.print(f"note: {warning}")
    if "transition_frames" in report:
        typer.echo(f"{report['transition_frames']} transition frames dropped, {report['frames']} left")
    for name in report["files"]:
        typer.echo(str(out / name))


def _numbers(text: str | None, count: int, option: str) -> Any:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise ValueError(f"{option} is '{text}'; it must be {count} numbers with commas between, in pixels of the first frame.")
    return values


def _bar() -> Progress:
    """Drawn in a terminal; elsewhere nothing is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextmanager
def _plain_failures() -> Iterator[None]:
    from pvtt_model.data.decoder import DecodeTimeout, VideoUnreadable

    passed_on = (ValueError, OSError, StoreRefused, ArtifactMissing, WeightsUnavailable, FloatingPointError, VideoUnreadable, DecodeTimeout)
    try:
        yield
    except passed_on as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
