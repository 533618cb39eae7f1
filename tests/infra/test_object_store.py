"""One suite for every backend: what the artifacts rely on."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from infra.store import LocalStore, ObjectMissing, ObjectStore, open_store
from infra.store.base import asked
from infra.store.s3 import S3Store

HERE = Path(__file__).parent


def test_bytes_go_in_and_come_out(store: ObjectStore) -> None:
    store.put_bytes("a/b", b"one")
    store.put_bytes("a/b", b"two")
    assert store.get_bytes("a/b") == b"two"
    assert store.exists("a/b") and not store.exists("a")
    with pytest.raises(ObjectMissing):
        store.get_bytes("a/c")


def test_stat_is_of_that_key_alone(store: ObjectStore) -> None:
    store.put_bytes("a/bc", b"123")
    found = store.stat("a/bc")
    assert found is not None and (found.key, found.bytes) == ("a/bc", 3) and found == next(iter(store.list("a/bc")))
    assert store.stat("a/b") is None and store.stat("a") is None and store.stat("a/bc/d") is None


def test_a_range_is_exactly_those_bytes(store: ObjectStore) -> None:
    store.put_bytes("a/b", bytes(range(100)))
    assert store.get_range("a/b", 0, 100) == bytes(range(100))
    assert store.get_range("a/b", 97, 3) == bytes([97, 98, 99])
    for offset, length in ((97, 4), (100, 1), (5000, 8)):
        with pytest.raises(ValueError, match=rf"a/b gave \d of {length} bytes from {offset}: the object is shorter"):
            store.get_range("a/b", offset, length)
    with pytest.raises(ObjectMissing):
        store.get_range("a/c", 0, 1)


def test_list_is_in_key_order_and_by_prefix(store: ObjectStore) -> None:
    for key in ("a/b/c", "a-b", "a/z", "a/b0", "b", "ä/x"):
        store.put_bytes(key, key.encode())
    everything = [info.key for info in store.list()]
    assert everything == sorted(everything, key=str.encode) and len(everything) == 6
    assert [info.key for info in store.list("a/b")] == ["a/b/c", "a/b0"]
    assert [info.key for info in store.list("a/b/")] == ["a/b/c"]
    assert list(store.list("nothing/")) == []
    [info] = store.list("ä/")
    assert info.bytes == len("ä/x".encode()) and abs(info.modified_s - time.time()) < 60


def test_list_goes_past_one_page(moto_endpoint: str) -> None:
    store = S3Store("s3://pvtt/pages", moto_endpoint)
    store.client.meta.events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=7))
    for i in range(20):
        store.put_bytes(f"k/{i:02d}", b"")
    assert len(list(store.list("k/"))) == 20


def test_delete_forgives_a_missing_key(store: ObjectStore) -> None:
    store.put_bytes("a/b", b"1")
    store.put_bytes("a/c", b"1")
    store.delete(["a/b", "never/was"])
    assert [info.key for info in store.list()] == ["a/c"]
    store.delete([])


def test_create_if_absent(store: ObjectStore) -> None:
    assert store.put_if_absent("x/once", b"first")
    assert not store.put_if_absent("x/once", b"second")
    assert store.put_if_absent("x/once", b"first")  # one's own bytes: a retry after a lost acknowledgement
    assert store.get_bytes("x/once") == b"first"


def test_a_download_is_whole_or_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        store.get_file("no/such", tmp_path / "got")
    assert not list(tmp_path.glob("*got*")) and not list(tmp_path.glob("*.part"))
    store.put_bytes("a", b"x" * 1000)
    store.get_file("a", tmp_path / "sub" / "got")
    assert (tmp_path / "sub" / "got").read_bytes() == b"x" * 1000
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["got"]


def test_a_file_of_several_parts(store: ObjectStore, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(20 * 2**20))
    store.put_file("pool/big", big)
    store.get_file("pool/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    if isinstance(store, S3Store):
        etag = store.client.head_object(Bucket=store.bucket, Key=f"{store.prefix}/pool/big")["ETag"]
        assert etag.strip('"').endswith("-2")  # multipart, of two parts


def test_touch_makes_it_young(store: ObjectStore) -> None:
    store.put_bytes("a", b"1")
    [before] = store.list("a")
    time.sleep(0.05 if isinstance(store, LocalStore) else 1.1)  # S3 dates by the second
    store.touch("a")
    [after] = store.list("a")
    assert after.modified_s > before.modified_s and store.get_bytes("a") == b"1"
    with pytest.raises(ObjectMissing):
        store.touch("b")


TRICKS = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", ".tmp/x", ".cache/x", "a\\..\\b", "a\nb", "x" * 1000]


@pytest.mark.parametrize("key", TRICKS)
def test_path_tricks_are_refused(tmp_path: Path, key: str, moto_endpoint: str) -> None:
    for store in (LocalStore(tmp_path / "s"), S3Store("s3://pvtt/keys", moto_endpoint)):
        for act in (store.get_bytes, store.exists, lambda k, s=store: s.put_bytes(k, b""), lambda k, s=store: s.put_if_absent(k, b""), store.touch):
            with pytest.raises(ValueError, match="not allowed"):
                act(key)
        with pytest.raises(ValueError, match="not allowed"):
            store.delete([key])


@pytest.mark.parametrize("prefix", ["../", "/etc", "a/../"])
def test_list_refuses_path_tricks(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        list(store.list(prefix))


def test_a_store_crosses_a_process_boundary(store: ObjectStore) -> None:
    store.put_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get_bytes("a") == b"1"


def test_sixteen_threads_one_winner(store: ObjectStore) -> None:
    wins: Counter[int] = Counter()
    ready = threading.Barrier(16)

    def race(who: int) -> None:
        for r in range(8):
            ready.wait()
            if store.put_if_absent(f"race/{r}", str(who).encode()):
                wins[r] += 1

    racers = [threading.Thread(target=race, args=(i,)) for i in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert wins == {r: 1 for r in range(8)}


@pytest.mark.parametrize(
    ("processes", "threads", "rounds"), [pytest.param(4, 4, 10, id="4x4"), pytest.param(16, 1, 50, id="16x1", marks=pytest.mark.slow)]
)
def test_sixteen_committers_in_processes_one_winner(store: ObjectStore, processes: int, threads: int, rounds: int) -> None:
    endpoint = getattr(store, "endpoint", None) or ""
    start = str(time.time() + (2.5 if processes < 8 else 12))
    command = [sys.executable, str(HERE / "racer.py"), store.uri, endpoint, str(rounds), str(threads), start]
    env = os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(processes)]
    wins = Counter(int(line) for racer in racers for line in racer.communicate(timeout=120)[0].split())
    assert all(racer.returncode == 0 for racer in racers)
    assert wins == {r: 1 for r in range(rounds)}


def test_a_local_write_killed_halfway_leaves_nothing(tmp_path: Path) -> None:
    """An object of 512 MB being put is killed: no object, and the leftover is swept after a day."""
    store = LocalStore(tmp_path / "s")
    body = "while True: s.put_bytes('a/big', bytes(2**29))"
    code = f"from infra.store import LocalStore\ns = LocalStore({store.uri!r}); print('go', flush=True)\n{body}"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)})
    assert child.stdout is not None and child.stdout.readline()
    deadline = time.time() + 20
    while not list((tmp_path / "s" / ".tmp").glob("*")) and time.time() < deadline:
        time.sleep(0.001)
    child.kill()
    child.wait()
    for info in store.list():
        assert info.bytes == 2**29
    left = list((tmp_path / "s" / ".tmp").glob("*"))
    for path in left:
        os.utime(path, (0, 0))
    LocalStore(tmp_path / "s")
    assert not list((tmp_path / "s" / ".tmp").glob("*"))


def test_what_is_asked_of_many_comes_in_order_and_several_at_once(store: ObjectStore) -> None:
    """Of a folder one after the other, in the caller's thread."""
    names = [f"k{i}" for i in range(40)]
    for name in names[:20]:
        store.put_bytes(name, name.encode())
    together = threading.Barrier(store.at_once)
    threads = set()

    def ask(name: str) -> bool:
        threads.add(threading.get_ident())
        if name in names[: store.at_once]:
            together.wait(30)  # breaks where fewer are in flight
        return store.exists(name)

    assert asked(store, ask, names) == [True] * 20 + [False] * 20
    assert len(threads) == store.at_once and (store.at_once > 1 or threads == {threading.get_ident()})
    assert asked(store, ask, []) == []
    with pytest.raises(ObjectMissing, match="k20"):
        asked(store, store.get_bytes, names)


def test_open_store_picks_the_backend(tmp_path: Path, moto_endpoint: str) -> None:
    assert isinstance(open_store(tmp_path), LocalStore)
    assert open_store(f"file://{tmp_path}/with%20space").uri == f"{tmp_path}/with space"
    assert open_store("s3://pvtt/deep/er/", moto_endpoint).uri == "s3://pvtt/deep/er"
    for bad in ("gs://x", "http://x/y", "hf://a/b"):
        with pytest.raises(ValueError, match=r"path, file:///path or s3://bucket/prefix"):
            open_store(bad)
    with pytest.raises(ValueError, match="three slashes"):
        open_store("file://etc/passwd")


def test_looking_at_a_local_store_makes_no_folder(tmp_path: Path) -> None:
    assert list(LocalStore(tmp_path / "typo").list()) == [] and not (tmp_path / "typo").exists()
