"""The whole matrix over 64 nano edits on two cores, against metric after metric, the frames decoded each time.

    PYTHONPATH=. .venv/bin/python -m benchmarks.score_matrix [--edits 64] [--rounds 9]

Edits are of the nano world at the nano recipe's size: the right edit with noise on it as the raw one, other products for the baselines. Ours: the
nano recipe's EvalSpec through tasks.score_work.score_one on two warm Ray actors, as the task does it, into an empty derived/ each round. The peer:
one process with two threads, a loop over the metrics, each decoding what it needs of every edit (a metric with all of its baselines in one
pass, so fewer decodes than one for every column), with the same networks, loaded before the clock starts. Each round both score all edits; every
figure of the peer must equal ours to 1e-4 (other batches, other threads).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import torch

from infra.artifact_store import ArtifactStore
from infra.ray_launch import map_on_ray, start_ray, stop_ray
from infra.settings import settings
from pvtt_model.data.shards import SCHEMAS, write_shard
from pvtt_model.data.video_io import png_bytes
from pvtt_model.evaluation import background_psnr, background_ssim, flicker, frame_ssim
from pvtt_model.evaluation.dynamic_degree import dynamic_degree
from pvtt_model.evaluation.edit_direction import edit_direction
from pvtt_model.evaluation.frame_shift import frame_shift
from pvtt_model.evaluation.frames import decode_frames, decode_masks, decode_reference
from pvtt_model.evaluation.fvd import video_features
from pvtt_model.evaluation.gallery import SCHEMA, choose_candidates, read_gallery
from pvtt_model.evaluation.identity import shown_products
from pvtt_model.evaluation.in_product_psnr import flat_grey, in_product_psnr_db
from pvtt_model.evaluation.pasted import pasted
from pvtt_model.evaluation.product_change import product_change
from pvtt_model.evaluation.similarity import embed_reference, product_similarity, text_similarity
from pvtt_model.evaluation.structure_distance import structure_distance
from pvtt_model.nano.world import render_clip, render_reference, shots
from pvtt_model.recipes import recipe_by_name
from pvtt_model.specs import EvalSpec
from tasks.score_work import ScoreUnit, score_one
from tasks.shard_work import model_of

RECIPE = recipe_by_name("nano")
SPEC: EvalSpec = RECIPE.stages[0].evaluate
Row = dict[str, Any]


def edits_of(count: int) -> tuple[list[Row], list[Row]]:
    """(edits rows, gallery rows): each edit shows the next eval clip's product."""
    world = RECIPE.world.model_copy(update={"num_train": 2, "num_validation": 2, "num_eval": max(count, 24)})
    of_eval = [i for i, shot in enumerate(shots(world)) if shot.split == "eval"][:count]
    noise = torch.Generator().manual_seed(0)
    products = [shots(world)[i].product for i in of_eval]
    rows, gallery = [], []
    for n, index in enumerate(of_eval):
        right, wrong = products[(n + 1) % count], products[(n + 2) % count]
        clip, truth, other = render_clip(world, index), render_clip(world, index, right), render_clip(world, index, wrong)
        raw = (truth.frames_TCHW.long() + torch.randint(-8, 9, truth.frames_TCHW.shape, generator=noise)).clamp(0, 255).to(torch.uint8)
        ceiling = (truth.frames_TCHW.long() + 2).clamp(0, 255).to(torch.uint8)
        composited = torch.where(clip.mask_THW[:, None], raw, clip.frames_TCHW)
        made = {
            "source": clip.frames_TCHW, "raw": raw, "composited": composited, "round_trip": ceiling, "truth": truth.frames_TCHW,
            "truth_round_trip": ceiling, "base": clip.frames_TCHW.flip(0), "no_reference": other.frames_TCHW, "wrong_reference": other.frames_TCHW,
        }  # fmt: skip
        rows.append(
            {
                "clip_key": f"clip{n}", "usable": True, "reason": None, "reference_key": f"clip{(n + 1) % count}", "prompt": "a " + right.words,
                "source_prompt": "a " + products[n].words, "product_id": right.product_id, "wrong_product_id": wrong.product_id, "fps": 8.0,
                "mask": [png_bytes(m) for m in clip.mask_THW], "truth_mask": [png_bytes(m) for m in truth.mask_THW],
                "reference": png_bytes(render_reference(world, right, 0)), **{k: [png_bytes(f) for f in v] for k, v in made.items()},
            }
        )  # fmt: skip
        gallery.append({"product_id": products[n].product_id, "look_alikes": None, "pictures": [png_bytes(render_reference(world, products[n], 0))]})
    return rows, gallery


