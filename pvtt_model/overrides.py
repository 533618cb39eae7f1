"""Settings by dotted path: 'stages.*.train.steps=5' on the plain values of a spec."""

from __future__ import annotations

import difflib
import json
from typing import Any


def parse_override(text: str) -> tuple[str, Any]:
    """'stages.0.train.steps=5' as a path and a JSON value; what is not JSON stays a string. Raises ValueError without '='."""
    path, equals, raw = text.partition("=")
    if not equals or not path:
        raise ValueError(f"override '{text}' is not of the form path=value, e.g. stages.verify.train.steps=5")
    try:
        return path, json.loads(raw)
    except json.JSONDecodeError:
        return path, raw


def set_by_path(values: dict[str, Any], path: str, value: Any) -> None:
    """Put `value` at a dotted path of a spec's plain values. Raises ValueError naming the choices."""
    places: list[Any] = [values]
    *parents, last = path.split(".")
    for i, part in enumerate(parents):
        places = [child for place in places for child in _descend(place, part, path, ".".join(parents[:i]))]
    for place in places:
        if isinstance(place, list):
            index = _index(place, last, path)
            for i in index:
                place[i] = value
        elif isinstance(place, dict) and last in place:
            place[last] = value
        else:
            choices = list(place) if isinstance(place, dict) else []
            raise ValueError(f"override '{path}': no field '{last}'. {valid_choices(last, choices)}")


def _descend(place: Any, part: str, path: str, above: str) -> list[Any]:
    if isinstance(place, list):
        return [place[i] for i in _index(place, part, path)]
    if isinstance(place, dict) and part in place:
        return [place[part]]
    choices = list(place) if isinstance(place, dict) else []
    where = f" under '{above}'" if above else ""
    raise ValueError(f"override '{path}': no field '{part}'{where}. {valid_choices(part, choices)}")


def _index(place: list[Any], part: str, path: str) -> list[int]:
    if part == "*":
        return list(range(len(place)))
    names = [str(item.get("name", i)) if isinstance(item, dict) else str(i) for i, item in enumerate(place)]
    if part in names:
        return [names.index(part)]
    if part.isdigit() and int(part) < len(place):
        return [int(part)]
    raise ValueError(f"override '{path}': no element '{part}'. {valid_choices(part, names + ['*'])}")


def valid_choices(got: str, choices: list[str]) -> str:
    if not choices:
        return "Nothing lies below it."
    near = difflib.get_close_matches(got, choices, 1)
    return (f"Did you mean '{near[0]}'? " if near else "") + f"Valid: {', '.join(choices)}."
