"""The per-edit table as files inside the page: CSV, Parquet, and the whole report as JSON."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from html import escape

import pyarrow as pa
import pyarrow.parquet as pq

from pvtt_model.evaluation.report import Report

MOST_PLAIN = 1_000_000  # bytes of JSON that the page holds as they are: an edit has some 16 kB of it, a twentieth when packed
_FACTS = ("clip_key", "reference_key", "status", "reason", "prompt")


def columns_of(report: Report) -> tuple[list[str], list[str]]:
    """(groups, metrics) that any edit has, in the order of their first."""
    groups = list(dict.fromkeys(name for edit in report.per_edit for name in edit.groups))
    metrics = list(dict.fromkeys(name for edit in report.per_edit for name in edit.scores))
    return groups, metrics


def edits_csv(report: Report) -> str:
    """A row an edit: facts, groups (named group:category), metrics; empty where not measured.

    Text that a spreadsheet would run as a formula (it begins with = + - @, tab or return) has a ' put before it. Numbers are whole (repr).
    """
    groups, metrics = columns_of(report)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*_FACTS, *(_as_text(f"group:{name}") for name in groups), *map(_as_text, metrics)])
    for edit in report.per_edit:
        facts = [getattr(edit, name) for name in _FACTS] + [edit.groups.get(name, "") for name in groups]
        values = [edit.scores[name].value if name in edit.scores else None for name in metrics]
        writer.writerow([*map(_as_text, facts), *values])
    return out.getvalue()


def edits_parquet(report: Report) -> bytes:
    """The same, typed: text, and float64 with null. The file's metadata holds the stage and each metric's direction and extractor."""
    groups, metrics = columns_of(report)
    data: dict[str, pa.Array] = {name: pa.array([getattr(edit, name) for edit in report.per_edit], pa.string()) for name in _FACTS}
    data |= {f"group:{name}": pa.array([edit.groups.get(name) for edit in report.per_edit], pa.string()) for name in groups}
    for name in metrics:
        values = [edit.scores[name].value if name in edit.scores else None for edit in report.per_edit]
        data[name] = pa.array(values, pa.float64())
    said = {m.name: {"direction": m.direction, "extractor": m.extractor} for m in report.metrics}
    found = pa.table(data).replace_schema_metadata({"pvtt.stage": report.stage, "pvtt.metrics": json.dumps(said)})
    sink = pa.BufferOutputStream()
    pq.write_table(found, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def downloads_html(report: Report) -> str:
    stem = "".join(char if char.isalnum() or char in "-_" else "_" for char in report.stage) or "stage"
    files = [
        (f"edits-{stem}.csv", "text/csv", edits_csv(report).encode(), "CSV"),
        (f"edits-{stem}.parquet", "application/vnd.apache.parquet", edits_parquet(report), "Parquet"),
    ]
    whole = report.model_dump_json().encode()
    if len(whole) <= MOST_PLAIN:
        files.append((f"report-{stem}.json", "application/json", whole, "JSON, the whole report"))
    else:
        packed = gzip.compress(whole, mtime=0)
        files.append((f"report-{stem}.json.gz", "application/gzip", packed, f"JSON, the whole report ({_size(len(whole))}), gzip"))
    return "<p class='downloads'>Download: " + " ".join(_link(*file) for file in files) + "</p>"


def _link(name: str, kind: str, data: bytes, said: str) -> str:
    link = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f"<a class='button' download='{escape(name, quote=True)}' href='{link}'>{escape(said)} <span class='pale'>{_size(len(data))}</span></a>"


def _size(count: int) -> str:
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _as_text(value: str) -> str:
    return "'" + value if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