class MetricAfterMetric:
    """The peer. Each metric takes the edits one after the other and decodes what it needs of each."""

    def __init__(self, gallery: Path) -> None:
        self.clip, self.dino, self.judge = model_of("clip", SPEC.clip), model_of("image", SPEC.dino), model_of("image", SPEC.judge)  # type: ignore[arg-type]
        self.video, self.gallery = model_of("video", SPEC.fvd), read_gallery(gallery, self.judge)  # type: ignore[arg-type]

    def score(self, rows: list[Row]) -> list[dict[str, float]]:
        found: list[dict[str, float]] = [{} for _ in rows]
        for metric in (
            self.psnr, self.ssim, self.frame_ssim, self.frame_motion, self.clip_i, self.dino_i, self.clip_t, self.shift, self.change, self.in_product,
            self.identity, self.temporal, self.added, self.dynamic, self.structure, self.direction, self.fvd,
        ):  # fmt: skip
            for row, its in zip(rows, found, strict=True):
                its.update(metric(row))
        return found

    def videos(self, row: Row, *names: str) -> list[torch.Tensor]:
        return [decode_frames(row[name]) for name in names]

    def baselines(self, row: Row) -> dict[str, torch.Tensor]:
        names = {"": "raw", "_composited": "composited", "_source": "source", "_wrong_reference": "wrong_reference"}
        found = {suffix: decode_frames(row[name]) for suffix, name in names.items()}
        return found | {"_pasted": pasted(found["_source"], decode_masks(row["mask"]), decode_reference(row["reference"]))}

    def psnr(self, row: Row) -> dict[str, float]:
        source, mask = decode_frames(row["source"]), decode_masks(row["mask"])
        names = {"raw": "raw", "composited": "composited", "ceiling": "round_trip"}
        return {f"bg_psnr_{k}_db": background_psnr.background_psnr_db(decode_frames(row[v]), source, mask) for k, v in names.items()}

    def ssim(self, row: Row) -> dict[str, float]:
        source, mask = decode_frames(row["source"]), decode_masks(row["mask"])
        names = {"raw": "raw", "composited": "composited", "ceiling": "round_trip"}
        return {f"bg_ssim_{k}": background_ssim.background_ssim(decode_frames(row[v]), source, mask) for k, v in names.items()}

    def frame_ssim(self, row: Row) -> dict[str, float]:
        return {f"frame_ssim{k or '_raw'}": frame_ssim.frame_ssim(v) for k, v in self.baselines(row).items()}

    def frame_motion(self, row: Row) -> dict[str, float]:
        return {f"frame_motion{k or '_raw'}": frame_ssim.frame_motion(v) for k, v in self.baselines(row).items()}

    def clip_i(self, row: Row) -> dict[str, float]:
        return self._similar("clip_i", self.clip, row)

    def dino_i(self, row: Row) -> dict[str, float]:
        return self._similar("dino_i", self.dino, row)

    def _similar(self, name: str, network: Any, row: Row) -> dict[str, float]:
        mask, reference = decode_masks(row["mask"]), embed_reference(network, decode_reference(row["reference"]))
        bracket = f"[{network.name.split(' (')[0]}]"
        return {f"{name}{k}{bracket}": product_similarity(network, v, mask, reference, SPEC.crop_margin) for k, v in self.baselines(row).items()}

    def clip_t(self, row: Row) -> dict[str, float]:
        return {f"clip_t{k}[{self.clip.name.split(' (')[0]}]": text_similarity(self.clip, v, row["prompt"]) for k, v in self.baselines(row).items()}

    def shift(self, row: Row) -> dict[str, float]:
        try:
            return {"frame_shift": frame_shift(*self.videos(row, "raw", "source"), decode_masks(row["mask"]))}
        except ValueError:
            return {}

    def change(self, row: Row) -> dict[str, float]:
        raw, source, ceiling, wrong = self.videos(row, "raw", "source", "round_trip", "wrong_reference")
        mask = decode_masks(row["mask"])
        found = {"product_change": product_change(raw, source, mask), "product_change_ceiling": product_change(ceiling, source, mask)}
        return found | {"reference_effect": product_change(raw, wrong, mask)}

    def in_product(self, row: Row) -> dict[str, float]:
        truth, where = decode_frames(row["truth"]), decode_masks(row["truth_mask"])
        names = {"_base": "base", "_no_reference": "no_reference", "_ceiling": "truth_round_trip"}
        videos = self.baselines(row) | {k: decode_frames(row[v]) for k, v in names.items()}
        videos["_flat"] = flat_grey(videos["_source"], decode_masks(row["mask"]))
        return {f"in_product_psnr_db{k}": in_product_psnr_db(v, truth, where) for k, v in videos.items()}

    def identity(self, row: Row) -> dict[str, float]:
        mask = decode_masks(row["mask"])
        names = {"_truth": "truth", "_base": "base", "_no_reference": "no_reference"}
        videos = self.baselines(row) | {k: decode_frames(row[v]) for k, v in names.items()}
        videos.pop("_composited")
        candidates = choose_candidates(self.gallery.look_alikes, row["clip_key"], row["product_id"], row["wrong_product_id"], SPEC.candidates)
        shown = shown_products(self.judge, videos, mask, self.gallery, candidates)
        return {f"identity_top1{k}[{self.judge.name.split(' (')[0]}]": float(v == row["product_id"]) for k, v in shown.items()}

    def temporal(self, row: Row) -> dict[str, float]:
        raw, composited, source = self.videos(row, "raw", "composited", "source")
        named = {"": raw, "_composited": composited, "_source": source}
        return {f"temporal_flicker{k}": flicker.temporal_flicker(v) for k, v in named.items()}

    def added(self, row: Row) -> dict[str, float]:
        raw, composited, source, ceiling = self.videos(row, "raw", "composited", "source", "round_trip")
        mask = decode_masks(row["mask"])
        return {
            f"added_flicker{k}": flicker.added_flicker(v, source, mask) for k, v in {"": raw, "_composited": composited, "_ceiling": ceiling}.items()
        }

    def dynamic(self, row: Row) -> dict[str, float]:
        raw, composited, source = self.videos(row, "raw", "composited", "source")
        return {f"dynamic_degree{k}": dynamic_degree(v) for k, v in {"": raw, "_composited": composited, "_source": source}.items()}

    def structure(self, row: Row) -> dict[str, float]:
        raw, composited, source, ceiling = self.videos(row, "raw", "composited", "source", "round_trip")
        bracket = f"[{self.dino.name.split(' (')[0]}]"
        named = {"": raw, "_composited": composited, "_ceiling": ceiling}
        return {f"structure_distance{k}{bracket}": structure_distance(self.dino, v, source) for k, v in named.items()}

    def direction(self, row: Row) -> dict[str, float]:
        raw, composited, source = self.videos(row, "raw", "composited", "source")
        bracket = f"[{self.clip.name.split(' (')[0]}]"
        said = row["source_prompt"], row["prompt"]
        return {f"edit_direction{k}{bracket}": edit_direction(self.clip, v, source, *said) for k, v in {"": raw, "_composited": composited}.items()}

    def fvd(self, row: Row) -> dict[str, float]:
        for video in self.videos(row, "source", "raw", "round_trip"):
            video_features(self.video, video)
        return {}


