"""`pvtt compare`: two runs on the same edits; better, worse or cannot tell, metric by metric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.artifacts import DEFAULT_STORE, StoreOption, plain_failures, resolve_name, titled_table, wide_console
from infra.artifact_store import ArtifactStore
from infra.settings import settings

COLOURS = {"better": "green", "worse": "red", "cannot tell": "dim"}


def compare(
    new: Annotated[str, typer.Argument(help="The new run: an artifact reports/VERSION (a beginning is enough), or a report.json.")],
    old: Annotated[str, typer.Argument(help="The one it is held against, likewise.")],
    store: StoreOption = DEFAULT_STORE,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Hold two reports against each other by paired bootstrap over the edits that both have. Exit status 3 where a metric is worse."""
    from pvtt_model.evaluation.compare import compare as compared

    with plain_failures():
        found = compared(_report(new, store), _report(old, store))
    if markdown:
        typer.echo(found.markdown())
    else:
        table = titled_table("metric", ">new", ">old", ">difference", "95 %", ">N", "verdict")
        for line in found.lines:
            span = f"{line.low:+.4g} to {line.high:+.4g}"
            verdict = f"[{COLOURS[line.verdict]}]{line.verdict}[/]"
            table.add_row(escape(line.metric), f"{line.new:.4g}", f"{line.old:.4g}", f"{line.difference:+.4g}", span, str(line.n), verdict)
        console = wide_console()
        console.print(table)
        for why in found.left_out:
            console.print(escape(why), highlight=False)
    if found.worse():
        raise typer.Exit(3)


def _report(name: str, store: str) -> Any:
    from pvtt_model.evaluation.report import Report

    path = Path(name)
    if not path.is_file():
        artifacts = ArtifactStore.open(settings(store or None).store)
        manifest = artifacts.manifest(resolve_name(artifacts, name if "/" in name else f"reports/{name}"))
        if manifest.kind != "reports":
            raise ValueError(f"'{name}' is {manifest.name}, and reports are compared. See `pvtt artifacts ls reports`.")
        path = artifacts.local_path(manifest.file("report.json"))
    return Report.model_validate_json(path.read_text())
