"""Re-training when clips are pushed: the event that says so, and the automation that runs the deployment `retrain/retrain` on it.

python -m flows.on_push automate          make the automation, or bring it up to date; one that was switched off stays off
python -m flows.on_push say '{"clips": "s3://bucket/prefix", "recipe": "nano-wide", "overrides": {}, "new": 3, "project": null}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.events import AutomationCore, Event, EventTrigger, Posture, Resource, RunDeployment
from prefect.events.clients import get_events_client

EVENT = "pvtt.data.pushed"
AUTOMATION = "retrain on pushed clips"
DEPLOYMENT = "retrain/retrain"


def _of_event(template: str, as_json: bool = False) -> dict[str, Any]:
    """A parameter of the run that is made of the event."""
    value = {"__prefect_kind": "jinja", "template": template}
    return {"__prefect_kind": "json", "value": value} if as_json else value


def parameters() -> dict[str, Any]:
    """Of the run, by templates that the server fills from the event; an event without a project is of none."""
    return {
        "clips": _of_event("{{ event.payload.clips }}"),
        "recipe": _of_event("{{ event.payload.recipe }}"),
        "overrides": _of_event("{{ event.payload.overrides | tojson }}", as_json=True),
        "project": _of_event("{{ event.payload.project | default(none) | tojson }}", as_json=True),
    }


async def automate() -> str:
    """Make the automation where it is not, else renew what it does; returns a line that says so."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(DEPLOYMENT)
        found = await client.read_automations_by_name(AUTOMATION)
        wanted = AutomationCore(
            name=AUTOMATION,
            description="what `pvtt data push` sends: the recipe's retrain policy then decides whether it is worth a training",
            enabled=found[0].enabled if found else True,
            trigger=EventTrigger(expect={EVENT}, posture=Posture.Reactive, threshold=1, within=timedelta(0)),
            actions=[RunDeployment(source="selected", deployment_id=deployment.id, parameters=parameters(), job_variables=None)],
        )
        if found:
            await client.update_automation(found[0].id, wanted)
        else:
            await client.create_automation(wanted)
        return f"automation '{AUTOMATION}': event {EVENT} -> {DEPLOYMENT}, {'on' if wanted.enabled else 'off'}"


async def say(payload: dict[str, Any]) -> str:
    """Send the event, and wait until the server has it; its resource is the prefix."""
    resource = Resource({"prefect.resource.id": str(payload["clips"]), "prefect.resource.name": "pushed clips"})
    event = Event(event=EVENT, resource=resource, payload=payload)
    async with get_events_client(checkpoint_every=1) as client:
        await client.emit(event)
    return f"event {EVENT} {event.id}"


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    print(asyncio.run(automate() if command == "automate" else say(json.loads(rest[0]))))
