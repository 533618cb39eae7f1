"""pvtt: the commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.artifacts import app as artifacts
from cli.clips import app as clips
from cli.compare import compare
from cli.data import app as data
from cli.doctor import doctor
from cli.edit import edit
from cli.export import export
from cli.plan import plan
from cli.releases import app as releases
from cli.run import down, run, up
from cli.status import status
from infra.python_gc import few_collections

few_collections()  # what a command loads is loaded after this
app = typer.Typer(name="pvtt", help="Product Video Template Transfer: curate, train, judge and release a teacher.", no_args_is_help=True)
app.add_typer(artifacts, name="artifacts", help="What is in the store: ls, show, verify, lineage, gc.")
app.add_typer(clips, name="clips", help="What is to be curated: draft a manifest of a folder.")
app.add_typer(data, name="data", help="Clips on their way to a training: push them to a prefix, and say so.")
app.add_typer(releases, name="releases", help="Which release is in use: list, promote, rollback, history.")
app.command()(plan)
app.command()(doctor)
app.command()(up)
app.command()(down)
app.command()(run)
app.command()(status)
app.command()(export)
app.command()(edit)
app.command()(compare)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="a recipe to print whole, as JSON")] = None) -> None:
    """The recipes, or one of them with every setting."""
    from pvtt_model.recipes import RECIPES, recipe_by_name

    if name is None:
        for known, recipe in RECIPES.items():
            typer.echo(f"{known:20} {', '.join(s.name for s in recipe.stages):24} {recipe.description}")
        return
    try:
        typer.echo(recipe_by_name(name).model_dump_json(indent=2))
    except ValueError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


if __name__ == "__main__":
    app()
