"""The Prefect UI in Chromium, on a real server and worker: a run started by its form, a failed one retried, an approval given, artifacts opened.

PVTT_UI_SHOTS=FOLDER keeps a picture of each step there; docs/img/ui_*.png are such. Wants playwright and Debian's chromium.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.artifact_store import ArtifactStore
from pvtt_model.nano import shipped
from tests.flows.test_curriculum import records, small

sys.path.insert(0, str(Path(__file__).parents[1] / "survival"))  # house.py

from house import House  # noqa: E402

pytestmark = pytest.mark.slow
RUN_S = 1800.0
SEEN_MS = 120_000  # within which the UI shows what the server knows; a worker looks for runs every 10 s, and a busy machine is slow
MISSED = {"thresholds": [{"metric": "bg_psnr_db", "op": ">", "value": 99.0}], "on_failure": "stop"}


class Ui:
    """What a person does in the browser."""

    def __init__(self, page: Any, house: House) -> None:
        self.page, self.house = page, house
        self.root = house.api.removesuffix("/api")

    def seen(self, text: str | re.Pattern[str], within: Any = None) -> Any:
        """The first place where the text stands, once it is visible."""
        place = (within or self.page).get_by_text(text).filter(visible=True).first
        place.wait_for(timeout=SEEN_MS)
        return place

    def shot(self, name: str, settle_ms: int = 1500) -> None:
        folder = os.environ.get("PVTT_UI_SHOTS")
        if folder:
            self.page.wait_for_timeout(settle_ms)
            Path(folder).mkdir(parents=True, exist_ok=True)
            image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
            image.quantize(256, dither=Image.Dither.NONE).save(Path(folder) / f"{name}.png", optimize=True)

    def choose(self, name: str, option: str) -> None:
        self.page.get_by_role("button", name=f"Select {name}").click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def open_form(self) -> None:
        """From the first page to the form of pvtt/full-curriculum."""
        self.page.goto(self.root)
        self.page.get_by_role("link", name="Deployments").click()
        self.page.get_by_role("link", name="full-curriculum").click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.seen("Enforce Parameter Schema")

    def fill_form(self, name: str, overrides: dict[str, Any], store: Path, on_gate_failure: str) -> None:
        self.page.get_by_label("Run Name").fill(name)
        self.choose("recipe", "nano")
        self.override(overrides)
        self.page.get_by_role("tab", name="str").first.click()  # of the fields that may be null the first is the store
        self.page.get_by_role("tabpanel", name="str").first.get_by_role("textbox").fill(str(store))
        self.choose("on_gate_failure", on_gate_failure)

    def override(self, overrides: dict[str, Any]) -> None:
        self.page.locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text("{" + ",\n ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in overrides.items()) + "}")

    def submit(self) -> str:
        """The new run's id."""
        before = {run["id"] for run in self.runs()}
        self.page.get_by_role("button", name="Submit").click()
        for _ in range(240):
            new = [run["id"] for run in self.runs() if run["id"] not in before]
            if new:
                return str(new[0])
            self.page.wait_for_timeout(250)
        raise AssertionError(f"the form made no run; {self.page.locator('main').inner_text()[-800:]}")

    def runs(self) -> list[dict[str, Any]]:
        return list(self.house._call("post", "/flow_runs/filter", {}))

    def ended(self, run: str) -> str:
        """How a run ended. The page is put away meanwhile: drawing the graph takes a core."""
        self.page.goto("about:blank")
        state, message = self.house.wait(run, RUN_S)
        print(f"{run}: {state} {message[:200]}")
        return state

    def open_run(self, run: str, tab: str = "Logs") -> None:
        self.page.goto(f"{self.root}/v2/runs/flow-run/{run}")
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def newest_first(self) -> None:
        """Of the log's lines: those far down are not drawn."""
        self.page.get_by_role("combobox", name="log sort order").click()
        self.page.get_by_role("option", name="Newest to oldest").click()

    def from_menu(self, item: str) -> None:
        """Of the three dots of a run's page."""
        self.page.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def open_artifact(self, run: str, key: str) -> None:
        """By its card, one of each key; it leads to those of other runs too, and to the run's own."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}}
        (own,) = [found["id"] for found in self.house._call("post", "/artifacts/filter", wanted)]
        self.open_run(run, "Artifacts")
        self.page.get_by_role("link", name=re.compile(rf"\b{key}\b")).click()
        self.page.get_by_role("link", name=own[:8]).click()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    before = dict(os.environ)
    os.environ.pop("PVTT_STORE", None)
    built = House(tmp_path_factory.mktemp("house"), {})
    try:
        built.up()
        yield built
    finally:
        built.down()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def page(browser: Any) -> Any:
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.set_default_timeout(SEEN_MS)
    return page


@pytest.fixture(scope="module")
def ui(page: Any, house: House) -> Ui:
    return Ui(page, house)


@pytest.fixture(scope="module")
def store(house: House) -> Path:
    return house.home / "stores" / "form"


@pytest.fixture(scope="module")
def first(ui: Ui, house: House, store: Path) -> str:
    """A run started by its form."""
    ui.open_form()
    ui.fill_form("from-the-form", {"stages.*.train.steps": 40, "stages.*.edit.max_clips": 8}, store, "stop")
    ui.page.get_by_label("Run Name").scroll_into_view_if_needed()
    ui.shot("form")
    ui.override(small())
    run = ui.submit()
    ui.open_run(run)
    ui.seen("Running")
    ui.seen(re.compile("Beginning flow run"))
    ui.shot("started")
    return run


def test_a_run_is_started_by_the_form_and_seen_to_end(ui: Ui, house: House, first: str, store: Path) -> None:
    asked = house._call("get", f"/flow_runs/{first}")["parameters"]
    assert asked == {"recipe": "nano", "clips": "nano", "overrides": small(), "store": str(store), "on_gate_failure": "stop", "project": None}
    assert ui.ended(first) == "COMPLETED", house.tell()
    ui.open_run(first)
    ui.seen("Completed")
    ui.shot("completed", 4000)
    assert ArtifactStore.open(store).manifests("releases")


def assert_nothing_made_twice(before: dict[str, str], store: Path) -> set[str]:
    """What was finished before is what it was, by commit_id; returns the keys that came to it."""
    after = records(ArtifactStore.open(store))
    assert {key: after.get(key) for key in before} == before
    return set(after) - set(before)


def test_a_failed_run_is_mended_and_retried(ui: Ui, house: House, first: str, store: Path) -> None:
    """The judge's weights are not there: scoring fails when curation, training and editing are done. They are put there, and Retry goes on."""
    assert ui.ended(first) == "COMPLETED", house.tell()
    judge, overrides = house.home / "judge", small()
    overrides["stages"][0]["evaluate"]["judge"]["weights"] = str(judge)
    ui.open_form()
    ui.fill_form("without-the-judge", overrides, store, "stop")
    run = ui.submit()
    assert ui.ended(run) == "FAILED", house.tell()
    before = records(ArtifactStore.open(store))
    assert {"clips", "masks", "latents", "conditions", "cards", "checkpoints", "edits"} <= {key.split("/")[0] for key in before}
    ui.open_run(run)
    ui.seen("Failed")
    ui.newest_first()
    ui.seen(re.compile("are not on this machine. Set `weights` to an existing folder"))
    ui.shot("failed", 4000)
    shutil.copytree(shipped.shipped_folder("nano:judge"), judge)
    ui.from_menu("Retry")
    dialog = ui.page.get_by_role("dialog").or_(ui.page.get_by_role("alertdialog"))
    dialog.wait_for()
    ui.shot("retry")
    dialog.get_by_role("button", name="Retry").click()
    ui.seen("Running")
    assert ui.ended(run) == "COMPLETED", house.tell()
    ui.open_run(run, "Task Runs")
    ui.seen("Completed")
    ui.shot("retried", 4000)
    added = assert_nothing_made_twice(before, store)
    assert {"reports", "gates", "releases"} == {key.split("/")[0] for key in added if key.endswith("/manifest.json")}


