"""pvtt up, down, run: the local server and worker, and a deployment run followed to its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.artifacts import ProjectOption
from infra.local_services import LocalServices
from infra.settings import PROJECT_TAG, REPOSITORY, settings
from pvtt_model.overrides import parse_override
from pvtt_model.recipes import RECIPES, recipe_by_name

console = Console(highlight=False)


class GatePolicy(StrEnum):
    recipe = "recipe"
    stop = "stop"
    go_on = "continue"
    ask = "ask"


StoreOption = Annotated[str | None, typer.Option(help="a folder or s3://bucket/prefix; default PVTT_STORE, else .pvtt/store")]


def up(store: StoreOption = None) -> None:
    """Start the local Prefect server and worker where they are not running, and deploy prefect.yaml."""
    api = LocalServices(settings(store), console.print).up()
    console.print(f"UI: {api.removesuffix('/api')}")


def down() -> None:
    """Stop what `pvtt up` (or `make demo`) started."""
    stopped = LocalServices(settings()).down()
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing of ours was running")


def run(
    recipe: Annotated[str, typer.Option(help=f"one of {', '.join(RECIPES)}")] = "nano",
    clips: Annotated[str, typer.Option(help="'nano', a JSON Lines manifest, or a folder of clips (path or s3://)")] = "nano",
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, path=value; may be repeated")] = None,
    deployment: Annotated[str, typer.Option(help="flow/deployment")] = "pvtt/full-curriculum",
    store: StoreOption = None,
    on_gate_failure: Annotated[GatePolicy, typer.Option(help="what a missed gate does; recipe: as each stage says")] = GatePolicy.recipe,
    project: ProjectOption = None,
) -> None:
    """Run a deployment on the local server (started where it is not running) and follow it; exit status 0 where it ended Completed."""
    try:
        overrides = dict(parse_override(text) for text in set_ or [])
        recipe_by_name(recipe, overrides)
        where = settings(store, project)
        parameters = {"recipe": recipe, "clips": clips, "overrides": overrides, "store": where.store}
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if clips != "nano" and "://" not in clips:
        if not Path(clips).exists():
            typer.echo(f"nothing at {clips}. Give the path of a JSON Lines manifest, of a benchmark's JSON, or of a folder of clips.", err=True)
            raise typer.Exit(2)
        parameters["clips"] = clips = str(Path(clips).resolve())
    services = LocalServices(where, console.print)
    api = services.up()
    env = services.environment(api)
    if deployment.split("/")[0] in ("pvtt", "evaluate", "retrain"):
        parameters["on_gate_failure"] = on_gate_failure.value
    tag: list[str] = []
    if where.project:
        parameters["project"] = where.project
        tag = ["--tag", f"{PROJECT_TAG}{where.project}"]  # the run tags itself too, once it starts
    pairs = [part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "prefect", "deployment", "run", deployment, *pairs, *tag]
    of = f", project {where.project}" if where.project else ""
    console.print(f"prefect deployment run {deployment}  (recipe {recipe}, clips {clips}{of})")
    started = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    found = re.search(r"UUID:\s*([0-9a-f-]{36})", started.stdout)
    if started.returncode or not found:
        typer.echo(started.stdout + started.stderr, err=True)
        raise typer.Exit(started.returncode or 1)
    ui = f"{api.removesuffix('/api')}/runs/flow-run/{found[1]}"
    console.print(f"UI: {ui}")
    ended = subprocess.run([sys.executable, "-m", "flows.follow", found[1]], cwd=REPOSITORY, env=env | {"PYTHONUNBUFFERED": "1"})
    console.print(f"UI: {ui}")
    if ended.returncode:
        console.print(f"logs: {services.folder}{os.sep}worker.log, or the UI")
    raise typer.Exit(ended.returncode)
