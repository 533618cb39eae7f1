"""`pvtt data push SOURCE TARGET`: new clips below a prefix, and the event that re-training waits for."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated

import typer

from cli.artifacts import ProjectOption, human_bytes
from infra.local_services import LocalServices
from infra.settings import REPOSITORY, settings
from infra.store import StoreRefused
from pvtt_model.overrides import parse_override
from pvtt_model.recipes import RECIPES, recipe_by_name
from tasks.push_clips import push_clips

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Clips on their way to a training."""


@app.command()
def push(
    source: Annotated[str, typer.Argument(help="a JSON Lines manifest, or a folder of clips in a known layout: a path or s3://")],
    target: Annotated[str, typer.Argument(help="s3://bucket/prefix, or a folder; what `--clips` of a re-training then names")],
    recipe: Annotated[str, typer.Option(help=f"what is re-trained: one of {', '.join(RECIPES)}")] = "nano-wide",
    set_: Annotated[list[str] | None, typer.Option("--set", help="override of the recipe, path=value; may be repeated")] = None,
    event: Annotated[bool, typer.Option(help="tell the Prefect server, whose automation then runs retrain")] = True,
    allow_outside_root: Annotated[bool, typer.Option(help="allow absolute paths outside the manifest's folder")] = False,
    project: ProjectOption = None,
) -> None:
    """Upload what is not there yet, each file once by its content, and send the event pvtt.data.pushed. Pushing again uploads nothing and is safe."""
    try:
        overrides = dict(parse_override(text) for text in set_ or [])
        recipe_by_name(recipe, overrides)
        where = settings(project=project)
        done = push_clips(source, target, allow_outside_root)
    except (ValueError, OSError, StoreRefused) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(
        f"{done.uri}: {done.new} new clips, {done.known} were there, {len(done.refused)} refused; sent {done.files} files, {human_bytes(done.bytes)}"
    )
    for line, kind, reason in done.refused:
        typer.echo(f"  line {line} refused: {kind}: {reason}")
    if not event:
        return
    services = LocalServices(where)
    api = services.api()
    if api is None:
        typer.echo("no event was sent: no Prefect server runs here (pvtt up), and PREFECT_API_URL names none. Re-train by hand: see docs/operate.md")
        return
    payload = {"clips": done.uri, "recipe": recipe, "overrides": overrides, "new": done.new, "project": where.project}
    command = [sys.executable, "-m", "flows.on_push", "say", json.dumps(payload)]
    said = subprocess.run(command, cwd=REPOSITORY, env=services.environment(api), capture_output=True, text=True)
    if said.returncode:
        last = (said.stderr.strip().splitlines() or ["?"])[-1]
        typer.echo(f"the clips are there, the event was not sent to {api}: {last}. Run the same again: nothing is uploaded twice.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{said.stdout.strip()} to {api.removesuffix('/api')}")
