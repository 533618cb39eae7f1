"""Where things are on this machine: one typed class, filled from the environment. No secret lives here: S3 credentials come from
boto3's own chain."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = r"^[a-z0-9][a-z0-9-]{0,31}$"
IN_STORE = "{project}"  # in PVTT_STORE: a prefix a project
PROJECT_TAG = "project:"  # and the project: by it Prefect finds its runs


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    home: Path = Field(description="PVTT_HOME: local state, caches and the default store; the checkout's .pvtt")
    store_pattern: str = Field(
        alias="store", description="PVTT_STORE: a folder or s3://bucket/prefix (AWS_ENDPOINT_URL_S3 for other servers); may hold {project}"
    )
    project: str | None = Field(default=None, description="PVTT_PROJECT: whose run this is, of several in one store; none by default")
    num_cpus: int = Field(gt=0, description="PVTT_NUM_CPUS: cores that a local Ray may use; all by default")
    max_workers: int = Field(default=256, gt=0, description="PVTT_MAX_WORKERS: actors that a step may use on a cluster; 256 by default")
    ray_address: str | None = Field(description="RAY_ADDRESS: a running cluster; a local Ray is started where it is unset")
    preflight: Literal["fail", "warn"] = Field(default="fail", description="PVTT_PREFLIGHT: warn trains in spite of checks that failed")

    @property
    def store(self) -> str:
        """Raises ValueError where a project is to fill {project}, and there is none."""
        if IN_STORE in self.store_pattern and self.project is None:
            raise ValueError(f"the store is '{self.store_pattern}', and no project is named. Name it (--project, PVTT_PROJECT), or another --store.")
        return self.store_pattern.replace(IN_STORE, self.project or "")

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def scratch(self) -> Path:
        return self.home / "scratch"


def checked_project(project: str) -> str:
    """The project itself. Raises ValueError for what cannot be part of keys, tags and folders everywhere."""
    if not re.fullmatch(PROJECT, project):
        raise ValueError(
            f"project {project[:60]!r} cannot be a project's name. Give 1 to 32 lower-case letters, digits and dashes, no dash first, e.g. mugs-2."
        )
    return project


def settings(store: str | None = None, project: str | None = None) -> Settings:
    """The environment's settings; `store` wins over PVTT_STORE, `project` over PVTT_PROJECT. Relative folders become absolute, so that workers
    elsewhere agree."""
    home = Path(os.environ.get("PVTT_HOME") or REPOSITORY / ".pvtt").resolve()
    uri = store or os.environ.get("PVTT_STORE") or str(home / "store")
    if "://" not in uri:
        uri = str(Path(uri).resolve())
    counts = {"PVTT_NUM_CPUS": os.cpu_count() or 1, "PVTT_MAX_WORKERS": 256}
    for name, default in counts.items():
        given = os.environ.get(name) or str(default)
        if not given.isdigit() or int(given) < 1:
            raise ValueError(f"{name} is '{given}'; it must be a whole number above 0. Unset it for {default}.")
        counts[name] = int(given)
    preflight = os.environ.get("PVTT_PREFLIGHT") or "fail"
    if preflight not in ("fail", "warn"):
        raise ValueError(f"PVTT_PREFLIGHT is '{preflight}'; it is 'fail' or 'warn'. Unset it for 'fail'.")
    project = project or os.environ.get("PVTT_PROJECT") or None
    return Settings(
        home=home,
        store=uri,
        project=None if project is None else checked_project(project),
        num_cpus=counts["PVTT_NUM_CPUS"],
        max_workers=counts["PVTT_MAX_WORKERS"],
        ray_address=os.environ.get("RAY_ADDRESS") or None,
        preflight="warn" if preflight == "warn" else "fail",
    )
