"""A data card as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from pvtt_model.backbones.weight_record import ENCODER_COLUMNS
from pvtt_model.data.card import DataCard, Spread
from pvtt_model.page import bar, number, picture, table, warnings, write_page

MOST_LINES = 12


def card_html(card: DataCard, name: str, contact_sheet_png: str | Path | None, path: str | Path) -> Path:
    """Write the page and return its path. name: the clips artifact's."""
    body = [f"<h1>Data card</h1><p><code>{escape(name)}</code>: {escape(headline(card))}</p>", warnings(card.warnings)]
    spreads = {
        "frames a clip": card.frames, "words a caption": card.caption_words, "mask area, share of the frame": card.mask_area,
        "mask jitter, px": card.mask_jitter_px,
    }  # fmt: skip
    body += ["<h2>How they spread</h2>", _spreads(spreads)]
    counts: dict[str, Mapping[str, int]] = {
        "Splits": card.splits, "Refused, by reason": card.refused_by, "Accepted, but unusable, by step": card.unusable_by,
        "Sizes of the sources": card.sizes, "Aspects": card.aspects, "Buckets": card.buckets, "Frames a second": card.fps,
        "Masks from": card.mask_provenance, "At risk, by the mask's figure": card.at_risk_by, "Captions from": card.caption_sources,
        "Licences": card.licences, "Products with most clips": card.most_clips_of_a_product,
    }  # fmt: skip
    for title, found in counts.items():
        body += [f"<h2>{escape(title)}</h2>", _counts(found)]
    if card.commonest_caption is not None:
        text, count = card.commonest_caption
        body.append(f"<h2>Captions</h2><p>{card.distinct_captions} distinct; the commonest, {count} times: {escape(text)}</p>")
    if card.commonest_template is not None:
        text, count = card.commonest_template
        body.append(f"<p>{card.fallback_captions} are fallbacks. The commonest template, {count} times: {escape(text)}</p>")
    if contact_sheet_png is not None:
        body += ["<h2>A sample</h2>", picture(contact_sheet_png, "Clips with their masks and reference pictures")]
    stored = [[escape(kind), number(f"{n / 1e6:.1f} MB"), number(f"{n / max(1, card.clips) / 1e3:.1f} kB")] for kind, n in card.stored_bytes.items()]
    body += ["<h2>Stored</h2>", table(["shards", "bytes", "a clip"], stored)]
    if card.encoders:
        body += ["<h2>Encoders</h2>", table(ENCODER_COLUMNS, [[escape(row[column]) for column in ENCODER_COLUMNS] for row in card.encoders])]
    return write_page(path, f"PVTT data card: {name}", body)


def headline(card: DataCard) -> str:
    """The card in a line."""
    return (
        f"{card.usable} usable of {card.clips} accepted clips ({card.refused} refused), {card.hours:.3g} hours, {card.products} products, "
        f"{card.products_held_out} of them held out; {card.product_words} clips name their product; {card.near_duplicates} near-duplicates"
    )


def _counts(found: Mapping[str, int]) -> str:
    if not found:
        return "<p class='pale'>none</p>"
    most = max(1, *found.values())
    rows = [[escape(name), number(str(n)), bar(n / most)] for name, n in list(found.items())[:MOST_LINES]]
    left = len(found) - MOST_LINES
    return table(["", "clips", ""], rows) + (f"<p class='pale'>and {left} more kinds</p>" if left > 0 else "")


def _spreads(found: Mapping[str, Spread | None]) -> str:
    rows = []
    for name, s in found.items():
        figures = ["-"] * 5 if s is None else [f"{v:.4g}" for v in (s.least, s.q25, s.median, s.q75, s.most)]
        rows.append([escape(name), *map(number, figures), number(str(s.n if s else 0))])
    return table(["", "least", "25 %", "median", "75 %", "most", "clips"], rows)
