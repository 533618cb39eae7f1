"""`pvtt doctor`: will it run here? Every check before anything is made; the same run before each training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.plan import plain_failures
from infra.probes import without_secrets
from infra.settings import Settings, settings
from infra.uris import is_remote, localise
from pvtt_model.overrides import parse_override
from pvtt_model.preflight.check import Check, failures, warnings
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import ParallelSpec, RecipeSpec

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def doctor(
    recipe: Annotated[str | None, typer.Option("--recipe", help="What is to run; without, the machine, the store and the software alone.")] = None,
    clips: Annotated[str | None, typer.Option("--clips", help="Manifest or folder of clips to look into, local or s3://.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A field by dotted path: --set stages.verify.train.steps=5")] = None,
    store: Annotated[str | None, typer.Option("--store", help="A folder or s3://bucket/prefix. PVTT_STORE, or .pvtt/store.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Clips that are looked into, spread over the source.")] = 12,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 for warnings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Check GPU, weights, disk, store, memory, settings, software and clips. Exit status 0: all well; 1: a check failed; 2: wrong arguments."""
    with plain_failures():
        if overrides and recipe is None:
            raise ValueError("--set changes a recipe, and none was named. Add --recipe.")
        where = settings(store)
        chosen = recipe_by_name(recipe, dict(parse_override(text) for text in overrides or [])) if recipe else None
        if clips is not None and chosen is None:
            raise ValueError("--clips are looked into with a recipe's frames and sizes. Add --recipe.")
        found = list(_checks(chosen, clips, where, sample))
    failed, warned = failures(found), warnings(found)
    verdict = f"{len(found)} checks: {len(failed)} failed, {len(warned)} warnings"
    if as_json:
        typer.echo(json.dumps({"checks": [asdict(c) for c in found], "failed": len(failed), "warnings": len(warned)}, indent=1))
    else:
        _show(found)
        typer.echo(verdict)
    raise typer.Exit(1 if failed or (strict and warned) else 0)


def _checks(recipe: RecipeSpec | None, clips: str | None, where: Settings, sample: int) -> Iterator[Check]:
    from pvtt_model.preflight.software import software_checks
    from tasks.preflight import services_checks, store_check

    yield from software_checks()
    yield store_check(where.store)
    yield from services_checks(where)
    yield from _machine(recipe, where)
    if recipe is not None:
        yield from _weights_and_disk(recipe, where)
        yield from _stages(recipe, where)
        if clips is not None and clips != "nano":
            yield from _clips(clips, recipe, where, sample)


def _machine(recipe: RecipeSpec | None, where: Settings) -> Iterator[Check]:
    """The device and the processor, once for each way in which the stages use them."""
    import torch

    from pvtt_model.preflight.device import gpus_check
    from pvtt_model.preflight.stage import device_checks
    from tasks.preflight import processor_checks

    here = ParallelSpec(accelerator="gpu" if torch.cuda.is_available() else "cpu", num_workers=1, precision="float32")
    wanted = list({(s.parallel.accelerator, s.parallel.precision): s.parallel for s in recipe.stages}.values()) if recipe else [here]
    seen = set()
    for parallel in wanted:
        if where.ray_address:
            what = f"a {parallel.accelerator} for {parallel.precision}"
            yield Check("device", "skipped", what, "on the cluster: each worker looks before it trains")
            continue
        for check in [*device_checks(parallel), *processor_checks(parallel, where)]:
            if check not in seen:
                seen.add(check)
                yield check
    workers = max((p.num_workers for p in (s.parallel for s in recipe.stages) if p.accelerator == "gpu"), default=0) if recipe else 0
    if workers and torch.cuda.is_available() and not where.ray_address:
        yield gpus_check(torch.cuda.device_count(), workers)


