"""The pages docs/reference/commands.md and settings.md, from the commands themselves and from the recipe's types.

python -m cli.reference        writes both anew; a test holds them against what this would write
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel

from infra.settings import REPOSITORY
from pvtt_model.specs import RecipeSpec, Spec

PAGES = REPOSITORY / "docs" / "reference"
WRITTEN = "*Written by `python -m cli.reference`; change the code, not this page.*"
NAMES = {str: "text", int: "whole number", float: "number", Path: "path"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    from cli.main import app

    parts = ["# Commands", WRITTEN, "`pvtt` is `.venv/bin/pvtt` of the checkout. Every command says the same with `--help`."]
    parts += [part for name, command in _commands(typer.main.get_command(app), "pvtt") for part in _command(name, command)]
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children or getattr(command, "invoke_without_command", False):
        yield name, command
    for word, child in children.items():
        yield from _commands(child, f"{name} {word}")


def _command(name: str, command: Any) -> list[str]:
    rows, usage = [], name
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        if parameter.opts[0].startswith("-"):
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            usage += f" {parameter.opts[0]} .." if parameter.required else ""
        else:
            names = parameter.name.upper()
            usage += f" {names}" if parameter.required else f" [{names}]"
        rows.append([f"`{names}`", _values(parameter), _default(parameter), parameter.help or ""])
    text = inspect.cleandoc(command.help or "")
    return [f"## {name}", f"    {usage}", text, *([_table(["name", "value", "default", "meaning"], rows)] if rows else [])]


def _values(parameter: Any) -> str:
    """What it takes: 'text', 'path', the choices, or nothing of a switch."""
    if getattr(parameter, "is_flag", False):
        return "-"
    annotation = parameter.type_descriptor.annotation
    several = get_origin(annotation) is list
    plain = next((kind for kind in [*get_args(annotation), annotation] if inspect.isclass(kind) and kind is not type(None)), str)
    said = ", ".join(f"`{choice.value}`" for choice in plain) if issubclass(plain, Enum) else NAMES.get(plain, plain.__name__)
    return said + (" .." if several else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = getattr(parameter.default, "value", parameter.default)
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"`{shown}`" if isinstance(shown, (str, int, float)) and shown not in ("", "false") else "-"


def settings() -> str:
    """Every field of a recipe by its dotted path."""
    intro = (
        "A recipe is a `RecipeSpec`. Any field is set by its dotted path, `--set stages.verify.train.steps=40`; `*` in place of a stage's name "
        "means every stage. The defaults here are the types' own; a recipe's values are printed by `pvtt recipes NAME`. A field with *how* says "
        "how, not what: it is no part of an artifact's name, so changing it makes nothing anew."
    )
    parts = ["# Settings of a recipe", WRITTEN, intro]
    for path, spec in _specs(RecipeSpec, ""):
        text = inspect.cleandoc(spec.__doc__ or "")
        parts += [f"## {path.removesuffix('.') or 'the recipe'}", *([text] if text else []), _fields(path, spec)]
    return "\n\n".join(parts) + "\n"


def _specs(spec: type[Spec], path: str) -> Iterator[tuple[str, type[Spec]]]:
    """A spec and those below it, each type once, where it is met first."""
    seen: set[type[Spec]] = set()
    waiting = [(path, spec)]
    while waiting:
        path, spec = waiting.pop(0)
        if spec in seen:
            continue
        seen.add(spec)
        yield path, spec
        for name, field in spec.model_fields.items():
            star = "NAME." if name == "stages" else ""
            waiting += [(f"{path}{name}.{star}", below) for below in _below(field.annotation)]


def _below(annotation: Any) -> list[type[Spec]]:
    if inspect.isclass(annotation) and issubclass(annotation, Spec):
        return [annotation]
    return [found for part in get_args(annotation) for found in _below(part)]


def _fields(path: str, spec: type[BaseModel]) -> str:
    schema = spec.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        own = spec.model_fields[name]
        how = "*how*. " if field.get("execution") else ""
        nested = bool(_below(own.annotation))
        default = "needed" if own.is_required() else "its own" if nested and field.get("default") else f"`{json.dumps(field.get('default'))}`"
        rows.append([f"`{name}`", _type(field, schema.get("$defs", {})), default, how + field.get("description", "")])
    return _table(["field", "value", "default", "meaning"], rows)


def _type(field: dict[str, Any], others: dict[str, Any]) -> str:
    """A JSON schema's type in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"{name}, below"
    if "anyOf" in field:
        return " or ".join(_type(part, others) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        inner: dict[str, Any] = field.get("items") or next(iter(field.get("prefixItems", [])), {})
        return f"list of {_type(inner, others)}"
    if field.get("type") == "object":
        return f"names to {_type(field['additionalProperties'], others)}" if isinstance(field.get("additionalProperties"), dict) else "object"
    bounds = ", ".join(f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if key in field)
    return " ".join(filter(None, [field.get("type", "any"), bounds]))


def _table(heads: list[str], rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *escaped])


def main(folder: Path = PAGES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.md").write_text(commands(), encoding="utf-8")
    (folder / "settings.md").write_text(settings(), encoding="utf-8")


if __name__ == "__main__":
    main()
