"""From a path in a manifest to a local file, without leaving the folder that the manifest may speak of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

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

    def file(self, given: str, what: str) -> Path:
        """The regular, non-empty file at `given`. Raises Refused (path_trick, missing_*, empty_file)."""
        path = self._find(given, what, folder=False)
        if not path.is_file():
            raise Refused(f"missing_{what}", f"{what} '{given}' is no regular file. Name the file itself.")
        if path.stat().st_size == 0:
            raise Refused("empty_file", f"{what} '{given}' has 0 bytes. Copy it again.")
        return path

    def file_or_folder(self, given: str, what: str) -> Path:
        """As `file`, or a folder. On s3:// a path without a suffix is a folder."""
        if self._find(given, what, folder=True).is_dir():
            return self._find(given, what, folder=True)
        return self.file(given, what)

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
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # none, no access, too long, a loop of links
            raise Refused(f"missing_{what}", f"{what} '{given}' does not exist. Copy it there, or correct the path.") from None
        if not self.allow_outside and not real.is_relative_to(self.folder):
            how = "is outside the manifest's folder" if given.startswith("/") else "is a link that leaves the manifest's folder"
            raise Refused("path_trick", f"{what} '{given}' {how}. Move it inside, or set clips.allow_outside_root=true.")
        return real


def mask_frames(folder: Path, given: str) -> tuple[Path, ...]:
    """The PNGs of a mask folder in order: five digits each, from 00000 or 00001 without a gap. Raises Refused (mask_numbering)."""
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    start = 1 if names and names[0] == "00001.png" else 0
    wanted = [f"{start + i:05d}.png" for i in range(len(names))]
    if not names or names != wanted:
        odd = next((f"'{n}' where '{w}' is due" for n, w in zip(names, wanted, strict=True) if n != w), "nothing")
        raise Refused("mask_numbering", f"mask folder '{given}' holds {odd}. Number the masks 00000.png, 00001.png and so on, and nothing else.")
    paths = tuple(folder / name for name in names)
    for path in paths:
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise Refused("path_trick", f"mask folder '{given}' holds '{path.name}', no file or a link that leads out. Put the PNG itself there.")
        if path.stat().st_size == 0:
            raise Refused("empty_file", f"mask '{given}/{path.name}' has 0 bytes. Copy it again.")
    return paths
