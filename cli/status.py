"""pvtt status: what runs, how long still, what it cost, what came out."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from cli.artifacts import plain_failures
from infra.local_services import LocalServices
from infra.settings import REPOSITORY, settings


def status(
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="as Prometheus's text")] = False,
    project: Annotated[str | None, typer.Option(help="the runs of this project alone; default all, also where PVTT_PROJECT is set")] = None,
    port: Annotated[int | None, typer.Option(help="with --metrics: serve it on 127.0.0.1:PORT/metrics until stopped; 0 for any port")] = None,
) -> None:
    """The runs: what each is at, how long still, its GPU-hours, what came out. Of the server of `pvtt up`, or of PREFECT_API_URL."""
    with plain_failures():
        services = LocalServices(settings(project=project))
    api = services.api()
    if api is None:
        typer.echo("no Prefect server of this checkout is running. Start it: pvtt up. For another one set PREFECT_API_URL.", err=True)
        raise typer.Exit(1)
    options = [*(["--json"] if as_json else []), *(["--metrics"] if metrics else []), *([] if port is None else ["--port", str(port)])]
    options += ["--project", project] if project else []
    ended = subprocess.run([sys.executable, "-m", "flows.status", *options], cwd=REPOSITORY, env=services.environment(api))
    raise typer.Exit(ended.returncode)
