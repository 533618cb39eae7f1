"""Which release is in use: candidate, staging, production, and every move between them, by whom, why and when.

    registry/<recipe>/000000.json, 000001.json, ...   a move each, made by a conditional put and never changed
    projects/<project>/registry/<recipe>/...          the same of a project
    projects/<project>/releases/<version>             a project's run made or found that release

Each recipe has a registry of its own, and one release in production at most. A release that nobody has moved is a candidate. What is where
follows from the moves alone: no object is ever written over, so a move is never lost, and of two people who promote at once one is first and
the other is told of it.

Releases are named by their content, so that two projects may have the same one; each moves it in its own registry, and knows of its own alone.
What no project has claimed belongs to the runs without a project, which claim (as '-') only where the store has projects.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.artifact_store import ArtifactStore
from infra.settings import checked_project
from infra.store.base import ObjectMissing
from infra.store.keys import checked_key
from pvtt_model.artifacts import Manifest

Stage = Literal["candidate", "staging", "production"]
Status = Literal["candidate", "kept back", "staging", "production", "former", "rolled back"]
ROOM, PROJECTS = "registry", "projects"
NO_PROJECT = "-"  # no project's name
MOST_TEXT = 4000  # characters of a reason
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Move(BaseModel):
    """One move, as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    recipe: str
    release: str = Field(description="releases/VERSION")
    to: Stage
    who: str
    why: str
    when: str = Field(description="UTC, ISO 8601")
    move_id: str = Field(description="random: tells our own move from another's with the same words")
    undoes: int | None = Field(default=None, description="of a rollback the number of the move into production that it takes back")
    evidence: tuple[str, ...] = Field(default=(), description="artifacts that the reason rests on, e.g. the two reports compared")


class ReleaseMoved(RuntimeError):
    """Another move came first: production is no longer what it was when this one was decided."""


class Standing:
    """What follows from the moves, in their order. production: of the releases that were in production one after the other, the last is now."""

    def __init__(self, moves: Sequence[Move]) -> None:
        self.moves = tuple(moves)
        self.status: dict[str, Status] = {}
        self._stack: list[Move] = []  # moves into production that were not taken back
        for move in moves:
            self._take(move)

    def _take(self, move: Move) -> None:
        if move.undoes is not None:
            self.status[self._stack.pop().release] = "rolled back"
            self.status[move.release] = "production"
        elif move.to == "production":
            if self._stack:
                self.status[self._stack[-1].release] = "former"
            self._stack.append(move)
            self.status[move.release] = "production"
        else:
            self.status[move.release] = "staging" if move.to == "staging" else "kept back"

    @property
    def production(self) -> str | None:
        return self._stack[-1].release if self._stack else None

    @property
    def into_production(self) -> Move | None:
        """The move that put the present production there."""
        return self._stack[-1] if self._stack else None

    @property
    def before(self) -> Move | None:
        """The move that put the production before it there; None where there is none to roll back to."""
        return self._stack[-2] if len(self._stack) > 1 else None

    def of(self, release: str) -> Status:
        return self.status.get(release, "candidate")

    def last_move(self, release: str) -> Move | None:
        """The last that concerns it: into a stage, or by which it was rolled back."""
        numbers = {move.n for move in self.moves if move.release == release}
        return next((move for move in reversed(self.moves) if move.release == release or move.undoes in numbers), None)


