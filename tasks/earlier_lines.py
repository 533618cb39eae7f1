"""Lines of a source that an earlier version of the clips has judged already: their rows are listed again, and nothing of them is probed.

A line is known by all that it says and by its files' hashes, not by where it stands. So a clip added, removed or put elsewhere in the
source costs itself alone, and no shard is rewritten: a removed clip's row stays in its shard, where no table names it any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

from infra.artifact_store import ArtifactStore
from pvtt_model.artifacts import REVISIONS, SPLIT_REVISION, Manifest, digest
from pvtt_model.data.refusals import PASSING
from pvtt_model.specs import RecipeSpec
from tasks.pieces import Shard, shards_of
from tasks.tables import TABLE, read_json
from tasks.twins import LEAKS

Fact = dict[str, Any]
InShard = tuple[str, Fact]
REFUSALS, LEAKED = "refusals.json", "leaked.json"
MOST_VERSIONS = 4  # looked through, newest first
FEW = 50  # lines asked for
LEAST_USED = 0.5  # share of a shard's rows: below it the shard is left behind, and its lines are probed anew


class Earlier(NamedTuple):
    """By a line's content: its facts, each with its shard's SHA-256, and not to be changed; or the refusals of its shots and of itself."""

    facts: dict[str, list[InShard]]
    refusals: dict[str, list[Fact]]
    shards: dict[str, Shard]
    newest: Manifest | None  # of the versions used, the first that was looked through

    def knows(self, content: str) -> bool:
        return content in self.facts or content in self.refusals


def earlier_lines(store: ArtifactStore, recipe: RecipeSpec, wanted: Collection[str]) -> Earlier:
    """What finished versions of the same settings say of the lines of these contents."""
    left = set(wanted)
    found = Earlier({}, {}, {}, None)
    for i, version in enumerate(store.newest("clips", MOST_VERSIONS) if left else []):
        if i and not _may_name(store, version, left):  # the newest is read by the steps that follow as well
            continue
        facts, refusals, complete = _said(store, version, left, judged_by(recipe), keep=i == 0)
        shards = {its.sha256: its for its in shards_of(version)}
        used = {sha256 for its in facts.values() for sha256, _ in its}
        files = {sha256: (shards[sha256].shard, *shards[sha256].pieces) for sha256 in used}
        gone = set(store.missing([file for its in files.values() for file in its]))
        there = [sha256 for sha256, its in files.items() if gone.isdisjoint(its)]
        kept = _worth_keeping(facts, {sha256: shards[sha256].shard.rows or 0 for sha256 in there})
        taken = (kept.keys() | (refusals.keys() - facts.keys())) & complete
        found.facts.update({content: kept[content] for content in kept.keys() & taken})
        found.refusals.update({content: refusals[content] for content in refusals.keys() & taken})
        found.shards.update({shard: shards[shard] for content in kept.keys() & taken for shard, _ in kept[content]})
        if taken and found.newest is None:
            found = found._replace(newest=version)
        left -= taken
        if not left:
            break
    return found


def _may_name(store: ArtifactStore, version: Manifest, contents: Collection[str]) -> bool:
    """Whether a table of the version holds one of these contents: of a few, they are looked for in the files as they lie, and none is parsed."""
    if len(contents) > FEW:
        return True
    files = [store.local_path(file).read_bytes() for file in version.files if file.name in (TABLE, REFUSALS, LEAKED)]
    return any(content.encode() in file for content in contents for file in files)


def _said(
    store: ArtifactStore, version: Manifest, wanted: Collection[str], judged: str, keep: bool
) -> tuple[dict[str, list[InShard]], dict[str, list[Fact]], set[str]]:
    """The version's facts and its refusals after probing, by content, and of which contents that is all it found.

    Only what was judged by the same settings: a version with a base also holds what its base judged. A clip that leaked was taken from the table
    for what lay beside it; its facts are in a file of their own. What a refusal says that may pass is asked again.
    """
    facts: dict[str, list[InShard]] = {}
    refusals: dict[str, list[Fact]] = {}
    shards = version.shards()
    for fact in read_json(store, version, keep=keep) + leaked_facts(store, version):
        if fact.get("content") in wanted and fact.get("judged_by") == judged:
            facts.setdefault(fact["content"], []).append((shards[fact["shard"]].sha256, fact))
    left_out = set()
    for refusal in read_json(store, version, REFUSALS):
        content = refusal.get("content")
        if content not in wanted or refusal["kind"] == LEAKS:
            continue
        if refusal["kind"] in PASSING or refusal.get("judged_by") != judged:
            left_out.add(content)
        else:
            refusals.setdefault(content, []).append(refusal)
    return facts, refusals, (facts.keys() | refusals.keys()) - left_out


def leaked_facts(store: ArtifactStore, version: Manifest) -> list[Fact]:
    """Of the clips that were probed, and refused for a held-out twin; [] of a version from before they were kept."""
    return read_json(store, version, LEAKED) if LEAKED in {file.name for file in version.files} else []


def judged_by(recipe: RecipeSpec) -> str:
    """Stands in each fact and refusal, so that it is taken over under the same settings and revision alone."""
    return digest("judged", decides(recipe), REVISIONS["clips"])


def decides(recipe: RecipeSpec) -> list[Any]:
    """The settings that a line's rows hang on."""
    clips, video = recipe.clips, recipe.latents.video
    split = [SPLIT_REVISION] if clips.shots == "split" else []
    return [*split, clips.min_side_px, clips.shots, clips.shot_threshold, clips.decode_timeout_s, video.num_frames, video.fps]


def _worth_keeping(facts: dict[str, list[InShard]], rows: dict[str, int]) -> dict[str, list[InShard]]:
    """Without the lines that have a row in a shard of which too little is used, or which the store has lost. rows: of those it has."""
    used = Counter(shard for its in facts.values() for shard, _ in its)
    kept = {shard for shard, count in used.items() if shard in rows and count >= LEAST_USED * rows[shard]}
    return {content: its for content, its in facts.items() if all(shard in kept for shard, _ in its)}
