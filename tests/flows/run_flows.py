"""Runs flows one after the other on a real, temporary Prefect server, in a process of its own; prints one JSON line a run.

python run_flows.py '[["pvtt", {...parameters}], ...]'
"""

from __future__ import annotations

import importlib
import json
import sys
import time


def main() -> None:
    for name, parameters in json.loads(sys.argv[1]):
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        started = time.monotonic()
        state = flow(**parameters, return_state=True)
        answer = {"state": state.type.value, "name": state.name, "message": state.message, "seconds": time.monotonic() - started}
        print("ANSWER " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
