from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtt_model.data.ingest import split_products
from pvtt_model.data.shards import SCHEMAS, count_rows, read_row, read_rows, write_clip_shard, write_shard


def clip_row(i: int) -> dict[str, object]:
    return {
        "clip_key": f"{i:020x}",
        "video": bytes([i]) * 100,
        "mask": [b"m"] * i,
        "mask_format": "png" if i else "none",
        "references": [b"r"],
        "prompt": "p",
        "width": 64,
        "height": 48,
        "fps": 16.0,
        "num_frames": 9,
        "product_id": "a",
        "split": None,
        "metadata": "{}",
        "source": "v.mp4",
        "line": i,
        "product_words": None,
        "look_alikes": None,
        "truth_product_id": "b" if i else None,
        "truth_video": b"t" * i if i else None,
        "truth_mask": [b"m"] * i if i else None,
        "used_frames": [0, 1, 1] if i else None,
        "truth_frame_hashes": None,
        "start_s": 1.5 if i else None,
        "frame_hashes": "0f" * 768,
    }


def test_rows_read_back_alone_and_together(tmp_path: Path) -> None:
    rows = [clip_row(i) for i in range(4)]
    assert write_clip_shard(tmp_path / "a", iter(rows)) == 4
    write_clip_shard(tmp_path / "b", rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_rows(tmp_path / "a") == rows and read_row(tmp_path / "a", 2) == rows[2] and count_rows(tmp_path / "a") == 4
    assert read_row(tmp_path / "a", 3, ["clip_key", "mask"]) == {"clip_key": rows[3]["clip_key"], "mask": [b"m"] * 3}
    with pytest.raises(IndexError):
        read_row(tmp_path / "a", 4)
    with pytest.raises(ValueError, match="no column"):
        read_rows(tmp_path / "a", ["name"])


def test_a_row_unlike_the_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in .'extra'"):
        write_shard(tmp_path / "a", [{**clip_row(0), "extra": 1}], SCHEMAS["clips"])
    with pytest.raises(ValueError, match="no value for .'prompt'"):
        write_shard(tmp_path / "a", [{**clip_row(0), "prompt": None}], SCHEMAS["clips"])
    assert not (tmp_path / "a").exists()


names = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=30, unique=True)


@given(names, st.floats(0, 1))
def test_split_is_by_hash_alone(products: list[str], share: float) -> None:
    chosen = split_products(products, share, {})
    assert chosen == split_products(products[::-1] + products, share, {})
    assert 1 <= len(chosen) < len(products)


@given(names, st.floats(0, 1), st.data())
def test_given_splits_win(products: list[str], share: float, data: st.DataObject) -> None:
    given_ = data.draw(st.dictionaries(st.sampled_from(products), st.sampled_from(["train", "validation", "eval"])))
    chosen = split_products(products, share, given_)
    assert {p for p, s in given_.items() if s != "train"} <= chosen
    free = set(products) - set(given_)
    if len(free) >= 2:  # one is left to judge, one to train on
        assert any(given_.get(p) != "validation" for p in chosen) and chosen != set(products)
    assert not {p for p, s in given_.items() if s == "train"} & chosen


def test_share_is_about_kept_and_one_product_is_trained_on() -> None:
    assert split_products(["a"], 0.9, {}) == set()
    assert split_products(["a"], 0.1, {"a": "eval"}) == {"a"} == split_products(["a"], 0.1, {"a": "validation"})
    assert split_products(["a", "b"], 0.0, {"a": "validation"}) == {"a"}
    assert len(split_products(["a", "b", "c"], 0.0, {"a": "validation"})) == 2
    assert 60 < len(split_products([f"product-{i}" for i in range(1000)], 0.1, {})) < 140
