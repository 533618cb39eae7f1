"""What lies in a folder, told apart by name and by its first bytes; no file is left out without a word."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TEXTS = (".txt",)
STILLS = (b"heic", b"heix", b"avif", b"avis", b"mif1", b"msf1")  # brands of `ftyp` files that are pictures
MASK_WORDS = ("mask", "masks", "matte", "alpha")


class Listing:
    """The files below a folder, by their paths relative to it ('/' between names), sorted. Hidden ones and links to folders are not entered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kinds: dict[str, dict[str, str]] = defaultdict(dict)  # folder -> file -> kind
        self._taken: set[str] = set()
        self._odd: list[tuple[str, str]] = []
        root = os.fspath(folder)
        for at, folders, files in os.walk(root):
            below = "" if at == root else PurePosixPath(os.path.relpath(at, root)).as_posix()
            links = [f for f in folders if os.path.islink(os.path.join(at, f))]
            self._odd += [(_join(below, f), "a link to a folder, which is not followed") for f in links if not f.startswith(".")]
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in links)
            for name in sorted(files):
                if not name.startswith("."):
                    self._enter(below, name)

    def _enter(self, below: str, name: str) -> None:
        path = _join(below, name)
        try:
            path.encode()
        except UnicodeEncodeError:
            self._odd.append((path.encode("utf-8", "backslashreplace").decode(), "the name is not UTF-8; rename the file"))
            return
        if "\\" in path or any(ord(c) < 32 for c in path):
            self._odd.append((ascii(path), "the name holds a backslash or a control character; rename the file"))
            return
        self._kinds[below][path] = self._kind(path)

    def _kind(self, path: str) -> str:
        """'video', 'picture', 'text' or 'other'. By the first bytes where they say video, whatever the name; else by the name's ending."""
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in VIDEOS:
            return "video"
        at = self.folder / path
        inside = at.resolve().is_relative_to(self.folder.resolve())  # of a link that leads out not a byte is read
        if inside and at.is_file() and _is_video(at):
            return "video"
        return "picture" if suffix in PICTURES else "text" if suffix in TEXTS else "other"

    def folders(self) -> list[str]:
        """Every folder with files of its own, the root as ''."""
        return sorted(self._kinds)

    def files(self, folder: str, kind: str) -> list[str]:
        return [path for path, its in self._kinds.get(folder, {}).items() if its == kind]

    def videos(self, folder: str) -> list[str]:
        """The videos of a folder that are not masks."""
        return [v for v in self.files(folder, "video") if not is_mask(v)]

    def pngs(self, folder: str) -> list[str]:
        return [p for p in self.files(folder, "picture") if p.lower().endswith(".png")]

    def is_mask_folder(self, folder: str) -> bool:
        """Whether it is called mask or masks, and all that it holds is numbered PNGs."""
        if PurePosixPath(folder).name.lower() not in MASK_WORDS:
            return False
        names = [PurePosixPath(p) for p in self._kinds.get(folder, {})]
        return bool(names) and all(n.suffix.lower() == ".png" and n.stem.isdigit() for n in names)

    def take(self, *paths: str) -> None:
        """These are in a line of the draft; a folder stands for all in it."""
        for path in paths:
            self._taken |= {path, *self._kinds.get(path, {})}

    def read(self, path: str) -> str | None:
        """A text file's text without blank ends; None where it is empty, no UTF-8, above 64 KB, or a link that leads out."""
        at = self.folder / path
        if not at.resolve().is_relative_to(self.folder.resolve()) or at.stat().st_size > 1 << 16:
            return None
        try:
            return at.read_text(encoding="utf-8-sig").strip() or None
        except UnicodeDecodeError:
            return None

    def passed_over(self) -> list[tuple[str, str]]:
        """(file, why) of all that is in no line."""
        why = {"video": "a mask without a video of its name", "picture": "belongs to no video", "text": "belongs to no video"}
        left = [
            (path, why.get(kind, "no video, picture or text by its name and first bytes"))
            for files in self._kinds.values()
            for path, kind in files.items()
            if path not in self._taken
        ]
        return sorted(left + self._odd)


def is_mask(path: str) -> bool:
    """Whether the name says that it is a mask: mask.mp4, mug_mask.mp4, masks/mug.mp4. Not by its first word: a matte black bottle is none."""
    words = PurePosixPath(path).stem.lower().replace("-", "_").replace(".", "_").split("_")
    return words[-1] in MASK_WORDS or PurePosixPath(path).parent.name.lower() in MASK_WORDS


def _is_video(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head[4:8] == b"ftyp":
        return head[8:12] not in STILLS
    return head[:4] == b"\x1a\x45\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
