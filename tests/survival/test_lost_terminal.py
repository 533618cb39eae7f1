"""A run whose worker is gone has nobody to read its output; it goes on all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import sys
from prefect.logging import get_logger
from prefect.logging.configuration import setup_logging
from tasks.lost_terminal import outlive_the_terminal
setup_logging()
log = get_logger("survival")
log.info("ready")
if sys.argv[1] == "outlives":
    outlive_the_terminal()
    outlive_the_terminal()
sys.stdin.readline()
for _ in range(3):
    log.info("said to nobody")
    print("printed to nobody", flush=True)
    print("printed to nobody", file=sys.stderr, flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize(("how", "status"), [("outlives", 7), ("dies", 1)])  # 'dies' is Prefect by itself: once it is gone, so may ours go
def test_a_log_line_that_nobody_reads_does_not_end_the_run(how: str, status: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", RUN, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout and child.stderr and child.stdin
    child.stderr.readline()  # Prefect's console writes there
    child.stdout.close()
    child.stderr.close()
    child.stdin.write("go on\n")
    child.stdin.close()
    assert child.wait(60) == status
