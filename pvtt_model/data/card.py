"""The card of a version of the data: what is in it, in figures that a person would ask for before training on it.

Computed from a tally of the tables that curation's artifacts carry, so it decodes nothing. A warning stands for what others lost days on: one
caption for most clips, one product for many, masks larger than what edits well, no licence.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pvtt_model.data.captions import templates
from pvtt_model.data.tally import Row, Tally
from pvtt_model.specs import VideoSpec

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
    said: Tally,
    refusals: Sequence[Row],
    stored_bytes: Mapping[str, int],
    twins: Sequence[Row] = (),
    video: VideoSpec | None = None,
    encoders: Sequence[dict[str, str]] = (),
) -> DataCard:
    """said: of all clips (tally.py). refusals: of the clips artifact. twins: the pairs of near-duplicates; counted are those of two files still in.
    video: of the latents, for the clips' buckets; None leaves them out. encoders: for the page, as they are."""
    captions: Counter[str] = Counter()
    caption_sources: Counter[str] = Counter()
    pairs: Counter[tuple[str, str | None]] = Counter()  # with the product's words
    for (text, source, _, words), n in said.captions.items():
        captions[text] += n
        caption_sources[source] += n
        pairs[text, words] += n
    alike, commonest = templates(pairs), Counter[str]()
    for pair, n in pairs.items():
        if template := alike[pair]:
            commonest[template] += n
    sizes = said.sizes  # few: what hangs on a clip's size is asked for once a size
    clips, held_out = len(said.keys), said.flags["held_out"]
    card: dict[str, Any] = {
        "clips": clips,
        "usable": clips - said.lost.total(),
        "refused": len(refusals),
        "refused_by": _counted(Counter(r["kind"] for r in refusals).items()),
        "unusable_by": _counted(said.lost.items()),
        "hours": sum(dict(zip(said.files, said.seconds, strict=True)).values()) / 3600,
        "splits": {
            "training": clips - held_out,
            "validation": said.flags["validation"],
            "evaluation": held_out - said.flags["validation"],
        },
        "products": len(said.products),
        "products_held_out": len(said.held_out_products),
        "most_clips_of_a_product": dict(said.products.most_common(5)),
        "sizes": _counted((f"{width} x {height}", n) for (width, height), n in sizes.items()),
        "aspects": _counted((_aspect(*size), n) for size, n in sizes.items()),
        "buckets": _counted(("{} x {}".format(*video.bucket_of(*size)), n) for size, n in sizes.items()) if video else {},
        "fps": _counted((f"{fps:.4g}", n) for fps, n in said.fps.items()),
        "frames": _spread(said.frames),
        "caption_words": _spread([words for text, n in captions.items() for words in [len(text.split())] * n]),
        "distinct_captions": len(captions),
        "commonest_caption": captions.most_common(1)[0] if captions else None,
        "caption_sources": _counted(caption_sources.items()),
        "fallback_captions": sum(n for (_, _, fallback, _), n in said.captions.items() if fallback),
        "commonest_template": next(iter(commonest.most_common(1)), None),
        "product_words": sum(n for (*_, words), n in said.captions.items() if words),
        "mask_area": _spread(said.areas),
        "mask_jitter_px": _spread(said.jitters_px),
        "mask_provenance": _counted(said.provenance.items()),
        "at_risk": said.flags["at_risk"],
        "at_risk_by": _counted(said.risks.items()),
        "licences": _counted(said.licences.items()),
        "near_duplicates": _twins(said, twins),
        "stored_bytes": dict(stored_bytes),
        "encoders": tuple(encoders),
    }
    warnings = (*_warnings(card, captions, said.products), *_caption_warnings(card, said, alike), *_cut_away(sizes, video))
    return DataCard(**card, warnings=warnings)


def _twins(said: Tally, twins: Sequence[Row]) -> int:
    """Pairs of which both clips are in, and of two files: two edits asked of one video are no duplicates."""
    file_of = dict(zip(said.keys, said.files, strict=True))
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


def _cut_away(sizes: Mapping[tuple[int, int], int], video: VideoSpec | None) -> list[str]:
    """What the way to their buckets does to clips of an aspect far from all of them. sizes: (width, height) -> clips."""
    kept = {size: video.kept_share(*size) for size in sizes} if video else {}
    far = [size for size, share in kept.items() if share < KEPT]
    if video is None or not far:
        return []
    worst = min(far, key=lambda size: kept[size])
    share, seen_at = kept[worst], "{}x{}".format(*video.bucket_of(*worst))
    done = f"the crop keeps {share:.0%} of the picture" if video.fit == "crop" else f"one side is stretched {1 / share:.2g} times the other"
    return [
        f"{sum(sizes[size] for size in far)} of {sum(sizes.values())} clips are far from every bucket in aspect: at worst "
        f"({worst[0]}x{worst[1]} seen at {seen_at}) {done}. Add a bucket near theirs (latents.video.buckets)."
    ]


def _caption_warnings(card: Mapping[str, Any], tally: Tally, alike: Mapping[tuple[str, str | None], str | None]) -> list[str]:
    clips, said = card["clips"], []
    if clips > 1 and card["fallback_captions"] / clips > FALLBACK:
        sources = ", ".join(sorted({source for _, source, fallback, _ in tally.captions if fallback}))
        said.append(f"{card['fallback_captions']} of {clips} captions are fallbacks, from {sources}: what they stand in for is missing.")
    template, count = card["commonest_template"] or ("", 0)
    if clips > 1 and count / clips > ONE_TEMPLATE and count > card["commonest_caption"][1]:
        sources = ", ".join(sorted({source for text, source, _, words in tally.captions if alike[text, words] == template}))
        said.append(f"{count} of {clips} captions are one template, '{template[:80]}', given as from {sources}. Did what they are from really run?")
    return said


def _aspect(width: int, height: int) -> str:
    ratio = width / height
    return "square" if 0.9 < ratio < 1.1 else "landscape" if ratio > 1 else "portrait"


def _counted(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Of (name, how often), where a name may stand more than once: commonest first, then by name."""
    found: dict[str, int] = {}
    for name, n in counts:
        found[name] = found.get(name, 0) + n
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(n=len(values), least=min(values), q25=q25, median=median, q75=q75, most=max(values))
