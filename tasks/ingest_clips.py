"""Clips: every line of the manifest checked and probed, the good ones packed, the others quarantined with their reason.

Where a folder is given and no manifest, one is drafted, and kept with the artifact for a person to read and correct.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from prefect import get_run_logger, task

from infra.artifact_store import ArtifactStore, Derived
from infra.python_gc import few_collections
from infra.settings import settings
from infra.uris import is_remote, localise
from pvtt_model.artifacts import REVISIONS, ArtifactRef, Manifest, Planned, digest
from pvtt_model.chain import clips_artifact
from pvtt_model.data.checked_line import CheckedLine
from pvtt_model.data.lines import Brief
from pvtt_model.data.manifest import ManifestScan
from pvtt_model.data.refusals import PASSING
from pvtt_model.data.source import read_source
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import map_units
from tasks.earlier_lines import LEAKED, REFUSALS, Earlier, decides, earlier_lines, judged_by, leaked_facts
from tasks.pieces import HASHES, Shard, pieces_of, read_ahead, read_piece, shards_of, whole_facts
from tasks.policy import POLICY, produce
from tasks.shard_work import Unit, ingest_chunk
from tasks.tables import TABLE, attach_json, read_json
from tasks.twins import LEAKS, find_twins, leaking
from tasks.ui import MOST_ROWS, show_markdown, table

Fact = dict[str, Any]
NANO = "nano"
DRAFT, PASSED_OVER, DUPLICATES = "draft.jsonl", "passed_over.json", "duplicates.json"


class AllClipsRefused(ValueError):
    """Not one line of the manifest can be used; the message is the table of reasons."""


@task(task_run_name="ingest clips of {clips}", description="Check, probe and pack the clips of a manifest", **POLICY)
def ingest_clips(clips: str, recipe: RecipeSpec, store: str, base: ArtifactRef | None = None) -> ArtifactRef:
    """The clips artifact of `clips`: a manifest, or a folder in a known layout (a path or s3:// uri), or 'nano', the procedural world.

    base: an earlier clips artifact, kept as it is; only lines whose video is not in it are added.
    """
    few_collections()
    source = _Source(clips, recipe, store)
    planned = clips_artifact(recipe, source.fingerprint(), base.name if base else None)
    return produce(planned, store, lambda s, p: _make(s, p, recipe, source, base), _show)


def new_lines(clips: str, recipe: RecipeSpec, base: Manifest, store: ArtifactStore) -> list[CheckedLine]:
    """The source's lines that `base` has not judged: neither accepted (by the video) nor refused after probing (by all that the line says)."""
    scan = _Source(clips, recipe, store.store.uri).scan()
    return [scan.lines[at] for at in _unjudged(scan, store, base, recipe)]


def _unjudged(scan: ManifestScan, store: ArtifactStore, base: Manifest, recipe: RecipeSpec) -> list[int]:
    """Which they are. A line that leaked is judged anew where the recipe's threshold is another: it was refused for what lies beside it."""
    same = base.spec["clips"].get("near_duplicate_bits", -1) == recipe.clips.near_duplicate_bits
    accepted = {fact.get("line_key", fact["clip_key"]) for fact in read_json(store, base)}
    refused = {r.get("content") for r in read_json(store, base, REFUSALS) if (same or r["kind"] != LEAKS) and r["kind"] not in PASSING}
    known = zip(scan.lines.brief, scan.contents, strict=True)
    return [at for at, (line, content) in enumerate(known) if line.clip_key not in accepted and content not in refused]


class _Source:
    """Where the lines come from. The world is rendered, and a manifest scanned, at most once."""

    def __init__(self, clips: str, recipe: RecipeSpec, store: str) -> None:
        self.clips, self.recipe, self.where = clips, recipe, settings(store)
        self._scan: ManifestScan | None = None

    def fingerprint(self) -> str:
        if self.clips == NANO:
            from pvtt_model.nano.fingerprint import world_fingerprint

            return world_fingerprint(self.recipe.world)
        return self.scan().fingerprint

    def scan(self) -> ManifestScan:
        if self._scan is None:
            manifest = self._world() if self.clips == NANO else localise(self.clips, self.where.cache / "inputs")
            uri = self.clips if is_remote(self.clips) else str(manifest.resolve())
            inputs = self.where.cache / "inputs"
            self._scan = read_source(
                manifest,
                uri,
                self.recipe.clips,
                lambda found: localise(found, inputs),
                self.where.home / "drafts",
                None if is_remote(uri) else self.where.cache / "scans",  # a listing of S3 has a place of its own each time
            )
            if self._scan.draft:
                get_run_logger().info("%s holds no manifest; one was drafted: %s (to correct it: pvtt clips draft)", self.clips, self._scan.draft)
        return self._scan

    def _world(self) -> Path:
        from pvtt_model.nano.fingerprint import world_fingerprint
        from pvtt_model.nano.world import write_world

        folder = self.where.home / "world" / world_fingerprint(self.recipe.world)
        done = folder / "manifest.jsonl"
        if not done.exists():
            world = self.recipe.world
            get_run_logger().info("rendering %d procedural clips into %s", world.num_clips + world.num_validation + world.num_eval, folder)
            write_world(world, folder)
        return done


def _make(store: ArtifactStore, planned: Planned, recipe: RecipeSpec, source: _Source, base: ArtifactRef | None) -> Manifest:
    from pvtt_model.data.ingest import split_products

    scan = source.scan()
    before = store.manifest(base) if base else None
    if before:
        _can_be_added_to(before, recipe)
    facts: list[Fact] = [dict(fact) for fact in read_json(store, before)] if before else []
    shards = shards_of(before) if before else []
    asked = _unjudged(scan, store, before, recipe) if before else range(len(scan.lines))
    lines = [scan.lines.brief[at] for at in asked]
    contents = {line.line: scan.contents[at] for at, line in zip(asked, lines, strict=True)}
    refusals = [r._asdict() for r in scan.refusals]
    here = set(contents.values())
    refusals += [r for r in read_json(store, before, REFUSALS) if "content" in r and r["content"] not in here] if before else []
    earlier = earlier_lines(store, recipe, here)
    known = cache(lambda: _listed_again(lines, contents, earlier, shards))
    new = [scan.lines[at] for at in asked if not earlier.knows(scan.contents[at])]
    size = recipe.clips.clips_per_shard
    units = [_unit(store, recipe, new[i : i + size], n) for n, i in enumerate(range(0, len(new), size))]

    def prepare(_: Sequence[Derived]) -> None:
        known()
        if recipe.clips.near_duplicate_bits is not None:
            read_ahead(store, [shard.pieces[1] for shard in shards])  # for `find_twins`

    records = map_units(store, ingest_chunk, units, kind="clips", what="probing clips", meanwhile=prepare)
    facts += known().facts
    refusals += known().refusals
    judged = {"judged_by": judged_by(recipe)}
    for record in records:
        its, refused = record.summary["clips"], record.summary["refusals"]
        facts += [fact | judged | {"shard": len(shards), "row": row, "content": contents[fact["line"]]} for row, fact in enumerate(its)]
        refusals += [r | judged | {"content": contents[r["line"]]} for r in refused]
        shards.append(Shard(record.files[0], record.files[1:]))
    if not facts and not refusals:
        raise AllClipsRefused(
            f"{source.clips} holds no clip. Put videos there (docs/run_on_your_clips.md), or name the folder or manifest that has them."
        )
    if not facts:
        refusals.sort(key=lambda r: r["line"])
        message = f"All {len(refusals)} clips of {source.clips} were refused.\n\n{table(refusals, ['line', 'kind', 'reason', 'source'])}"
        show_markdown("clips", message, "no clip can be used")
        raise AllClipsRefused(message)
    given = {f["product_id"]: f["split"] for f in facts if f["split"]} | (_splits_of(store, before) if before else {})
    held_out = split_products({f["product_id"] for f in facts}, recipe.clips.eval_share, given)
    for fact in facts:
        fact["held_out"] = fact["product_id"] in held_out
    files = [file for number, shard in enumerate(shards) for file in shard.files(number)]
    hashes = {number: shard.pieces[1] for number, shard in enumerate(shards)}
    known_twins = _known_twins(store, before, earlier.newest, recipe, facts)
    twins = find_twins(facts, recipe.clips.near_duplicate_bits, *known_twins, lambda number: read_piece(store, hashes[number]))
    leaks = leaking(facts, twins)
    leaked = [fact for fact in facts if fact["clip_key"] in leaks]
    if before:  # what leaked there is refused here too, by the refusals taken over
        leaked += [fact for fact in leaked_facts(store, before) if fact["content"] not in here]
    facts = [fact for fact in facts if fact["clip_key"] not in leaks]
    if not before:
        facts.sort(key=lambda f: (f["line"], f["start_s"] or 0.0))
    refusals = sorted(refusals + list(leaks.values()), key=lambda r: r["line"])
    if not facts:
        raise AllClipsRefused(table(refusals, ["line", "kind", "reason", "source"]))
    summary = {
        "source": source.clips if source.clips == NANO or is_remote(source.clips) else Path(source.clips).name,
        "accepted": len(facts),
        "refused": len(refusals),
        "refused_by_kind": dict(Counter(r["kind"] for r in refusals)),
        "products": len({f["product_id"] for f in facts}),
        "held_out": sum(f["held_out"] for f in facts),
        "validation": sum(f["split"] == "validation" for f in facts),
        "near_duplicates": len(twins),
    }
    files += [
        attach_json(store, planned, TABLE, facts),
        attach_json(store, planned, REFUSALS, refusals),
        attach_json(store, planned, DUPLICATES, twins),
        attach_json(store, planned, LEAKED, leaked),
    ]
    if scan.draft:
        summary["passed_over"] = len(scan.passed_over)
        files += [store.attach(planned, DRAFT, scan.draft), attach_json(store, planned, PASSED_OVER, scan.passed_over)]
    return store.commit(planned, files, summary)


def _splits_of(store: ArtifactStore, before: Manifest) -> dict[str, str]:
    """Of each product of the base the split that it keeps, whatever new lines or another eval_share say: what was trained on cannot be judged."""
    kept: dict[str, str] = {}
    for fact in read_json(store, before):
        split = "eval" if fact["held_out"] else "train"
        kept[fact["product_id"]] = "validation" if fact["held_out"] and fact["split"] == "validation" else kept.get(fact["product_id"], split)
    return kept


class _ListedAgain(NamedTuple):
    facts: list[Fact]
    refusals: list[Fact]


def _listed_again(lines: Sequence[Brief], contents: dict[int, str], earlier: Earlier, shards: list[Shard]) -> _ListedAgain:
    """Facts and refusals of the lines that an earlier version judged, those first that `earlier.newest` did; their shards are added to `shards`."""
    facts: list[tuple[str, Fact]] = []  # with their shards
    refusals: list[Fact] = []
    order: list[str] = [shard.sha256 for shard in earlier.newest.shards()] if earlier.newest else []
    place = {shard.sha256: i for i, shard in enumerate(shards)}
    for line in lines:
        content = contents[line.line]
        now = {"line": line.line, "source": line.source}
        refusals += [refusal | now for refusal in earlier.refusals.get(content, ())]
        facts += [(shard, {**fact, **now}) for shard, fact in earlier.facts.get(content, ())]
    first = set(order)
    facts.sort(key=lambda in_shard: in_shard[0] not in first)
    used = dict.fromkeys(shard for shard, _ in facts)
    for sha256 in dict.fromkeys([*order, *used]):
        if sha256 in used and sha256 not in place:
            place[sha256] = len(shards)
            shards.append(earlier.shards[sha256])
    for shard, fact in facts:
        fact["shard"] = place[shard]
    return _ListedAgain([fact for _, fact in facts], refusals)


def _known_twins(
    store: ArtifactStore, before: Manifest | None, newest: Manifest | None, recipe: RecipeSpec, facts: Sequence[Fact]
) -> tuple[list[Fact], int]:
    """The pairs of the base, else of the version whose facts stand first, and how many facts they cover; none where the threshold is another."""
    version = before or newest
    if version is None or version.spec["clips"].get("near_duplicate_bits", -1) != recipe.clips.near_duplicate_bits:
        return [], 0
    pairs, there = read_json(store, version, DUPLICATES), {f["clip_key"] for f in read_json(store, version)}
    if before:
        return pairs, len(there)
    there |= {f["clip_key"] for f in leaked_facts(store, version)}
    covered = next((i for i, fact in enumerate(facts) if fact["clip_key"] not in there), len(facts))
    source = {fact["clip_key"]: fact["source"] for fact in facts[:covered]}
    pairs = [p for p in pairs if p["clip_key"] in source and p["twin"] in source]
    return [p | {"source": source[p["clip_key"]], "twin_source": source[p["twin"]]} for p in pairs], covered


def _can_be_added_to(before: Manifest, recipe: RecipeSpec) -> None:
    """The frames that the model sees were chosen when a clip was taken in. Raises ValueError where the recipe wants others, or for older code's."""
    if not pieces_of(before, HASHES):
        raise ValueError(f"{before.name} was made before tables lay in pieces. Ingest all clips anew (no base).")
    was, now = before.spec["video"], recipe.latents.video
    if was.get("fps") != now.fps or was["num_frames"] != now.num_frames:
        said = f"{was['num_frames']} frames at fps {was.get('fps')}; the recipe wants {now.num_frames} at {now.fps}"
        raise ValueError(f"{before.name} was ingested for {said}. Ingest all clips anew (no base), or set latents.video as it was.")


def _unit(store: ArtifactStore, recipe: RecipeSpec, lines: list[CheckedLine], index: int) -> Unit:
    """A chunk of lines; its key holds what decides its rows (`inspect`) and no more, so that another threshold of twins probes nothing again."""
    contents = [[line.line, line.source, *line.said()] for line in lines]
    key = digest("clips", decides(recipe), contents, REVISIONS["clips"])
    return Unit(store.store.uri, "clips", key, index, recipe, lines=tuple(lines))


def _show(store: ArtifactStore, manifest: Manifest) -> None:
    facts, refusals, said = read_json(store, manifest), read_json(store, manifest, REFUSALS), manifest.summary
    columns = ["clip_key", "product_id", "split", "held_out", "width", "height", "fps", "num_frames", "start_s", "prompt", "source"]
    first = table(whole_facts(store, manifest, facts[:MOST_ROWS]), columns, len(facts))
    text = (
        f"## {said['accepted']} clips accepted, {said['refused']} refused\n\n"
        f"{said['products']} products; {said['held_out']} clips held out of training, {said['validation']} of them for validation.\n\n"
        f"### Refused\n\n{table(refusals, ['line', 'kind', 'reason', 'source'])}\n\n### Accepted\n\n{first}"
    )
    twins = read_json(store, manifest, DUPLICATES)
    if twins:
        text += f"\n\n### Near-duplicates\n\n{table(twins, ['bits', 'exact', 'source', 'twin_source'])}"
    if said.get("passed_over"):
        left = [{"file": file, "why": why} for file, why in read_json(store, manifest, PASSED_OVER)]
        text += f"\n\n### In no line of the drafted manifest\n\n{table(left, ['file', 'why'])}"
    show_markdown("clips", text, f"clips {manifest.version}")
