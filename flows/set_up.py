"""Make on the Prefect server what deployments and people stand on; doing it twice changes nothing.

python -m flows.set_up --pool local                  the work pool, its limit of one training at a time, the detection of crashed runs
python -m flows.set_up --pool cluster --trainings 2  the Kubernetes pool with infra/k8s/base-job-template.json
python -m flows.set_up --notify                      a message with the link for every run that fails, crashes or asks for approval: to the
                                                     webhook in PVTT_NOTIFY_WEBHOOK, or by a block that is there already (--notify-block)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict

from tasks.training_slot import limit_of

TEMPLATE = Path(__file__).resolve().parents[1] / "infra" / "k8s" / "base-job-template.json"
TYPES = {"local": "process", "cluster": "kubernetes"}
#: A run tells every 30 s that it lives (PREFECT_FLOWS_HEARTBEAT_FREQUENCY). More than a server's restart, in which nobody hears it.
SILENT_S = 240
SILENT = f"no sign of life for {SILENT_S} s. Run it again: what is done stays done."
#: From when a worker has taken a run until its process says that it begins; on a cluster an image may have to be pulled meanwhile.
UNBEGUN_S = 600
UNHEARD = f"it began, and nothing was heard of it for {SILENT_S} s. Run it again: what is done stays done."
UNBEGUN = f"a worker took it, and it did not begin within {UNBEGUN_S} s. Is the worker gone, or the image not to be had? Run it again."
CRASHED, NOT_HEARD, NOT_BEGUN = "pvtt: crashed runs", "pvtt: runs that were never heard", "pvtt: runs that never began"
NOTIFY, WEBHOOK = "pvtt: notify", "pvtt-notify"
#: A run of one of prefect.yaml's deployments, which all have their runs tell that they live.
OURS: list[dict[str, str]] = [{"prefect.resource.id": "prefect.tag.pvtt"}, {"prefect.resource.id": "prefect.deployment.*"}]
ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended")}
TOLD_OF = ("Failed", "Crashed", "TimedOut", "Paused", "Suspended")


async def set_up(pools: dict[str, int], notify: str | None) -> list[str]:
    """pools: how many trainings at a time, by pool. notify: the block 'slug/name' that sends messages. Says what stands."""
    said = []
    async with get_client() as client:
        for pool, trainings in pools.items():
            await _pool(client, pool)
            await client.upsert_global_concurrency_limit_by_name(limit_of(pool), trainings)
            said.append(f"work pool '{pool}' ({TYPES[pool]}); at most {trainings} training(s) at a time ('{limit_of(pool)}')")
        if pools:
            await _automation(client, crashed_runs())
            said.append(f"automation '{CRASHED}': a run that says nothing for {SILENT_S} s is marked Crashed")
            await _automation(client, runs_never_heard())
            said.append(f"automation '{NOT_HEARD}': one that began and says nothing for {SILENT_S} s is, too")
            await _automation(client, runs_that_never_began())
            said.append(f"automation '{NOT_BEGUN}': a run that a worker took {UNBEGUN_S} s ago and that is still Pending is marked Crashed")
        if notify:
            await _automation(client, notifications(await _block(client, notify)))
            said.append(f"automation '{NOTIFY}': {', '.join(TOLD_OF)} -> {notify}")
    return said


async def _pool(client: PrefectClient, name: str) -> None:
    template: dict[str, Any] = json.loads(TEMPLATE.read_text()) if TYPES[name] == "kubernetes" else {}
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        pool = WorkPoolCreate(name=name, type=TYPES[name])
        if template:
            pool.base_job_template = template
        await client.create_work_pool(pool)
        return
    if template:
        await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def crashed_runs() -> AutomationCore:
    """A run whose process is gone with nobody to say so, as after a power cut, would stay Running for ever."""
    return _marked_crashed(
        CRASHED, "No heartbeat and no end: the run's process is gone. Run it again; it goes on from what is done.",
        "prefect.flow-run.heartbeat", {"prefect.flow-run.heartbeat", *ENDS}, SILENT_S, SILENT,
    )  # fmt: skip


def runs_never_heard() -> AutomationCore:
    """A run killed between its beginning and its first sign of life: the automation before waits for the one after the last that it heard."""
    return _marked_crashed(
        NOT_HEARD, "Running and never a heartbeat: the run's process was gone at once. Run it again; it goes on from what is done.",
        "prefect.flow-run.Running", {"prefect.flow-run.heartbeat", *ENDS}, SILENT_S, UNHEARD, related=OURS,
    )  # fmt: skip


def runs_that_never_began() -> AutomationCore:
    """A run whose worker took it and did not live to begin it would stay Pending for ever: no other worker takes it, and it has no heartbeat."""
    return _marked_crashed(
        NOT_BEGUN, "Pending and nothing more: its worker is gone. Run it again.",
        "prefect.flow-run.Pending", {"prefect.flow-run.Running", *ENDS}, UNBEGUN_S, UNBEGUN,
    )  # fmt: skip


def _marked_crashed(
    name: str, why: str, after: str, expect: set[str], within_s: int, message: str, related: Sequence[dict[str, str]] = ()
) -> AutomationCore:
    """Of each run: after that event one of these others, or it is marked Crashed. related: resources of the run, all of them."""
    return AutomationCore(
        name=name,
        description=why,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={after},
            expect=expect,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[ResourceSpecification.model_validate(its) for its in related],
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=message, force=False)],
    )


def notifications(block: UUID) -> AutomationCore:
    """One message a state that a person should know of."""
    return AutomationCore(
        name=NOTIFY,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={f"prefect.flow-run.{state}" for state in TOLD_OF},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.name }} is {{ flow_run.state.name }}\n{{ flow_run.state.message or '' }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


async def _automation(client: PrefectClient, wanted: AutomationCore) -> None:
    for found in await client.read_automations_by_name(wanted.name):
        await client.update_automation(found.id, wanted)
        return
    await client.create_automation(wanted)


async def _block(client: PrefectClient, name: str) -> UUID:
    slug, _, block = name.partition("/")
    return (await client.read_block_document_by_name(block, slug)).id


def webhook(url: str) -> str:
    """Save the block that POSTs {"subject", "text"} to `url`, which is kept among its encrypted values."""
    text = {"subject": "{{subject}}", "text": "{{body}}"}
    block = CustomWebhookNotificationBlock(
        name="pvtt", url="{{webhook}}", json_data=text, headers=None, cookies=None, secrets=SecretDict({"webhook": url})
    )
    block.save(WEBHOOK, overwrite=True)
    return f"custom-webhook/{WEBHOOK}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", action="append", default=[], choices=sorted(TYPES))
    parser.add_argument("--trainings", type=int, default=1, help="how many trainings at a time on these pools")
    parser.add_argument("--notify", action="store_true", help="to the webhook in PVTT_NOTIFY_WEBHOOK")
    parser.add_argument("--notify-block", help="by a notification block that is there, e.g. sendgrid-email/ops")
    given = parser.parse_args()
    url = os.environ.get("PVTT_NOTIFY_WEBHOOK", "")
    if given.notify and not url.startswith(("https://", "http://")):
        sys.exit("--notify wants the webhook's address in PVTT_NOTIFY_WEBHOOK, https://... It is a secret, so it is not an argument.")
    block = webhook(url) if given.notify else given.notify_block
    for line in asyncio.run(set_up(dict.fromkeys(given.pool, given.trainings), block)):
        print(line)


if __name__ == "__main__":
    main()
