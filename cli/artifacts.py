"""`pvtt artifacts`: what is in a store, what it was made from, whether it is intact, what may go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from infra.artifact_store import ArtifactMissing, ArtifactStore
from infra.audit import Lineage
from infra.release_registry import ReleaseMoved
from infra.settings import settings
from infra.store import ObjectMissing, StoreRefused
from pvtt_model.artifacts import Kind, Manifest

app = typer.Typer(help="Look at artifacts: ls, show, get, verify, lineage, gc.", no_args_is_help=True)

StoreOption = Annotated[str, typer.Option("--store", envvar="PVTT_STORE", help="A path, file:///path or s3://bucket/prefix.")]
DEFAULT_STORE = ""  # the checkout's .pvtt/store, looked up when a command runs
ProjectOption = Annotated[str | None, typer.Option("--project", help="of several that share a store; default PVTT_PROJECT, else none")]


@app.command("ls")
def ls(kind: Annotated[str | None, typer.Argument(help="Only this kind.")] = None, store: StoreOption = DEFAULT_STORE) -> None:
    """List what is done, oldest first."""
    with plain_failures():
        artifacts = ArtifactStore.open(settings(store or None).store)
        manifests = artifacts.manifests(_kind(kind))
        if not manifests:
            wide_console().print(f"no {kind or 'artifacts'} in {escape(artifacts.store.uri)}", highlight=False)
            return
        table = titled_table("kind", "version", "created", ">files", ">size", "summary")
        for m in manifests:
            size = human_bytes(sum(f.bytes for f in m.files))
            table.add_row(m.kind, m.version, m.created[:19], str(len(m.files)), size, escape(_hint(m.summary)))
        wide_console().print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="kind/version or a version; a unique beginning of the version is enough.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as it is stored.")] = False,
) -> None:
    """Show one artifact: spec, inputs, code, libraries, files."""
    with plain_failures():
        artifacts = ArtifactStore.open(settings(store or None).store)
        m = artifacts.manifest(resolve_name(artifacts, name))
    if as_json:
        typer.echo(m.model_dump_json(indent=1))
        return
    facts = Table(show_header=False, box=None)
    for label, value in (
        ("name", m.name),
        ("created", m.created),
        ("commit id", m.commit_id),
        ("revision", str(m.revision)),
        ("inputs", "\n".join(m.inputs) or "-"),
        ("code", json.dumps(m.code)),
        ("libraries", " ".join(f"{k} {v}" for k, v in m.libraries.items())),
        ("spec", json.dumps(m.spec, indent=1)),
        ("summary", json.dumps(m.summary, indent=1)),
    ):
        facts.add_row(label, escape(value))
    wide_console().print(facts)
    table = titled_table("file", ">bytes", ">rows", "sha256", "key")
    for f in m.files:
        table.add_row(escape(f.name), str(f.bytes), "" if f.rows is None else str(f.rows), f.sha256[:12], escape(f.key))
    wide_console().print(table)


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="As for show.")],
    out: Annotated[Path, typer.Option(help="A folder; made where missing.")],
    match: Annotated[str, typer.Option(help="Only files whose name matches, e.g. '*.mp4'.")] = "*",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy an artifact's files out of the store under their names, hash checked."""
    with plain_failures():
        artifacts = ArtifactStore.open(settings(store or None).store)
        m = artifacts.manifest(resolve_name(artifacts, name))
        chosen = [f for f in m.files if fnmatchcase(f.name, match)]
        if not chosen:
            raise ValueError(f"no file of {m.name} matches '{match}'. It has {[f.name for f in m.files]}.")
        for f in chosen:
            target = out / f.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifacts.local_path(f), target)
            typer.echo(str(target))


