"""A committer in a process of its own: `racer.py URI ENDPOINT ROUNDS THREADS START_S`; prints the rounds won, one a line.

Round r begins at START_S + r * 0.1 (wall clock) in every racer, so that they meet.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from infra.store import open_store


def main(uri: str, endpoint: str, rounds: int, threads: int, start_s: float) -> None:
    store = open_store(uri, endpoint or None)
    won: list[int] = []

    def race(who: int) -> None:
        for r in range(rounds):
            time.sleep(max(0.0, start_s + r * 0.1 - time.time()))
            if store.put_if_absent(f"race/{r}", f"{os.getpid()} {who}".encode()):
                won.append(r)

    racers = [threading.Thread(target=race, args=(i,)) for i in range(threads)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    print("\n".join(map(str, won)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
