"""`pvtt clips draft SOURCE OUT`: a manifest of a folder that has none, for a person to read and correct."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from infra.settings import settings
from infra.uris import is_remote, localise
from pvtt_model.data.layouts import Layout, draft, write_draft

app = typer.Typer(no_args_is_help=True)


@app.callback()
def clips() -> None:
    """Sources of clips."""


@app.command(name="draft")
def draft_manifest(
    source: Annotated[str, typer.Argument(help="a folder (path or s3:// prefix) of videos or of samples, or a benchmark's JSON")],
    out: Annotated[Path, typer.Argument(help="the manifest to write; one that differs is never written over")],
    layout: Annotated[str | None, typer.Option(help="benchmark, samples or videos, where the folder's own is not wanted")] = None,
) -> None:
    """Draft a JSON Lines manifest and say what is missing. Nothing is decoded; what is null in it would be refused at ingest."""
    try:
        place = localise(source, settings().cache / "inputs")
        if is_remote(source) and place.is_file():
            raise ValueError(f"{source} is one file. Give the prefix that holds it and the videos.")
        chosen: Layout | None = layout  # type: ignore[assignment]  # draft() refuses an unknown one
        found = draft(place, chosen)
        folder = (place if place.is_dir() else place.parent).resolve()
        base, inside = _base(source, folder, out)
        write_draft(found.text(base), out)
    except (ValueError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    missing = {name: sum(line[name] is None for line in found.lines) for name in ("reference_image", "text_prompt", "mask_path")}
    typer.echo(f"{out}: {len(found.lines)} clips ({found.layout})")
    for name, count in missing.items():
        if count:
            typer.echo(f"  {count} without {name}" + ("" if name == "mask_path" else ": refused at ingest until it is filled in"))
    for file, why in found.passed_over:
        typer.echo(f"  in no line: {file}: {why}")
    if not inside:
        typer.echo(f"  the videos lie outside {out.resolve().parent}: run with --set clips.allow_outside_root=true, or write the draft into {source}")


def _base(source: str, folder: Path, out: Path) -> tuple[str, bool]:
    """(what stands before each path of the draft, whether a run may follow it): nothing or a folder below OUT's, an absolute path, or s3://."""
    if is_remote(source):
        return source.rstrip("/"), True
    below = out.resolve().parent
    if folder.is_relative_to(below):
        relative = os.path.relpath(folder, below)
        return ("" if relative == "." else relative), True
    return str(folder), False
