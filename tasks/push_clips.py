"""Clips put below a prefix, for re-training to find: checked as at ingest, each file once, every line accounted for. No Prefect in here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from infra.settings import settings
from infra.store import ObjectStore, open_store
from infra.uris import is_remote, localise
from pvtt_model.data.layouts import MANIFEST
from pvtt_model.data.pushed import LINES, lines_key, pushed_line, video_of
from pvtt_model.data.source import read_source
from pvtt_model.specs import ClipSpec

AT_ONCE = 8  # uploads


class Pushed(NamedTuple):
    """What a push did."""

    uri: str  # of the prefix, as --clips takes it
    new: int
    known: int  # lines that were there
    refused: tuple[tuple[int, str, str], ...]  # line, kind, reason
    files: int  # sent
    bytes: int


def push_clips(source: str, target: str, allow_outside_root: bool = False) -> Pushed:
    """The clips of `source` (a manifest, or a folder in a known layout; a path or s3://) below `target` (a folder or s3://bucket/prefix).

    May be cut off and run again, and run by several at once: files go first, by content, and lines last, in a numbered file made by a
    conditional put. A clip that is there with other words is refused: a pushed line is never written over. Raises ValueError where
    the target holds a manifest.jsonl of its own, and as `read_source` and `open_store` do.
    """
    here = settings()
    inputs = here.cache / "inputs"
    place = localise(source, inputs)
    uri = source if is_remote(source) else str(place.resolve())
    spec = ClipSpec(allow_outside_root=allow_outside_root)
    memories = None if is_remote(uri) else here.cache / "scans"
    scan = read_source(place, uri, spec, lambda found: localise(found, inputs), here.home / "drafts", memories)
    store = open_store(target)
    if store.exists(MANIFEST):
        raise ValueError(f"{store.uri} holds a {MANIFEST}, which would count and hide what is pushed beside it. Push to a prefix of its own.")
    lines = [pushed_line(scan.lines[i]) for i in range(len(scan.lines))]
    refused = [(r.line, r.kind, r.reason) for r in scan.refusals]
    sent = files = 0
    while True:
        number, texts = _there(store)
        there, videos = set(texts), {video_of(text) for text in texts}
        fresh = [line for line in lines if line.text not in there and line.video() not in videos]
        wanted = {key: path for line in fresh for key, path in line.files.items()}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = list(pool.map(lambda item: _put(store, *item), wanted.items()))
        sent, files = sent + sum(done), files + sum(n > 0 for n in done)
        if not fresh or store.put_if_absent(lines_key(number), "".join(f"{line.text}\n" for line in fresh).encode()):
            break  # else another push has just put its lines there: look again
    other = [brief for brief, line in zip(scan.lines.brief, lines, strict=True) if line.text not in there and line.video() in videos]
    refused += [(b.line, "differs", f"{b.source} is there with other words, pictures or masks. Push it to another prefix.") for b in other]
    return Pushed(store.uri, len(fresh), sum(line.text in there for line in lines), tuple(sorted(refused)), files, sent)


def _there(store: ObjectStore) -> tuple[int, list[str]]:
    """How many files of lines there are, and the lines pushed before."""
    keys = [info.key for info in store.list(f"{LINES}/")]
    return len(keys), [text for key in keys for text in store.get_bytes(key).decode().splitlines()]


def _put(store: ObjectStore, key: str, path: str) -> int:
    """The bytes sent: none where the file is there, of its size."""
    size = Path(path).stat().st_size
    found = store.stat(key)
    if found is not None and found.bytes == size:
        return 0
    store.put_file(key, path)
    return size
