"""`pvtt releases`: which release is in use, who put it there and why, and the moves: promote, rollback."""

from __future__ import annotations

import getpass
import socket
from typing import Annotated

import typer
from rich.markup import escape

from cli.artifacts import DEFAULT_STORE, ProjectOption, StoreOption, plain_failures, resolve_name, titled_table, wide_console
from infra.artifact_store import ArtifactStore
from infra.release_registry import Move, ReleaseRegistry, Stage
from infra.settings import settings
from pvtt_model.artifacts import Manifest

app = typer.Typer(invoke_without_command=True)

WhyOption = Annotated[str, typer.Option("--why", help="the reason, kept with the move")]
WhoOption = Annotated[str | None, typer.Option("--who", help="whose move it is; default the user and host")]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="of this recipe; needed where the store has releases of several")]


@app.callback()
def releases(context: typer.Context, store: StoreOption = DEFAULT_STORE, project: ProjectOption = None) -> None:
    """The releases of the store, oldest first, and where each stands; of a project its own."""
    if context.invoked_subcommand is not None:
        if project:
            raise typer.BadParameter(f"give --project after '{context.invoked_subcommand}', whose option it is.")
        return
    with plain_failures():
        registry = _registry(store, project)
        found = registry.releases()
        if not found:
            typer.echo(f"no releases{_of(registry)} in {registry.store.uri}")
            return
        standings = {name: registry.standing(name) for name in sorted({str(m.summary["recipe"]) for m in found})}
        table = titled_table("recipe", "release", "made", "stands", "since", "by", "why")
        for m in found:
            standing = standings[str(m.summary["recipe"])]
            status, move = standing.of(m.name), standing.last_move(m.name)
            moved = [move.when[:19], move.who, move.why.splitlines()[0]] if move else ["", "", _gates(m)]
            table.add_row(str(m.summary["recipe"]), m.version, m.created[:19], status, *map(escape, moved))
        wide_console().print(table)


@app.command("promote")
def promote(
    version: Annotated[str, typer.Argument(help="the release's version, or a unique beginning of it")],
    why: WhyOption,
    to: Annotated[str, typer.Option("--to", help="candidate, staging or production")] = "production",
    who: WhoOption = None,
    store: StoreOption = DEFAULT_STORE,
    project: ProjectOption = None,
) -> None:
    """Put a committed release to a stage. What was in production stays in the store, and `rollback` brings it back."""
    with plain_failures():
        registry = _registry(store, project)
        name = resolve_name(registry.artifacts, version if "/" in version else f"releases/{version}")
        _say(registry, registry.move(name, _stage(to), who or _whoami(), why))


@app.command("rollback")
def rollback(
    why: WhyOption, recipe: RecipeOption = None, who: WhoOption = None, store: StoreOption = DEFAULT_STORE, project: ProjectOption = None
) -> None:
    """Put the production before the present one back."""
    with plain_failures():
        registry = _registry(store, project)
        _say(registry, registry.rollback(_one(registry, recipe), who or _whoami(), why))


@app.command("history")
def history(recipe: RecipeOption = None, store: StoreOption = DEFAULT_STORE, project: ProjectOption = None) -> None:
    """Every move, oldest first."""
    with plain_failures():
        registry = _registry(store, project)
        table = titled_table("recipe", ">n", "when", "release", "move", "by", "why")
        moves = [m for name in ([recipe] if recipe else registry.recipes()) for m in registry.standing(name).moves]
        if not moves:
            typer.echo(f"no release{_of(registry)} of {registry.store.uri} was moved yet")
            return
        for m in moves:
            what = f"rollback of move {m.undoes}" if m.undoes is not None else f"to {m.to}"
            table.add_row(m.recipe, str(m.n), m.when[:19], m.release.removeprefix("releases/"), what, escape(m.who), escape(m.why))
        wide_console().print(table)


def _registry(store: str, project: str | None) -> ReleaseRegistry:
    where = settings(store or None, project)
    return ReleaseRegistry(ArtifactStore.open(where.store), where.project)


def _of(registry: ReleaseRegistry) -> str:
    return f" of project '{registry.project}'" if registry.project else ""


def _one(registry: ReleaseRegistry, recipe: str | None) -> str:
    names = registry.recipes()
    if recipe is None and len(names) != 1:
        raise ValueError(f"the store has moves{_of(registry)} of {len(names)} recipes ({', '.join(names) or 'none'}). Name one: --recipe.")
    return recipe or names[0]


def _stage(to: str) -> Stage:
    if to not in ("candidate", "staging", "production"):
        raise ValueError(f"no stage '{to}'. Valid: candidate, staging, production.")
    return to  # type: ignore[return-value]


def _gates(release: Manifest) -> str:
    return "gates passed" if release.summary.get("gates_passed") else "a gate was missed"


def _say(registry: ReleaseRegistry, move: Move) -> None:
    back = f", taking back move {move.undoes}" if move.undoes is not None else ""
    typer.echo(f"{move.release} is in {move.to} now{back} (move {move.n} of recipe {move.recipe}{_of(registry)}, by {move.who})")


def _whoami() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # no user of that number, e.g. in a container
        return f"@{socket.gethostname()}"
