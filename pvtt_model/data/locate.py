"""From a path in a manifest to a local file, without leaving the folder that the manifest may speak of."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from stat import S_ISLNK, S_ISREG

from pvtt_model.data.refusals import Refused

Fetch = Callable[[str], Path]
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


class Root:
    """The manifest's folder: local, or a prefix of a bucket, where `uri` is s3://."""

    def __init__(self, manifest_path: Path, uri: str, allow_outside: bool, fetch: Fetch) -> None:
        self.folder = manifest_path.resolve().parent
        self.prefix = uri.rpartition("/")[0] if uri.startswith("s3://") else None
        self.allow_outside = allow_outside
        self.fetch = fetch
        self._real_folders: dict[Path, Path] = {}  # as they lie while this scan runs: thousands of files share a few

    def file(self, given: str, what: str) -> Path:
        """The regular, non-empty file at `given`. Raises Refused (path_trick, missing_*, empty_file)."""
        path = self._find(given, what, folder=False)
        found = path.stat() if path.exists() else None
        if found is None or not S_ISREG(found.st_mode):
            raise Refused(f"missing_{what}", f"{what} '{given}' is no regular file. Name the file itself.")
        if found.st_size == 0:
            raise Refused("empty_file", f"{what} '{given}' has 0 bytes. Copy it again.")
        return path

    def file_or_folder(self, given: str, what: str) -> Path:
        """As `file`, or a folder. On s3:// a path without a suffix is a folder."""
        found = self._find(given, what, folder=True)
        return found if found.is_dir() else self.file(given, what)

    def _find(self, given: str, what: str, folder: bool) -> Path:
        if not given.strip() or "\0" in given or "\\" in given:
            raise Refused("path_trick", f"{what} path {given!r} is empty or holds a NUL or a backslash. Write a plain path with '/'.")
        if ".." in PurePosixPath(given).parts:
            raise Refused("path_trick", f"{what} '{given}' climbs with '..'. Put the manifest above the file, or give an absolute path.")
        if given.startswith("s3://"):
            return self._fetched(given, what, folder)
        if _SCHEME.match(given):
            raise Refused("path_trick", f"{what} '{given}' has another scheme. Use a path relative to the manifest, an absolute one, or s3://.")
        if self.prefix is not None and not given.startswith("/"):
            return self._fetched(f"{self.prefix}/{given}", what, folder)
        return self._local(given, what)

    def _fetched(self, uri: str, what: str, folder: bool) -> Path:
        if folder and not PurePosixPath(uri).suffix and not uri.endswith("/"):
            uri += "/"
        try:
            return Path(self.fetch(uri))
        except (FileNotFoundError, KeyError):
            raise Refused(f"missing_{what}", f"{what} '{uri}' does not exist. Upload it, or correct the path.") from None

    def _local(self, given: str, what: str) -> Path:
        path = Path(given) if given.startswith("/") else self.folder / given
        try:
            real = self._real(path)
        except (OSError, RuntimeError):  # none, no access, too long, a loop of links
            raise Refused(f"missing_{what}", f"{what} '{given}' does not exist. Copy it there, or correct the path.") from None
        if not self.allow_outside and not real.is_relative_to(self.folder):
            how = "is outside the manifest's folder" if given.startswith("/") else "is a link that leaves the manifest's folder"
            raise Refused("path_trick", f"{what} '{given}' {how}. Move it inside, or set clips.allow_outside_root=true.")
        return real

    def _real(self, path: Path) -> Path:
        """path.resolve(strict=True), its folder resolved once. Raises as it."""
        folder = self._real_folders.get(path.parent)
        if folder is None:
            folder = self._real_folders[path.parent] = path.parent.resolve(strict=True)
        real = folder / path.name
        return path.resolve(strict=True) if not path.name or S_ISLNK(os.lstat(real).st_mode) else real


def mask_frames(folder: Path, given: str) -> tuple[Path, ...]:
    """The PNGs of a mask folder in order: five digits each, from 00000 or 00001 without a gap. Raises Refused (mask_numbering)."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    names = [entry.name for entry in found]
    start = 1 if names and names[0] == "00001.png" else 0
    wanted = [f"{start + i:05d}.png" for i in range(len(names))]
    if not names or names != wanted:
        odd = next((f"'{n}' where '{w}' is due" for n, w in zip(names, wanted, strict=True) if n != w), "nothing")
        raise Refused("mask_numbering", f"mask folder '{given}' holds {odd}. Number the masks 00000.png, 00001.png and so on, and nothing else.")
    for entry in found:
        leads_out = entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(folder.resolve())
        if not entry.is_file() or leads_out:
            raise Refused("path_trick", f"mask folder '{given}' holds '{entry.name}', no file or a link that leads out. Put the PNG itself there.")
        if entry.stat().st_size == 0:
            raise Refused("empty_file", f"mask '{given}/{entry.name}' has 0 bytes. Copy it again.")
    return tuple(Path(entry.path) for entry in found)