@app.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names, or beginnings of them; all where none is given.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Hash every file in the store again. Exit status 1 where anything is wrong."""
    with plain_failures():
        artifacts = ArtifactStore.open(settings(store or None).store)
        report = artifacts.verify([resolve_name(artifacts, n) for n in names] if names else None)
    if report.problems:
        table = titled_table("artifact", "file", "what", "detail")
        for p in report.problems:
            table.add_row(escape(p.artifact), escape(p.file), p.what, escape(p.detail))
        wide_console().print(table)
    verdict = "all intact" if report.ok else f"{len(report.problems)} wrong"
    typer.echo(f"{report.artifacts} artifacts, {report.files} files, {human_bytes(report.bytes)} hashed: {verdict}")
    raise typer.Exit(0 if report.ok else 1)


@app.command("lineage")
def lineage(name: Annotated[str, typer.Argument(help="As for show.")], store: StoreOption = DEFAULT_STORE) -> None:
    """Show what an artifact was made from, down to the clips."""
    with plain_failures():
        artifacts = ArtifactStore.open(settings(store or None).store)
        root = artifacts.lineage(resolve_name(artifacts, name))
    seen: set[str] = set()
    tree = Tree(_node(root, seen))
    _grow(tree, root, seen)
    wide_console().print(tree)


@app.command("gc")
def gc(
    grace_h: Annotated[float, typer.Option("--grace-h", min=0.0, help="Leave what is younger, in hours.")] = 24.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without, only list it.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """List what no manifest reaches; delete it only with --delete."""
    with plain_failures():
        artifacts = ArtifactStore.open(settings(store or None).store)
        plan = artifacts.gc(grace_h * 3600)
        if plan:
            table = titled_table("key", ">size", ">age h", "reason")
            for g in plan:
                table.add_row(escape(g.key), human_bytes(g.bytes), f"{g.age_s / 3600:.1f}", g.reason)
            wide_console().print(table)
        typer.echo(f"{len(plan)} objects, {human_bytes(sum(g.bytes for g in plan))}, in no manifest and older than {grace_h:g} h")
        if delete and plan:
            gone = artifacts.gc(grace_h * 3600, delete=True, only=plan)
            typer.echo(f"deleted {len(gone)} objects, {human_bytes(sum(g.bytes for g in gone))}")
        elif plan:
            typer.echo("nothing was deleted; --delete deletes them")


def resolve_name(artifacts: ArtifactStore, name: str) -> str:
    """The one artifact that `name` begins: 'kind/beginning' or 'beginning'. Raises ArtifactMissing for none, ValueError listing several."""
    kind, slash, start = name.rpartition("/")
    found = [n for n in artifacts.names(_kind(kind) if slash else None) if n.partition("/")[2].startswith(start)]
    exact = [n for n in found if n.partition("/")[2] == start]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise ArtifactMissing(f"no finished artifact in {artifacts.store.uri} begins with '{name}'. See them all: pvtt artifacts ls")
    raise ValueError(f"'{name}' begins {len(found)} artifacts; give more of it: {', '.join(found)}")


def human_bytes(count: float) -> str:
    """A count of bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _kind(kind: str | None) -> Any:
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"no kind '{kind}'. Kinds: {', '.join(get_args(Kind))}.")
    return kind


def _hint(summary: dict[str, Any]) -> str:
    """The first few plain facts of a summary."""
    facts = []
    for key, value in summary.items():
        if isinstance(value, float):
            facts.append(f"{key} {value:.4g}")
        elif isinstance(value, (str, int, bool)):
            facts.append(f"{key} {str(value)[:40]}")
    return ", ".join(facts[:4])


def _node(node: Lineage, seen: set[str]) -> str:
    m: Manifest | None = node.manifest
    if m is None:
        return f"{escape(node.name)}  [red]not in this store[/red]"
    if node.name in seen:
        return f"{escape(node.name)}  [dim](as above)[/dim]"
    return f"{escape(node.name)}  [dim]{m.created[:19]}  {escape(_hint(m.summary))}[/dim]"


def _grow(tree: Tree, node: Lineage, seen: set[str]) -> None:
    if node.name in seen:
        return
    seen.add(node.name)
    for child in node.inputs:
        _grow(tree.add(_node(child, seen)), child, seen)


def titled_table(*columns: str) -> Table:
    """Columns by title; '>' in front puts it to the right."""
    table = Table()
    for title in columns:
        table.add_column(title.removeprefix(">"), justify="right" if title.startswith(">") else "left", overflow="fold")
    return table


def wide_console() -> Console:
    """Wide enough for whole names where the output goes to a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=220)


@contextmanager
def plain_failures() -> Iterator[None]:
    """What went wrong as one line on stderr and exit status 1, not a traceback."""
    try:
        yield
    except (ArtifactMissing, ObjectMissing, ReleaseMoved, StoreRefused, ValueError, OSError) as error:
        typer.echo(f"error: {error.args[0] if isinstance(error, KeyError) else error}", err=True)
        raise typer.Exit(1) from None
