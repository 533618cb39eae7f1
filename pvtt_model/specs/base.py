"""Typed, frozen settings. A spec says what is made; where and how fast is the infrastructure's business.

A field that cannot change the output is marked `Execution(...)`: it stays out of an artifact's identity, so raising a
retry limit re-trains nothing. Every unknown field is refused (`extra="forbid"`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


def Execution(default: Any, **kwargs: Any) -> Any:
    """A field of how, not what, or one that stored figures are judged by where they are shown: left out of `identity()`."""
    return Field(default=default, json_schema_extra={"execution": True}, **kwargs)


def Added(default: Any, **kwargs: Any) -> Any:
    """A field that came later. Its default is what was done before, and is left out of `identity()`: what was made then keeps its name."""
    return Field(default=default, json_schema_extra={"added": True}, **kwargs)


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide the output, as plain JSON values."""
        kept: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("execution"):
                continue
            value = getattr(self, name)
            if isinstance(extra, dict) and extra.get("added") and value == field.default:
                continue
            kept[name] = _plain(value)
        return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