def _weights_and_disk(recipe: RecipeSpec, where: Settings) -> Iterator[Check]:
    """Every model once, with the settings that name it; then the disks, by what the plan says is written."""
    from pvtt_model.plan import data_bytes
    from pvtt_model.preflight.disk import Wanted, disk_checks
    from pvtt_model.preflight.stage import checkpoints_wanted
    from pvtt_model.preflight.weights import files_checks, settings_by_model
    from tasks.preflight import store_folder, weights_found

    fetch = 0
    for spec, paths in settings_by_model(recipe).items():
        looked = weights_found(paths, spec, where)
        fetch += looked.bytes
        if looked.check is not None:
            yield looked.check
        if looked.folder is not None:
            yield from files_checks(f"weights {paths[0]}", spec, looked.folder, with_hash=True)
    pairs = max(stage.data.min_pairs for stage in recipe.stages)
    folder = store_folder(where)
    wanted = [Wanted(where.cache, fetch, "weights")]
    if folder is not None:
        there = any((folder / "latents").glob("*/manifest.json"))
        wanted.append(Wanted(folder, pairs * data_bytes(recipe).total, f"{pairs:,} curated pairs", maybe_there=there))
    for stage in recipe.stages:
        wanted += checkpoints_wanted(recipe, stage, where.scratch, folder)
    yield from disk_checks(wanted)


def _stages(recipe: RecipeSpec, where: Settings) -> Iterator[Check]:
    """Settings and memory of each stage; of a GPU that is not here what the recipe says it has."""
    import torch

    from pvtt_model.preflight.device import free_gpu_bytes
    from pvtt_model.preflight.memory import GIB, Room, memory_check
    from pvtt_model.preflight.sharding import network_checks, sharding_checks
    from pvtt_model.preflight.software import versions_known
    from tasks.preflight import host_bytes

    for stage in recipe.stages:
        yield from sharding_checks(stage, versions_known())
        gpu, of_gpu = None, "free"
        if stage.parallel.accelerator == "gpu":
            here = torch.cuda.is_available() and not where.ray_address
            gpu = free_gpu_bytes(0) if here else int(stage.parallel.gpu_memory_gib * GIB)
            of_gpu = "free" if here else "by the recipe (parallel.gpu_memory_gib): no GPU is seen from here"
        yield from memory_check(recipe, stage, Room(gpu, host_bytes(where), stage.parallel.num_workers), of_gpu)
    yield from network_checks(recipe.stages[0])


def _clips(clips: str, recipe: RecipeSpec, where: Settings, sample: int) -> Iterator[Check]:
    """Some lines of the source, spread over it, looked into as ingest does."""
    from pvtt_model.data.layouts import MANIFEST, draft, layout_of
    from pvtt_model.data.manifest import read_manifest
    from pvtt_model.preflight.clips import clips_checks, spread

    inputs = where.cache / "inputs"
    uri = clips if is_remote(clips) else str(Path(clips).resolve())
    try:
        place = localise(uri, inputs)
        if layout_of(place) == "manifest":
            manifest = place if place.is_file() else place / MANIFEST
            named = uri if place.is_file() else f"{uri.rstrip('/')}/{MANIFEST}"
            text, root = manifest.read_bytes(), None if is_remote(uri) else manifest.parent
        else:
            found = draft(place)
            root = place if place.is_dir() else place.parent
            text, named = found.text().encode(), str(root.resolve() / "draft.jsonl")
    except (ValueError, OSError) as error:
        yield Check("clips", "fail", f"the clips {without_secrets(clips)}", f"{type(error).__name__}: {error}", "Correct --clips.")
        return
    raws = text.split(b"\n")
    lines = [i for i, raw in enumerate(raws) if raw.strip()]
    keep = {lines[j] for j in spread(len(lines), sample)}
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "some.jsonl"
        # A line left out stays as an empty one: those looked at keep their numbers.
        some.write_bytes(b"\n".join(raw if i in keep else b"" for i, raw in enumerate(raws)))
        scan = read_manifest(some, named, recipe.clips, lambda u: localise(u, inputs), root=root)
        yield from clips_checks(scan.lines, scan.refusals, len(lines), recipe)


def _show(found: list[Check]) -> None:
    table = Table()
    for title in ("check", "", "what", "got", "cure"):
        table.add_column(title, overflow="fold")
    for c in found:
        colour = COLOURS[c.status]
        table.add_row(escape(c.name), f"[{colour}]{c.status}[/{colour}]", escape(c.what), escape(c.got), escape(c.cure))
    console = Console()
    (console if console.is_terminal else Console(width=220)).print(table)
