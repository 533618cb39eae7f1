"""What kind of edit it is: groups that a report gives means of, so that easy edits do not hide what hard ones show.

category    metadata.category of the template's clip, where its line gives one
difficulty  metadata.difficulty where given, e.g. easy; else by how unlike the two products are: 'own product', 'same kind', 'other kind'
            (by metadata.category, or by metadata.look_alikes where there is no category)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def groups_of(template: Mapping[str, Any], product: Mapping[str, Any]) -> dict[str, str]:
    """group -> which, of an edit: the clips rows of the clip that is edited and of the clip whose product goes in."""
    told, put_in = (json.loads(row.get("metadata") or "{}") for row in (template, product))
    found = {"category": str(told["category"])} if told.get("category") else {}
    difficulty = told.get("difficulty") or _unlike(template, product, told, put_in)
    return found | ({"difficulty": str(difficulty)} if difficulty else {})


def _unlike(template: Mapping[str, Any], product: Mapping[str, Any], told: Mapping[str, Any], put_in: Mapping[str, Any]) -> str | None:
    if template["product_id"] == product["product_id"]:
        return "own product"
    for kind in ("category", "look_alikes"):
        if told.get(kind) and put_in.get(kind):
            return "same kind" if told[kind] == put_in[kind] else "other kind"
    return None
