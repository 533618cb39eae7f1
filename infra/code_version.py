"""Which code made an artifact: the commit of this repository and the versions of the libraries that decide its bytes."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "deepspeed", "ray", "prefect", "pyarrow", "timm", "sam2", "opencv-python-headless")


@cache
def code_version() -> dict[str, Any]:
    """{'commit': 40 hex digits or None, 'dirty': bool or None}. PVTT_CODE_COMMIT names it where the image has no git; dirty is then unknown."""
    given = os.environ.get("PVTT_CODE_COMMIT")
    if given:
        return {"commit": given, "dirty": None}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


@cache
def library_versions() -> dict[str, str]:
    """The installed versions of LIBRARIES; one that is not installed is left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*args: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
