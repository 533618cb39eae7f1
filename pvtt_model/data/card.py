"""The card of a version of the data: what is in it, in figures that a person would ask for before training on it.

Computed from the tables that curation's artifacts carry, so it decodes nothing. A warning stands for what others lost days on: one caption for
most clips, one product for many, masks larger than what edits well, no licence.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pvtt_model.data.captions import UNSTATED, Caption, templates
from pvtt_model.specs import VideoSpec

Row = Mapping[str, Any]
Finite = Annotated[float, Field(allow_inf_nan=False)]

SAME_CAPTION, SAME_PRODUCT, UNUSABLE = 0.2, 0.2, 0.2  # shares above which the card warns; ours
KEPT = 0.6  # a clip of whose picture the crop keeps less is warned of; ours. A square one keeps 58 % at 832 x 480, a 9:16 one 32 %
ONE_TEMPLATE, FALLBACK = 0.5, 0.5


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Frozen):
    """Of one figure over n clips: least, quartiles, most."""

    n: int
    least: Finite
    q25: Finite
    median: Finite
    q75: Finite
    most: Finite


class DataCard(_Frozen):
    """hours: of the source files behind the accepted clips, each once. Counts are of clips unless they say otherwise."""

    clips: int
    usable: int = Field(description="accepted clips that no later step refused")
    refused: int = Field(description="lines, or shots of a line")
    refused_by: dict[str, int] = Field(description="reason's kind -> how many of them")
    unusable_by: dict[str, int] = Field(description="step -> accepted clips it could not use")
    hours: Finite
    splits: dict[str, int] = Field(description="training, validation, evaluation")
    products: int
    products_held_out: int
    most_clips_of_a_product: dict[str, int]
    sizes: dict[str, int] = Field(description="'width x height' of the source")
    aspects: dict[str, int] = Field(description="landscape, square, portrait")
    buckets: dict[str, int] = Field(description="'width x height' that the model sees")
    fps: dict[str, int]
    frames: Spread | None
    caption_words: Spread | None
    distinct_captions: int
    commonest_caption: tuple[str, int] | None
    caption_sources: dict[str, int] = Field(description="what the embedded captions came from")
    fallback_captions: int = Field(description="embedded captions that stand in for a better one")
    commonest_template: tuple[str, int] | None = Field(description="captions that differ in slots alone: captions.templates")
    product_words: int = Field(description="clips whose product is named in words")
    mask_area: Spread | None = Field(description="mean share of the frame, of clips with a mask")
    mask_jitter_px: Spread | None
    mask_provenance: dict[str, int]
    at_risk: int = Field(description="clips with a mask whose figures predict a failed edit, by the recipe's masks.risky_*")
    at_risk_by: dict[str, int] = Field(description="figure -> how many of them; a clip may have several")
    licences: dict[str, int]
    near_duplicates: int = Field(description="pairs")
    stored_bytes: dict[str, int] = Field(description="kind -> bytes of its shards")
    encoders: tuple[dict[str, str], ...] = Field(description="the frozen models behind it: weight_record.encoder_rows")
    warnings: tuple[str, ...]


def data_card(
    facts: Sequence[Row],
    refusals: Sequence[Row],
    masks: Sequence[Row],
    later: Mapping[str, Sequence[Row]],
    stored_bytes: Mapping[str, int],
    twins: Sequence[Row] = (),
    video: VideoSpec | None = None,
    encoders: Sequence[dict[str, str]] = (),
) -> DataCard:
    """facts, refusals: of the clips artifact; masks: the masks' table, judged (mask_risk.py); later: kind -> its table (usable, clip_key), in
    order. A table may have clips that were refused after their shard was written. twins: the pairs of near-duplicates; counted are those of two
    files still in. video: of the latents, for the clips' buckets; None leaves them out. Captions are those embedded, by the table of conditions,
    as they were before any words were hidden. encoders: for the page, as they are.

    Raises ValueError where a table lacks a clip.
    """
    tables = {kind: _of(facts, rows, kind) for kind, rows in {"masks": masks, **later}.items()}
    masks = tables["masks"]
    lost: dict[str, str] = {}
    for kind, rows in tables.items():
        for row in rows:
            if not row["usable"]:
                lost.setdefault(row["clip_key"], kind)
    seen = [row for row in masks if row["usable"]]
    said = _captions(facts, tables.get("conditions", ()))
    captions = Counter(caption.text for caption in said)
    alike = templates([caption.text for caption in said], [f.get("product_words") for f in facts])
    template = next(iter(Counter(a for a in alike if a).most_common(1)), None)
    products = Counter(str(f["product_id"]) for f in facts)
    sizes = Counter((f["width"], f["height"]) for f in facts)  # few: what hangs on a clip's size is asked for once a size
    card: dict[str, Any] = {
        "clips": len(facts),
        "usable": len(facts) - len(lost),
        "refused": len(refusals),
        "refused_by": _counts(r["kind"] for r in refusals),
        "unusable_by": _counts(lost.values()),
        "hours": sum({f.get("video_sha256") or f["clip_key"]: f["num_frames"] / f["fps"] for f in facts}.values()) / 3600,
        "splits": _splits(facts),
        "products": len(products),
        "products_held_out": len({f["product_id"] for f in facts if f["held_out"]}),
        "most_clips_of_a_product": dict(products.most_common(5)),
        "sizes": _counted((f"{width} x {height}", n) for (width, height), n in sizes.items()),
        "aspects": _counted((_aspect(*size), n) for size, n in sizes.items()),
        "buckets": _counted(("{} x {}".format(*video.bucket_of(*size)), n) for size, n in sizes.items()) if video else {},
        "fps": _counted((f"{fps:.4g}", n) for fps, n in Counter(f["fps"] for f in facts).items()),
        "frames": _spread([f["num_frames"] for f in facts]),
        "caption_words": _spread([len(caption.text.split()) for caption in said]),
        "distinct_captions": len(captions),
        "commonest_caption": captions.most_common(1)[0] if captions else None,
        "caption_sources": _counts(caption.source for caption in said),
        "fallback_captions": sum(caption.fallback for caption in said),
        "commonest_template": template,
        "product_words": sum(bool(f.get("product_words")) for f in facts),
        "mask_area": _spread([row["area"] for row in seen]),
        "mask_jitter_px": _spread([row["jitter_px"] for row in seen]),
        "mask_provenance": _counts(row["provenance"] for row in masks),
        "at_risk": sum(bool(row.get("risks")) for row in seen),
        "at_risk_by": _counts(name for row in seen for name in row.get("risks", ())),
        "licences": _counts(str(f.get("licence") or "not stated") for f in facts),
        "near_duplicates": _twins(facts, twins),
        "stored_bytes": dict(stored_bytes),
        "encoders": tuple(encoders),
    }
    return DataCard(**card, warnings=(*_warnings(card, captions, products), *_caption_warnings(card, said, alike), *_cut_away(facts, video)))


def _captions(facts: Sequence[Row], conditions: Sequence[Row]) -> list[Caption]:
    """Of each clip the caption that was embedded; its prompt where the table is of before and does not say."""
    rows = conditions or [{}] * len(facts)
    return [
        Caption(str(row.get("caption", fact["prompt"])), row.get("caption_source", UNSTATED), bool(row.get("caption_fallback")))
        for fact, row in zip(facts, rows, strict=True)
    ]


def _of(facts: Sequence[Row], rows: Sequence[Row], kind: str) -> list[Row]:
    """The table's rows of the facts' clips, in their order."""
    by_key = {row["clip_key"]: row for row in rows}
    missing = [f["clip_key"] for f in facts if f["clip_key"] not in by_key]
    if missing:
        raise ValueError(f"the table of {kind} lacks {len(missing)} clips of the clips' own, e.g. {missing[0]}. Re-run curation.")
    return [by_key[f["clip_key"]] for f in facts]


def _twins(facts: Sequence[Row], twins: Sequence[Row]) -> int:
    """Pairs of which both clips are in, and of two files: two edits asked of one video are no duplicates."""
    file_of = {f["clip_key"]: f.get("video_sha256") or f["clip_key"] for f in facts}
    pairs = [(file_of.get(pair["clip_key"]), file_of.get(pair["twin"])) for pair in twins]
    return sum(a is not None and b is not None and a != b for a, b in pairs)


def _warnings(card: Mapping[str, Any], captions: Counter[str], products: Counter[str]) -> list[str]:
    clips, said = card["clips"], []
    if not clips:
        return ["No clip was accepted."]
    words, count = captions.most_common(1)[0]
    if clips > 1 and count / clips > SAME_CAPTION:
        said.append(f"{count} of {clips} clips have one and the same caption: '{words[:80]}'. A teacher cannot learn from it what the words mean.")
    product, count = products.most_common(1)[0]
    if clips > 1 and count / clips > SAME_PRODUCT:
        said.append(f"{count} of {clips} clips show one product, '{product}'.")
    if sum(card["unusable_by"].values()) / clips > UNUSABLE:
        why = ", ".join(f"{n} for their {kind}" for kind, n in card["unusable_by"].items())
        said.append(f"{clips - card['usable']} of {clips} accepted clips cannot be used: {why}.")
    if not card["splits"]["evaluation"]:
        said.append("No clip is held out: nothing can be evaluated on clips that were not trained on.")
    missing = card["licences"].get("not stated", 0)
    if missing:
        said.append(f"{missing} of {clips} clips state no licence (metadata.licence).")
    found = {name: n for name, n in card["mask_provenance"].items() if name not in ("manifest", "none")}
    if found:
        said.append(f"{sum(found.values())} of {clips} masks were found, not given ({', '.join(found)}): look at the overlay.")
    if card["at_risk"]:
        why = ", ".join(f"{n} for their {name}" for name, n in card["at_risk_by"].items())
        said.append(f"{card['at_risk']} of {clips} clips are at risk of a failed edit by their masks (masks.risky_*): {why}.")
    return said


def _cut_away(facts: Sequence[Row], video: VideoSpec | None) -> list[str]:
    """What the way to their buckets does to clips of an aspect far from all of them."""
    kept = {size: video.kept_share(*size) for size in {(f["width"], f["height"]) for f in facts}} if video else {}
    far = [f for f in facts if kept.get((f["width"], f["height"]), 1.0) < KEPT]
    if video is None or not far:
        return []
    worst = min(far, key=lambda f: kept[f["width"], f["height"]])
    share, size = kept[worst["width"], worst["height"]], "{}x{}".format(*video.bucket_of(worst["width"], worst["height"]))
    done = f"the crop keeps {share:.0%} of the picture" if video.fit == "crop" else f"one side is stretched {1 / share:.2g} times the other"
    return [
        f"{len(far)} of {len(facts)} clips are far from every bucket in aspect: at worst ({worst['width']}x{worst['height']} seen at {size}) {done}. "
        "Add a bucket near theirs (latents.video.buckets)."
    ]


def _caption_warnings(card: Mapping[str, Any], captions: Sequence[Caption], alike: Sequence[str | None]) -> list[str]:
    clips, said = card["clips"], []
    if clips > 1 and card["fallback_captions"] / clips > FALLBACK:
        sources = ", ".join(sorted({caption.source for caption in captions if caption.fallback}))
        said.append(f"{card['fallback_captions']} of {clips} captions are fallbacks, from {sources}: what they stand in for is missing.")
    template, count = card["commonest_template"] or ("", 0)
    if clips > 1 and count / clips > ONE_TEMPLATE and count > card["commonest_caption"][1]:
        sources = ", ".join(sorted({caption.source for caption, one in zip(captions, alike, strict=True) if one == template}))
        said.append(f"{count} of {clips} captions are one template, '{template[:80]}', given as from {sources}. Did what they are from really run?")
    return said


def _splits(facts: Sequence[Row]) -> dict[str, int]:
    validation = sum(f["split"] == "validation" for f in facts)
    held = sum(bool(f["held_out"]) for f in facts)
    return {"training": len(facts) - held, "validation": validation, "evaluation": held - validation}


def _aspect(width: int, height: int) -> str:
    ratio = width / height
    return "square" if 0.9 < ratio < 1.1 else "landscape" if ratio > 1 else "portrait"


def _counts(values: Any) -> dict[str, int]:
    """Commonest first, then by name."""
    return _counted(Counter(values).items())


def _counted(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The same of (name, how often), where a name may stand more than once."""
    found: dict[str, int] = {}
    for name, n in counts:
        found[name] = found.get(name, 0) + n
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(n=len(values), least=min(values), q25=q25, median=median, q75=q75, most=max(values))
