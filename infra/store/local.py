"""Objects as files below one folder. The embedded default: nothing to install, atomic on any POSIX file system."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISREG

from infra.store.base import ObjectInfo, ObjectMissing, StoreRefused, whole_range
from infra.store.keys import checked_key, checked_prefix

PLACE_ATTEMPTS = 20
STALE_TMP_S = 86400.0


class LocalStore:
    """A folder. Every object is written to `.tmp/`, synced, then renamed or linked into place, so no reader sees half of one.

    Objects are read-only files (mode 0444): they are immutable, and a cache may hold a hard link to one.
    `.tmp/` and `.cache/` are not objects and are never listed. A version of the data has thousands of objects, and a Path costs as much as the call
    it is for: what is asked of each of them goes without.
    """

    at_once = 1

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.uri = str(self.root)
        self._sweep()

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    def path_of(self, key: str) -> Path:
        """Where the object lies. Not to be written to."""
        return self.root / checked_key(key)

    def _at(self, key: str) -> str:
        return f"{self.uri}/{checked_key(key)}"

    def put_bytes(self, key: str, data: bytes) -> None:
        self._put(key, lambda tmp: _write(tmp, data), os.replace)

    def put_file(self, key: str, path: str | Path) -> None:
        self._put(key, lambda tmp: _copy(path, tmp), os.replace)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Atomic by link(2), which fails where the name exists. Raises StoreRefused on a file system without hard links."""
        for _ in range(PLACE_ATTEMPTS):
            try:
                self._put(key, lambda tmp: _write(tmp, data), os.link)
                return True
            except FileExistsError:
                try:
                    return self.get_bytes(key) == data
                except ObjectMissing:
                    continue  # deleted in between: once more
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                    raise  # a full disk, a lost mount: not the file system's nature
                raise StoreRefused(
                    f"the folder {self.uri} cannot create a file only where none is: link() answered '{error.strerror}'. "
                    "Put the store on a file system with hard links (ext4, xfs, NFS), or use s3://."
                ) from error
        raise OSError(f"{key} in {self.uri} came and went {PLACE_ATTEMPTS} times while it was being created; is someone deleting it?")

    def get_bytes(self, key: str) -> bytes:
        try:
            with open(self._at(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{key} is not in {self.uri}") from None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        try:
            with open(self._at(key), "rb") as file:
                file.seek(offset)
                return whole_range(file.read(length), key, offset, length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{key} is not in {self.uri}") from None

    def get_file(self, key: str, path: str | Path) -> None:
        self._take(key, Path(path), _copy)

    def link_file(self, key: str, path: str | Path) -> None:
        """As get_file, by hard link where the file system can, else by copy: no bytes are moved. For read-only use."""
        self._take(key, Path(path), link_or_copy)

    def exists(self, key: str) -> bool:
        return self.path_of(key).is_file()

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            found = os.stat(self._at(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key, found.st_size, found.st_mtime) if S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        base = self.root / checked_prefix(prefix).rpartition("/")[0]
        found = []
        for folder, folders, names in os.walk(base):
            if folder == self.uri:
                folders[:] = [f for f in folders if not f.startswith(".")]
            for name in names:
                path = f"{folder}/{name}"
                key = path[len(self.uri) :].lstrip("/")
                if not key.startswith(prefix) or key.startswith("."):
                    continue
                try:
                    stat = os.stat(path)
                except FileNotFoundError:
                    continue
                found.append(ObjectInfo(key, stat.st_size, stat.st_mtime))
        yield from sorted(found, key=lambda info: info.key.encode())

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self.path_of(key)
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty, or gone

    def touch(self, key: str) -> None:
        try:
            os.utime(self.path_of(key))
        except FileNotFoundError:
            raise ObjectMissing(f"{key} is not in {self.uri}") from None

    def _put(self, key: str, fill: Callable[[Path], None], place: Callable[[Path, Path], None]) -> None:
        target = self.path_of(key)
        tmp = self.root / ".tmp" / uuid.uuid4().hex
        tmp.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(tmp)
            for attempt in range(PLACE_ATTEMPTS):
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    place(tmp, target)
                    break
                except FileNotFoundError:  # a delete removed the empty folder in between
                    if attempt + 1 == PLACE_ATTEMPTS:
                        raise
            _sync_folder(target.parent)
        finally:
            tmp.unlink(missing_ok=True)

    def _take(self, key: str, path: Path, move: Callable[[Path, Path], None]) -> None:
        source = self.path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            if not source.is_file():
                raise FileNotFoundError
            move(source, tmp)
            os.replace(tmp, path)
        except FileNotFoundError:
            raise ObjectMissing(f"{key} is not in {self.uri}") from None
        finally:
            tmp.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what processes killed more than a day ago left half-written."""
        try:
            for tmp in os.scandir(self.root / ".tmp"):
                if time.time() - tmp.stat().st_mtime > STALE_TMP_S:
                    os.unlink(tmp.path)
        except FileNotFoundError:
            pass


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(_create(path), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _copy(source: str | Path, path: Path) -> None:
    with open(source, "rb") as inp, os.fdopen(_create(path), "wb") as out:
        shutil.copyfileobj(inp, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def link_or_copy(source: Path, path: Path) -> None:
    """A second name for the same bytes where the file system can, else a copy, read-only. Raises FileExistsError."""
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or none with links
        _copy(source, path)


def _sync_folder(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
