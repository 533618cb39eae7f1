"""The data card: figures by hand, warnings where others lost days, a page that holds nothing it should not."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import orjson
import pytest
import torch

from pvtt_model.data import card as cards
from pvtt_model.data.card import DataCard, Spread
from pvtt_model.data.card_html import card_html, headline
from pvtt_model.data.tally import Tally, tally, tally_from, together
from pvtt_model.data.video_io import png_bytes, write_mp4
from pvtt_model.evaluation.clip_sheet import clip_sheet
from pvtt_model.specs import VideoSpec


def fact(i: int, **changes: Any) -> dict[str, Any]:
    plain = {"clip_key": f"k{i}", "product_id": f"p{i}", "split": None, "held_out": False, "prompt": f"a mug number {i}", "width": 832, "height": 480}
    return plain | {"fps": 16.0, "num_frames": 80 + i, "product_words": None} | changes


def mask(i: int, **changes: Any) -> dict[str, Any]:
    return {"clip_key": f"k{i}", "usable": True, "provenance": "manifest", "area": 0.1 * (i + 1), "jitter_px": 1.0} | changes


def used(count: int, *unusable: int) -> list[dict[str, Any]]:
    return [{"clip_key": f"k{i}", "usable": i not in unusable} for i in range(count)]


def data_card(facts: list[Any], refusals: Any, masks: list[Any], later: dict[str, list[Any]], *more: Any, **others: Any) -> DataCard:
    """Of all at once; and the same of clip after clip, each kept as JSON has it."""
    card = cards.data_card(tally(facts, masks, later), refusals, *more, **others)
    pieces = [tally_from(orjson.loads(orjson.dumps(tally([f], masks, later).kept()))) for f in facts]
    assert cards.data_card(together(pieces), refusals, *more, **others) == card
    return card


def card_of(facts: list[Any], masks: list[Any] | None = None, refusals: Any = (), **later: list[Any]) -> DataCard:
    masks = [mask(i) for i in range(len(facts))] if masks is None else masks
    return data_card(facts, refusals, masks, later or {"latents": used(len(facts)), "conditions": used(len(facts))}, {"latents": 5_000_000})


def test_figures_by_hand():
    facts = [
        fact(0, split="eval", held_out=True, licence="CC BY 4.0"),
        fact(1, split="validation", held_out=True, width=480, height=832),
        fact(2, width=512, height=512, fps=29.97, product_id="p1", product_words="a mug"),
        fact(3, prompt="a mug number 2"),
    ]
    masks = [mask(0), mask(1, provenance="grabcut"), mask(2, usable=False, area=0.9), mask(3)]
    refusals = [{"kind": "unreadable_video"}, {"kind": "too_short"}, {"kind": "unreadable_video"}]
    card = card_of(facts, masks, refusals, latents=used(4, 2, 3), conditions=used(4))
    assert (card.clips, card.usable, card.refused) == (4, 2, 3)
    assert card.refused_by == {"unreadable_video": 2, "too_short": 1}
    assert card.unusable_by == {"latents": 1, "masks": 1}, "a clip counts for the first step that refused it"
    assert card.hours == pytest.approx((80 / 16 + 81 / 16 + 82 / 29.97 + 83 / 16) / 3600)
    assert card.splits == {"training": 2, "validation": 1, "evaluation": 1}
    assert (card.products, card.products_held_out, card.product_words) == (3, 2, 1)
    assert card.sizes == {"832 x 480": 2, "480 x 832": 1, "512 x 512": 1}
    assert card.aspects == {"landscape": 2, "portrait": 1, "square": 1}
    assert card.fps == {"16": 3, "29.97": 1}
    assert card.frames == Spread(n=4, least=80, q25=80.75, median=81.5, q75=82.25, most=83)
    area = card.mask_area
    assert area is not None and (area.n, area.least, area.median, area.most) == (3, 0.1, 0.2, 0.4)
    assert (area.q25, area.q75) == pytest.approx((0.15, 0.3))
    assert card.mask_provenance == {"manifest": 3, "grabcut": 1}
    assert card.licences == {"not stated": 3, "CC BY 4.0": 1}
    assert card.commonest_caption == ("a mug number 2", 2) and card.distinct_captions == 3
    assert headline(card).startswith("2 usable of 4 accepted clips (3 refused)")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "a product on a table"}, "10 of 10 clips have one and the same caption: 'a product on a table'"),
        ({"product_id": "mug"}, "10 of 10 clips show one product, 'mug'"),
        ({}, "No clip is held out"),
        ({}, "10 of 10 clips state no licence"),
    ],
)
def test_what_others_lost_days_on_is_warned_of(changes, said):
    assert any(w.startswith(said) for w in card_of([fact(i, **changes) for i in range(10)]).warnings)


def test_buckets_are_counted_and_far_aspects_warned_of():
    facts = [fact(0, licence="ours", held_out=True), fact(1, licence="ours"), fact(2, licence="ours", width=1080, height=1920)]
    facts += [fact(i, licence="ours", width=500, height=500) for i in (3, 4)]
    masks, later = [mask(i) for i in range(5)], {"latents": used(5), "conditions": used(5)}

    def card(**changes: Any) -> DataCard:
        return data_card(facts, [], masks, later, {}, video=VideoSpec(**changes))

    alone = card()
    assert alone.buckets == {"832 x 480": 5}
    assert alone.warnings == (
        "3 of 5 clips are far from every bucket in aspect: at worst (1080x1920 seen at 832x480) the crop keeps 32% of the picture. "
        "Add a bucket near theirs (latents.video.buckets).",
    )
    assert "seen at 832x480) one side is stretched 3.1 times the other" in card(fit="stretch").warnings[0]
    some = card(buckets=((480, 832), (624, 624)))
    assert some.buckets == {"624 x 624": 2, "832 x 480": 2, "480 x 832": 1} and some.warnings == ()
    assert "3 of 5" not in "".join(card(buckets=((480, 832),)).warnings)
    assert card_of(facts).buckets == {}, "where the latents' settings are not known"


def test_captions_are_counted_by_source_and_templates_warned_of():
    """176 of 200 captions one template, all labelled with a model that never ran."""
    facts = [fact(i, licence="ours", held_out=i > 198, prompt="of the manifest") for i in range(200)]
    own = ["rain", "a shelf", "steam over", "old hands", "waves"]
    texts = [f"A video of a thing{i} on a white table." if i < 176 else f"{own[i % 5]} and number{i} word{i} more{i} here{i}" for i in range(200)]
    table = [
        row | {"caption": text, "caption_source": "qwen2.5-vl-7b@cc59", "caption_fallback": False} for row, text in zip(used(200), texts, strict=True)
    ]
    card = card_of(facts, [mask(i, area=0.1) for i in range(200)], latents=used(200), conditions=table)
    assert card.caption_sources == {"qwen2.5-vl-7b@cc59": 200} and card.fallback_captions == 0 and card.distinct_captions == 200
    assert card.commonest_template == ("a video of a * on a white table", 176)
    assert [w.split("'")[:2] for w in card.warnings] == [["176 of 200 captions are one template, ", "a video of a * on a white table"]]
    assert "given as from qwen2.5-vl-7b@cc59" in card.warnings[0]


def test_fallbacks_are_warned_of_and_tables_of_before_are_read():
    facts = [fact(i, licence="ours", held_out=i > 8) for i in range(10)]
    said = [{"caption": f["prompt"], "caption_source": "file name" if i < 6 else "human", "caption_fallback": i < 6} for i, f in enumerate(facts)]
    card = card_of(facts, latents=used(10), conditions=[row | caption for row, caption in zip(used(10), said, strict=True)])
    assert card.fallback_captions == 6 and card.caption_sources == {"file name": 6, "human": 4}
    assert card.warnings == ("6 of 10 captions are fallbacks, from file name: what they stand in for is missing.",)
    before = card_of(facts)
    assert before.caption_sources == {"the manifest, which does not say": 10} and before.fallback_captions == 0 and before.encoders == ()


def test_good_data_is_not_warned_of():
    facts = [fact(i, licence="ours", held_out=i > 8) for i in range(10)]
    assert card_of(facts).warnings == ()
    one = card_of([fact(0, licence="ours", held_out=True)])
    assert one.warnings == () and one.frames == Spread(n=1, least=80, q25=80, median=80, q75=80, most=80)


def test_clips_at_risk_are_counted_by_figure():
    facts = [fact(i, licence="ours", held_out=i > 8) for i in range(10)]
    risks = [{"area": "area 40.0% above 27.5%"}, {"area": "..", "jitter": ".."}, {"agreement": ".."}]
    masks = [mask(i, risks=risks[i] if i < 3 else {}, usable=i != 2) for i in range(10)]
    card = card_of(facts, masks, latents=used(10), conditions=used(10))
    assert (card.at_risk, card.at_risk_by) == (2, {"area": 2, "jitter": 1}), "an unusable one is lost, not at risk"
    assert card.warnings == ("2 of 10 clips are at risk of a failed edit by their masks (masks.risky_*): 2 for their area, 1 for their jitter.",)


def test_found_masks_and_lost_clips_are_warned_of():
    facts = [fact(i, licence="ours", held_out=i > 8) for i in range(10)]
    masks = [mask(i, provenance="grabcut" if i < 4 else "manifest", usable=i != 9) for i in range(10)]
    card = card_of(facts, masks, latents=used(10, 0, 1, 9), conditions=used(10))
    assert [w.split(":")[0] for w in card.warnings] == ["3 of 10 accepted clips cannot be used", "4 of 10 masks were found, not given (grabcut)"]


def test_shots_of_one_file_count_its_hours_once_and_pairs_count_while_both_are_in():
    facts = [fact(0, video_sha256="a", num_frames=1600), fact(1, video_sha256="a", num_frames=1600), fact(2, video_sha256="b", num_frames=1600)]
    twins = [{"clip_key": "k0", "twin": "k1"}, {"clip_key": "k1", "twin": "k2"}, {"clip_key": "k2", "twin": "gone"}]
    masks = [mask(0), mask(1), mask(2, usable=False, provenance="none")]
    card = data_card(facts, [], masks, {}, {}, twins)
    assert card.hours == pytest.approx(200 / 3600) and card.near_duplicates == 1
    assert not any("found, not given" in w for w in card.warnings), "a clip without a mask has no found one"


def test_no_clip_at_all():
    card = card_of([], [], [{"kind": "too_short"}], latents=[], conditions=[])
    assert card.warnings == ("No clip was accepted.",) and card.frames is None and card.commonest_caption is None


def test_a_table_may_have_more_clips_but_not_fewer():
    facts = [fact(0), fact(2)]
    masks = [mask(0), mask(1, area=0.9), mask(2)]
    card = card_of(facts, masks, latents=used(3, 1), conditions=used(3))
    assert card.usable == 2 and card.mask_area is not None and (card.mask_area.n, card.mask_area.most) == (2, pytest.approx(0.3))
    with pytest.raises(ValueError, match="the table of latents lacks 1 clips of the clips' own, e.g. k2"):
        card_of(facts, masks, latents=used(2), conditions=used(3))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_the_page_escapes_and_needs_nothing_else(tmp_path):
    path = tmp_path / "clip.mp4"
    frames = torch.zeros(5, 3, 32, 64, dtype=torch.uint8)
    write_mp4(path, frames, 8)
    mask_png = png_bytes(torch.ones(32, 64, dtype=torch.bool))
    row = fact(0, video=path.read_bytes(), references=[png_bytes(frames[0])])
    shown = clip_sheet([(row, mask(0, mask=[mask_png] * 5)), (row | {"video": b"none"}, mask(0, mask=[mask_png] * 5))], 2, 9, tmp_path / "sheet.png")
    nasty = "<script>alert('x')</script> & co"
    facts = [fact(i, prompt=nasty, product_id=nasty, licence=nasty) for i in range(3)]
    model = dict.fromkeys(("encoder", "model", "weights", "revision"), nasty) | {"files": "model.safetensors " + "f" * 64}
    said = {"caption": nasty, "caption_source": nasty, "caption_fallback": True}
    later = {"latents": used(3), "conditions": [row | said for row in used(3)]}
    card = data_card(facts, [], [mask(i) for i in range(3)], later, {}, encoders=[model])
    assert DataCard.model_validate_json(card.model_dump_json()) == card
    page = card_html(card, "clips/abc", shown, tmp_path / "card.html").read_text()
    tags = _Tags()
    tags.feed(page)
    assert "script" not in {tag for tag, _ in tags.seen} and "&lt;script&gt;" in page and "f" * 64 in page
    sources = [attrs.get("src") or attrs.get("href") for _, attrs in tags.seen if attrs.get("src") or attrs.get("href")]
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)


def test_putting_tallies_together_changes_none_of_them():
    one, two = (tally([fact(i, product_id="mug", prompt="a mug")], [mask(i)], {"latents": used(3), "conditions": used(3)}) for i in (0, 2))
    before = one.kept(), two.kept()
    whole = together([one, two])
    assert (one.kept(), two.kept()) == before
    assert whole.keys == ["k0", "k2"] and whole.areas == pytest.approx([0.1, 0.3]) and whole.products == {"mug": 2}
    assert together([]) == Tally(*([] if isinstance(field, list) else type(field)() for field in whole))
    with pytest.raises((ValueError, TypeError)):
        tally_from(one.kept()[:-1])
