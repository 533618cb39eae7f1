"""What the last scan of a manifest found, so that the next one hashes only files that are new or were touched.

A line is taken from memory where its text is the same and every file and folder it names has the inode, size, modification and change
time with which it was hashed: as git's index does it. A file touched in the last seconds before it was hashed is not remembered, as a write
within the clock's grain would not show. Lines that the manifest no longer has are remembered for some scans more. The memory is a cache: delete
it at any time; an unreadable one is ignored.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from pvtt_model.data.checked_line import CheckedLine, Truth
from pvtt_model.data.file_stamps import FileStamps, count
from pvtt_model.data.lines import Brief, Kept, brief_of
from pvtt_model.data.stamp_worker import GONE, STAMP, last_change_ns, stamp_of

FORM = 5  # raised when a line is checked or kept in another way
GRAIN_NS = 2_000_000_000
CHUNK = 1 << 20  # bytes copied at once
KEPT_SCANS = 8  # for which a line that no scan asked for is remembered
APART = b"\t"  # between what every scan reads of a line, its text() and the rest of it; JSON holds none
KEY, UNASKED = 64, 1  # bytes of a line's key, and after it of the number of scans (a digit) that have not asked for it
WINDOW = 512  # lines whose files are asked for at once, while the ones before are used
Numbered = tuple[int, bytes]  # a line's number and its text


class Known(NamedTuple):
    """A line as it was checked: in brief, its text() and content of then, and where the rest is kept."""

    brief: Brief
    text: bytes
    content: str
    kept: Kept


class ScanMemory:
    """Of one manifest, in the JSON file `path`; None remembers nothing. under: what the checks hang on beside the line and its files."""

    def __init__(self, path: Path | None, under: Any) -> None:
        self.path, self._head = path, [FORM, under]
        self._before: dict[bytes, _Kept] = {}  # by a text's hash; what is kept of it is read when the line is asked for
        self._now: dict[bytes, _Kept | bytes] = {}  # bytes: of a line that this scan checked, JSON
        self._changed = False
        self._file: IO[bytes] | None = None  # the memory as it was found; another scan may put one in its place
        if path is not None and path.is_file():
            try:
                self._file = path.open("rb")
                self._before = self._found(self._file)
            except (ValueError, OSError, RecursionError):
                self._before = {}

    def _found(self, file: IO[bytes]) -> dict[bytes, _Kept]:
        head = file.readline()
        if orjson.loads(head) != self._head:
            return {}
        found, offset = {}, len(head)
        for line in file:
            unasked = line[KEY : KEY + UNASKED]
            found[line[:KEY]] = _Kept(offset + KEY + UNASKED, len(line) - KEY - UNASKED - 1, int(unasked) if unasked.isdigit() else KEPT_SCANS)
            offset += len(line)
        return found

    def _bytes(self, offset: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), max(0, count), offset) if self._file else b""

    def read(self, number: int, kept: Kept) -> CheckedLine:
        """The line that `recall` gave, again."""
        return _line(number, orjson.loads(self._bytes(*kept).rpartition(APART)[2]))

    def recall(self, lines: Iterable[Numbered]) -> Iterator[tuple[int, bytes, Known | None]]:
        """The lines in their order, each with how it was checked where none of its files was touched since. Those are remembered on."""
        left, asked = iter(lines), list[_Asked]()
        with FileStamps() as files:
            while True:
                coming = [self._ask(number, raw) for number, raw in islice(left, WINDOW)]
                now = files.answer()  # of `asked`
                files.ask([line.files for line in coming if line.files])
                yield from self._judged(asked, now)
                if not coming:
                    return
                asked = coming

    def _ask(self, number: int, raw: bytes) -> _Asked:
        """Which files decide it; none where the line is not known, or another wrote the memory, in another way."""
        key = sha256(raw).hexdigest().encode()
        try:
            before = self._before[key]
            said, text, _ = self._bytes(before.offset, before.bytes).split(APART)
            files, stamps, brief, content = orjson.loads(said)
            known = Known(Brief(number, *brief), text, content, (before.offset, before.bytes))
            return _Asked(number, raw, str(files), key, before, stamps, known)
        except (AttributeError, KeyError, TypeError, ValueError, OSError):
            return _Asked(number, raw)

    def _judged(self, asked: list[_Asked], now: bytes) -> Iterator[tuple[int, bytes, Known | None]]:
        """now: the stamps of their files."""
        at = 0
        for line in asked:
            end = at + STAMP * count(line.files)
            if line.before and sha256(now[at:end]).hexdigest() == line.stamps:
                self._now[line.key] = line.before
                yield line.number, line.raw, line.known
            else:
                yield line.number, line.raw, None
            at = end

    def remember(self, raw: bytes, line: CheckedLine, text: bytes, content: str, named: Sequence[str], began_ns: int) -> None:
        """text: line.text(), and its content. named: every path that the line names, a mask's folder too; where they lead, and a mask's files, are
        added here. began_ns: when the first of them was about to be hashed, as time.time_ns()."""
        if self.path is None:
            return
        truth = (line.truth.video_path, *line.truth.mask_paths) if line.truth else ()
        real = (line.video_path, *line.reference_paths, *line.mask_paths, *truth)
        stamps = {path: stamp_of(path) for path in dict.fromkeys((*named, *real))}
        if GONE in stamps.values():
            return
        quiet = began_ns - GRAIN_NS
        kept, said = _kept(line), ["\0".join(stamps), sha256(b"".join(stamps.values())).hexdigest(), brief_of(line)[1:], content]
        if all(last_change_ns(stamp) < quiet for stamp in stamps.values()) and _comes_back(kept):
            self._now[sha256(raw).hexdigest().encode()] = APART.join((orjson.dumps(said), text, orjson.dumps(kept)))
            self._changed = True

    def keep(self) -> None:
        """Write what this scan found, whole or not at all, and hold no more of it than where its lines lie."""
        if self.path is not None and (self._changed or self._now.keys() != self._before.keys()):
            self._write(self.path)
        self._before, self._now = {}, {}

    def _write(self, path: Path) -> None:
        unasked = {key: kept for key, kept in self._before.items() if key not in self._now and kept.unasked < KEPT_SCANS}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        with part.open("wb") as file:
            file.write(orjson.dumps(self._head) + b"\n")
            run = (0, 0)  # from, to, in the memory that was found: lines that stay as they are, one behind the other
            for key, kept in self._now.items():
                if isinstance(kept, _Kept) and kept.unasked == 0:
                    start, end = kept.offset - KEY - UNASKED, kept.offset + kept.bytes + 1
                    if start != run[1]:
                        self._copy(run, file)
                        run = (start, end)
                    run = (run[0], end)
                else:
                    self._copy(run, file)
                    run = (0, 0)
                    file.writelines((key, b"0", kept if isinstance(kept, bytes) else self._bytes(kept.offset, kept.bytes), b"\n"))
            self._copy(run, file)
            for key, kept in unasked.items():
                file.writelines((key, b"%d" % (kept.unasked + 1), self._bytes(kept.offset, kept.bytes), b"\n"))
        os.replace(part, path)

    def _copy(self, run: tuple[int, int], to: IO[bytes]) -> None:
        for start in range(*run, CHUNK):
            to.write(self._bytes(start, min(CHUNK, run[1] - start)))


class _Asked(NamedTuple):
    """A line, its files, and what the memory holds of it."""

    number: int
    raw: bytes
    files: str = ""  # with NUL between them
    key: bytes = b""
    before: _Kept | None = None
    stamps: str = ""  # SHA-256 of its files' stamps
    known: Known | None = None


class _Kept(NamedTuple):
    """Where in the memory the JSON of a line lies, and how many scans have not asked for it."""

    offset: int
    bytes: int
    unasked: int


def _comes_back(kept: dict[str, Any]) -> bool:
    """Not where the metadata hold a number of more than 64 bits, say."""
    try:
        back = orjson.loads(orjson.dumps(kept))
    except TypeError:
        return False
    return bool(back == kept)


def _kept(line: CheckedLine) -> dict[str, Any]:
    """The line's fields as JSON has them."""
    kept = {field.name: _plain(getattr(line, field.name)) for field in fields(line) if field.name not in ("line", "truth")}
    truth = line.truth
    return kept | {"truth": {field.name: _plain(getattr(truth, field.name)) for field in fields(truth)} if truth else None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _line(number: int, kept: dict[str, Any]) -> CheckedLine:
    """`kept` becomes the line's: JSON's lists are tuples again."""
    for name in ("reference_paths", "reference_sha256", "mask_paths", "mask_sha256"):
        kept[name] = tuple(kept[name])
    truth = kept["truth"]
    if truth:
        kept["truth"] = Truth(**truth | {name: tuple(truth[name]) for name in ("mask_paths", "mask_sha256")})
    return CheckedLine(line=number, **kept)