def test_an_approval_is_given(ui: Ui, house: House, first: str, store: Path) -> None:
    assert ui.ended(first) == "COMPLETED", house.tell()
    before = records(ArtifactStore.open(store))
    ui.open_form()
    ui.fill_form("ask-me", small(**MISSED), store, "ask")
    run = ui.submit()
    ui.open_run(run)
    ui.seen("Paused")
    ui.from_menu("Resume")
    dialog = ui.page.get_by_role("dialog")
    ui.seen(re.compile("missed its gate"), dialog)
    ui.shot("asked")
    ui.page.get_by_role("dialog").get_by_role("switch").or_(dialog.get_by_role("checkbox")).first.click()
    dialog.get_by_role("textbox").first.fill("looked at its edits: the background holds")
    ui.shot("approval")
    dialog.get_by_role("button", name=re.compile("Resume|Submit")).click()
    assert ui.ended(run) == "COMPLETED", house.tell()
    ui.open_run(run)
    ui.newest_first()
    ui.seen(re.compile("was approved by a person: looked at its edits"))
    ui.shot("approved", 3000)
    assert {"gates", "releases"} == {key.split("/")[0] for key in assert_nothing_made_twice(before, store)}


def test_artifacts_are_opened(ui: Ui, house: House, first: str) -> None:
    assert ui.ended(first) == "COMPLETED", house.tell()
    ui.open_run(first, "Artifacts")
    for key in ("clips", "masks", "gate-verify", "contact-sheet-verify", "run-so-far"):
        ui.seen(re.compile(rf"\b{key}\b"))
    ui.shot("artifacts")
    ui.open_artifact(first, "gate-verify")
    ui.seen("bg_psnr_composited_db")
    ui.shot("gate")
    ui.open_artifact(first, "contact-sheet-verify")
    pictures = "() => [...document.images].filter(i => i.src.startsWith('data:image/jpeg') && i.naturalWidth > 100).length"
    ui.page.wait_for_function(pictures)
    ui.shot("contact_sheet")
    ui.open_artifact(first, "run-so-far")
    ui.seen("worker_hours")
    ui.seen(re.compile("^releases/"))
    ui.shot("run_so_far")
