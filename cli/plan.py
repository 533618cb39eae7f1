"""`pvtt plan RECIPE`: what would run, before anything does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from infra.artifact_store import ArtifactStore
from infra.settings import settings
from infra.store import StoreRefused
from infra.uris import is_remote, localise
from pvtt_model.overrides import parse_override
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import RecipeSpec


def plan(
    recipe: Annotated[str, typer.Argument(help="nano, nano-long, nano-wide, wan2.1-vace-1.3b, wan2.1-vace-14b or full.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A field by dotted path: --set stages.verify.train.steps=5")] = None,
    clips: Annotated[str | None, typer.Option("--clips", help="Manifest or folder of clips, local or s3://. The nano world's without.")] = None,
    store: Annotated[str | None, typer.Option("--store", help="A folder or s3://bucket/prefix. PVTT_STORE, or .pvtt/store.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Print what would run: artifacts that exist, steps, parameters, memory, FLOPs, bytes. Needs no weights and no GPU."""
    with plain_failures():
        chosen = recipe_by_name(recipe, dict(parse_override(text) for text in overrides or []))
        artifacts = ArtifactStore.open(settings(store).store)
        from pvtt_model.plan import plan_recipe  # torch and diffusers take seconds: only once the recipe is known to be valid
        from pvtt_model.plan_text import render

        planned = plan_recipe(chosen, _fingerprint(chosen, clips), lambda name: artifacts.find(name) is not None)
    if as_json:
        typer.echo(json.dumps(planned.as_dict(), indent=1))
        return
    typer.echo(f"clips {clips or 'of the nano world (no --clips given)'}; store {artifacts.store.uri}")
    typer.echo(render(planned))


def _fingerprint(recipe: RecipeSpec, clips: str | None) -> str:
    """The source's content: the manifest's and its files', or the nano world's spec."""
    if clips in (None, "nano"):
        from pvtt_model.nano.fingerprint import world_fingerprint

        return world_fingerprint(recipe.world)
    from pvtt_model.data.source import read_source

    assert clips is not None
    home = settings().home
    cache = home / "cache" / "clips"
    uri = clips if is_remote(clips) else str(Path(clips).resolve())
    return read_source(localise(uri, cache), uri, recipe.clips, lambda u: localise(u, cache), home / "drafts", home / "cache" / "scans").fingerprint


@contextmanager
def plain_failures() -> Iterator[None]:
    """Inside, wrong settings, files and stores end the command with their message and status 2."""
    try:
        yield
    except (ValueError, OSError, StoreRefused) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