def agree(ours: list[dict[str, Any]], theirs: list[dict[str, float]]) -> tuple[int, float]:
    """(figures compared, largest difference). Raises where the peer measured what ours has not."""
    worst, count = 0.0, 0
    for one, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            worst, count = max(worst, abs(one["scores"][name]["value"] - value)), count + 1
    return count, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"PVTT_HOME": str(Path(name) / "home"), "PVTT_NUM_CPUS": "2", "RAY_worker_niceness": "0"}
        uri = str(Path(name) / "store")
        where = settings(uri)
        store = ArtifactStore.open(uri, where.cache)
        rows, products = edits_of(asked.edits)
        files = []
        for row in rows:
            path = Path(name) / "edit.parquet"
            write_shard(path, [row], SCHEMAS["edits"])
            files.append(store.pool(path, f"{row['clip_key']}.parquet", rows=1))
        gallery = Path(name) / "gallery.parquet"
        write_shard(gallery, products, SCHEMA)
        pooled = store.pool(gallery, gallery.name)
        start_ray(where)

        def ours(salt: str, some: int | None = None) -> list[dict[str, Any]]:
            units = [
                ScoreUnit(uri, f"{salt}-{i}", RECIPE, 0, file, {"clip_key": row["clip_key"], "reference_key": row["reference_key"]}, pooled)
                for i, (file, row) in enumerate(zip(files, rows, strict=True))
            ]
            return [record.summary for record in map_on_ray(score_one, units[:some], name="scoring", settings=where)]

        ours("warm", 4)
        torch.set_num_threads(2)
        peer = MetricAfterMetric(gallery)
        peer.score(rows[:1])
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for number in range(asked.rounds):
            for side in ("ours", "peer") if number % 2 else ("peer", "ours"):
                start = time.perf_counter()
                if side == "ours":
                    mine = ours(uuid.uuid4().hex)
                else:
                    theirs = peer.score(rows)
                seconds[side].append(time.perf_counter() - start)
        count, worst = agree(mine, theirs)
        stop_ray()
    median = {side: statistics.median(found) for side, found in seconds.items()}
    print(f"{asked.edits} edits, {asked.rounds} rounds, {count // asked.edits} figures an edit, largest difference {worst:.1e}")
    print(f"ours {median['ours']:.2f} s, metric after metric {median['peer']:.2f} s: {median['peer'] / median['ours']:.2f} times as fast (bar 3)")


if __name__ == "__main__":
    main()