class ReleaseRegistry:
    """The moves of a project's releases, or of those without a project. Safe for any number of processes at once."""

    def __init__(self, artifacts: ArtifactStore, project: str | None = None) -> None:
        self.artifacts, self.store, self.project = artifacts, artifacts.store, project
        self.room = ROOM if project is None else f"{PROJECTS}/{checked_project(project)}/{ROOM}"

    def recipes(self) -> list[str]:
        """Those with a move."""
        return sorted({info.key.removeprefix(f"{self.room}/").split("/")[0] for info in self.store.list(f"{self.room}/")})

    def claim(self, release: str) -> None:
        """A run of the project is about to make `release` (releases/VERSION), or to find it made: it is one of its releases, once it is there."""
        owners = self._owners()
        if self.project is None and not owners:
            return
        made_without = release not in owners and self.artifacts.find(release) is not None  # and stays theirs too
        for claimant in (*([NO_PROJECT] if made_without else []), self.project or NO_PROJECT):
            self.store.put_if_absent(checked_key(f"{PROJECTS}/{claimant}/{release}"), b"{}")

    def releases(self, recipe: str | None = None) -> list[Manifest]:
        """What the project's runs made or found, and what was moved in its registry, oldest first."""
        return self._releases(recipe)[0]

    def _releases(self, recipe: str | None) -> tuple[list[Manifest], dict[str, Standing]]:
        """And by recipe what stands where: its moves are read once."""
        owners, standings, found = self._owners(), dict[str, Standing](), []
        for release in self.artifacts.manifests("releases"):
            name = _recipe_of(release)
            if recipe in (None, name):
                standings[name] = standing = standings.get(name) or self.standing(name)
                unclaimed = self.project is None and release.name not in owners
                if unclaimed or (self.project or NO_PROJECT) in owners.get(release.name, ()) or standing.last_move(release.name):
                    found.append(release)
        return found, standings

    def _owners(self) -> dict[str, set[str]]:
        """By release who claimed it."""
        owners: dict[str, set[str]] = {}
        for info in self.store.list(f"{PROJECTS}/"):
            claimant, _, release = info.key.removeprefix(f"{PROJECTS}/").partition("/")
            if release.startswith("releases/"):
                owners.setdefault(release, set()).add(claimant)
        return owners

    def standing(self, recipe: str) -> Standing:
        """Raises ValueError for a record that is missing or cannot be read: what it said is then not known."""
        prefix = checked_key(f"{self.room}/{recipe}")
        moves = []
        for n, info in enumerate(self.store.list(f"{prefix}/")):
            if info.key != self._key(recipe, n):
                raise ValueError(f"{info.key} in {self.store.uri} where {self._key(recipe, n)} is due: a record is lost. Restore it.")
            try:
                moves.append(Move.model_validate_json(self.store.get_bytes(info.key)))
            except (ValidationError, ObjectMissing) as error:
                raise ValueError(f"{info.key} in {self.store.uri} cannot be read ({str(error).splitlines()[0]}). Restore it.") from error
        return Standing(moves)

    def move(self, release: str, to: Stage, who: str, why: str, evidence: Sequence[str] = (), seen_moves: int | None = None) -> Move:
        """Record that `release` (releases/VERSION) goes to a stage.

        seen_moves: how many moves there were when it was decided (None: as many as now). Where production has changed since, a move into it is
        refused with ReleaseMoved; moves to other stages wait their turn. A release of another project becomes one of this one's too. Raises
        ArtifactMissing for a release that was never committed, ValueError for no reason, or one that is there already, or for taking what is in
        production out of it (roll back).
        """
        recipe = _recipe_of(self.artifacts.manifest(release))
        seen = Standing(self.standing(recipe).moves[:seen_moves])
        while True:
            now = self.standing(recipe)
            if to == "production":
                _unmoved(seen, now)
            if now.last_move(release) is not None and now.of(release) == ("kept back" if to == "candidate" else to):
                raise ValueError(f"{release} is {now.of(release)} already, by {_said(now.last_move(release))}. There is nothing to move.")
            if release == now.production:
                raise ValueError(f"{release} is in production. Promote another, or go back to the one before: pvtt releases rollback.")
            move = self._put(recipe, len(now.moves), release, to, who, why, None, evidence)
            if move is not None:
                return move

    def rollback(self, recipe: str, who: str, why: str) -> Move:
        """Put the production before the present one back. Raises ValueError where there is none, ReleaseMoved where production just changed."""
        seen = self.standing(recipe)
        while True:
            now = self.standing(recipe)
            _unmoved(seen, now)
            if now.into_production is None or now.before is None:
                there = f"{now.production} is the first in production" if now.production else "nothing is in production"
                raise ValueError(f"{there} of recipe '{recipe}': there is nothing before it to go back to. Promote another: pvtt releases promote.")
            move = self._put(recipe, len(now.moves), now.before.release, "production", who, why, now.into_production.n, ())
            if move is not None:
                return move

    def _put(self, recipe: str, n: int, release: str, to: Stage, who: str, why: str, undoes: int | None, evidence: Sequence[str]) -> Move | None:
        """The move, where it is the n-th; None where another is."""
        move = Move(
            n=n,
            recipe=recipe,
            release=release,
            to=to,
            who=_text("who", who),
            why=_text("why", why),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            move_id=uuid.uuid4().hex,
            undoes=undoes,
            evidence=tuple(evidence),
        )
        return move if self.store.put_if_absent(self._key(recipe, n), move.model_dump_json(indent=1).encode()) else None

    def _key(self, recipe: str, n: int) -> str:
        return f"{self.room}/{recipe}/{n:06d}.json"

    def in_use(self, recipe: str | None = None) -> Manifest | None:
        """The release to work with: the recipe's production, else its newest that was neither kept back nor rolled back, of those that passed their
        gates where there are any (a trial of 40 steps that was told to go on is not what others are made from); None where there is none.

        Without a recipe: the newest of what is in use of each.
        """
        releases, standings = self._releases(recipe)
        found = []
        for name in dict.fromkeys(_recipe_of(m) for m in releases):
            standing = standings[name]
            of_recipe = [m for m in releases if _recipe_of(m) == name]
            usable = [m for m in of_recipe if standing.of(m.name) not in ("kept back", "rolled back") and not _undecided(m, standing)]
            passed = [m for m in usable if m.summary.get("gates_passed")]
            found += [m for m in of_recipe if m.name == standing.production] or (passed or usable)[-1:]
        return max(found, key=lambda m: m.created, default=None)


def _undecided(release: Manifest, standing: Standing) -> bool:
    """Made by a re-training that was stopped before it said whether the release is worse than the one it came after."""
    return bool(release.summary.get("after")) and all(move.release != release.name for move in standing.moves)


def _unmoved(seen: Standing, now: Standing) -> None:
    if (seen.into_production and seen.into_production.move_id) != (now.into_production and now.into_production.move_id):
        was = seen.production or "nothing"
        raise ReleaseMoved(
            f"when this was decided {was} was in production; since then {_said(now.moves[-1])}. Nothing was moved: look again "
            "(pvtt releases history), and decide anew."
        )


def _said(move: Move | None) -> str:
    assert move is not None
    what = "was rolled back to" if move.undoes is not None else f"was put to {move.to}"
    return f"{move.release} {what} by {move.who} at {move.when}: {move.why}"


def _text(name: str, given: str) -> str:
    text = given.strip()
    if not text or len(text) > MOST_TEXT or _ODD.search(text):
        raise ValueError(f"'{name}' of a move is {text[:40]!r}; say it in 1 to {MOST_TEXT} characters, without control characters.")
    return text


def _recipe_of(release: Manifest) -> str:
    if release.kind != "releases":
        raise ValueError(f"{release.name} is no release. See them: pvtt releases.")
    return str(release.summary["recipe"])
