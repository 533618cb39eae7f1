"""Lines of a source that an earlier version of the clips has judged already: their rows are listed again, and nothing of them is probed.

A line is known by all that it says and by its files' hashes, not by where it stands. So a clip added, removed or put elsewhere in the
source costs itself alone, and no shard is rewritten: a removed clip's row stays in its shard, where no table names it any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, SPLIT_REVISION, Manifest, StoredFile
from pvtt_model.specs import RecipeSpec
from tasks.clip_table import read_json
from tasks.twins import LEAKS

Fact = dict[str, Any]
REFUSALS, LEAKED = "refusals.json", "leaked.json"
MOST_VERSIONS = 4  # looked through, newest first
LEAST_USED = 0.5  # share of a shard's rows: below it the shard is left behind, and its lines are probed anew


class Earlier(NamedTuple):
    """By a line's content: its facts, whose 'shard' is here the shard's SHA-256; or the refusals of its shots and of itself."""

    facts: dict[str, list[Fact]]
    refusals: dict[str, list[Fact]]
    shards: dict[str, StoredFile]
    newest: Manifest | None  # of the versions used, the first that was looked through

    def knows(self, content: str) -> bool:
        return content in self.facts or content in self.refusals


def earlier_lines(store: ArtifactStore, recipe: RecipeSpec, wanted: Collection[str]) -> Earlier:
    """What finished versions of the same settings say of the lines of these contents."""
    left = set(wanted)
    found = Earlier({}, {}, {}, None)
    for version in [m for m in reversed(store.manifests("clips")) if _same(m, recipe)][:MOST_VERSIONS] if left else []:
        facts, refusals, complete = _said(store, version, left)
        shards = {shard.sha256: shard for shard in version.shards()}
        kept = _worth_keeping(facts, {sha256: shard.rows or 0 for sha256, shard in shards.items()})
        taken = (kept.keys() | (refusals.keys() - facts.keys())) & complete
        found.facts.update({content: kept[content] for content in kept.keys() & taken})
        found.refusals.update({content: refusals[content] for content in refusals.keys() & taken})
        found.shards.update({fact["shard"]: shards[fact["shard"]] for content in kept.keys() & taken for fact in kept[content]})
        if taken and found.newest is None:
            found = found._replace(newest=version)
        left -= taken
        if not left:
            break
    return found


def _said(store: ArtifactStore, version: Manifest, wanted: Collection[str]) -> tuple[dict[str, list[Fact]], dict[str, list[Fact]], set[str]]:
    """The version's facts and its refusals after probing, by content, and of which contents that is all it found.

    A clip that leaked was taken from the table for what lay beside it; its facts are in a file of their own since there is one.
    """
    facts: dict[str, list[Fact]] = {}
    refusals: dict[str, list[Fact]] = {}
    shards, leaked = version.shards(), LEAKED in {file.name for file in version.files}
    for fact in read_json(store, version) + leaked_facts(store, version):
        if fact.get("content") in wanted:
            facts.setdefault(fact["content"], []).append(fact | {"shard": shards[fact["shard"]].sha256})
    left_out = set()
    for refusal in read_json(store, version, REFUSALS):
        if refusal.get("content") in wanted and refusal["kind"] == LEAKS:
            left_out.add(refusal["content"])
        elif refusal.get("content") in wanted:
            refusals.setdefault(refusal["content"], []).append(refusal)
    return facts, refusals, facts.keys() | refusals.keys() if leaked else (facts.keys() | refusals.keys()) - left_out


def leaked_facts(store: ArtifactStore, version: Manifest) -> list[Fact]:
    """Of the clips that were probed, and refused for a held-out twin; [] of a version from before they were kept."""
    return read_json(store, version, LEAKED) if LEAKED in {file.name for file in version.files} else []


def decides(recipe: RecipeSpec) -> list[Any]:
    """The settings that a line's rows hang on."""
    clips, video = recipe.clips, recipe.latents.video
    split = [SPLIT_REVISION] if clips.shots == "split" else []
    return [*split, clips.min_side_px, clips.shots, clips.shot_threshold, clips.decode_timeout_s, video.num_frames, video.fps]


def _same(version: Manifest, recipe: RecipeSpec) -> bool:
    clips, video = version.spec["clips"], version.spec["video"]
    said = [version.spec["split"]] if "split" in version.spec else []
    said += [clips.get(name) for name in ("min_side_px", "shots", "shot_threshold", "decode_timeout_s")] + [video["num_frames"], video.get("fps")]
    return version.revision == REVISIONS["clips"] and said == decides(recipe)


def _worth_keeping(facts: dict[str, list[Fact]], rows: dict[str, int]) -> dict[str, list[Fact]]:
    """Without the lines that have a row in a shard of which too little is used."""
    used = Counter(fact["shard"] for its in facts.values() for fact in its)
    return {content: its for content, its in facts.items() if all(used[f["shard"]] >= LEAST_USED * rows[f["shard"]] for f in its)}
