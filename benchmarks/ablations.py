"""What each choice of the teacher earns, in the nano world: one command that trains, edits and judges every arm and writes docs/ablations.md.

    PYTHONPATH=. .venv/bin/python benchmarks/ablations.py [--only ARM ..] [--seeds 0 1 2] [--jobs 2] [--steps 120] [--edits 40] [--work FOLDER]

The flow `curate` makes the shards once (recipe nano, with the class tokens, CLIP tokens and reference latents that some injections read).
Then each arm and seed is the recipe's stage `base` with one thing changed, through the pipeline's own functions in one process on one
core: training.loop.train from a fresh adapter, editing.edit.edit_clip on held-out clips whose right edit is known, and the report's metrics.
A seed draws the adapter's start, the order of the clips, noise, levels and dropouts; data, the edits' noise and the judge's candidates are the
same for all. What is done stays in docs/ablations.jsonl: a second run goes on where the first stopped, and the table is of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")

DOC, RESULTS = Path("docs/ablations.md"), Path("docs/ablations.jsonl")
UNTRAINED, PLAIN, STAGE = "untrained", "plain", "base"
#: What the shards hold beside the recipe's own, for the injections that read it.
DATA: dict[str, Any] = {
    "conditions.class_tokens": True,
    "conditions.clip_encoder": {"architecture": "nano-openclip", "weights": "nano:clip"},
    "latents.references": "white",
}


class Arm(NamedTuple):
    group: str
    says: str
    changes: dict[str, Any]  # of the stage, by dotted path


OWN = {"reference.space": "own", "objective.words_weight": 0.0}
ARMS: dict[str, Arm] = {
    UNTRAINED: Arm("", "the base, with an adapter that was never trained", {}),
    PLAIN: Arm("", "the recipe's stage: ip_adapter_plus in the words' space, LoRA 16, its losses", {}),
    "ip_adapter": Arm("injection", "the class token and one linear layer; words' space", {"reference.injection": "ip_adapter"}),
    "dual_path": Arm("injection", "patch tokens and CLIP's, two paths; words' space", {"reference.injection": "dual_path"}),
    "plus_own": Arm("injection", "ip_adapter_plus in a space of its own, no words' loss: IP-Adapter's start", OWN),
    "reference_net": Arm(
        "injection", "a copy of half the blocks, K and V joined; no tokens, so no words", OWN | {"reference.injection": "reference_net"}
    ),
    "every_second": Arm("injection", "ip_adapter_plus on every second main block", {"reference.every_nth_layer": 2}),
    "no_lora": Arm("low rank", "the adapter alone is trained", {"train.trained": ["adapter"]}),
    "lora_64": Arm("low rank", "LoRA of rank 64", {"lora.rank": 64, "lora.alpha": 64}),
    "lora_kv": Arm("low rank", "LoRA 16 on K and V of cross-attention alone", {"lora.targets": ["attn2.to_k", "attn2.to_v"]}),
    "lora_ffn": Arm("low rank", "LoRA 16 on attentions and feed-forward", {"lora.targets": ["attn1", "attn2", "ffn"]}),
    "dora": Arm("low rank", "DoRA 16", {"lora.kind": "dora"}),
    "qlora": Arm("low rank", "LoRA 16 on a base in NF4", {"lora.quantize": "nf4"}),
    "no_words": Arm("objective", "the flow loss alone tells the tokens what to say", {"objective.words_weight": 0.0}),
    "no_mask_weight": Arm("objective", "every latent cell weighs the same", {"objective.mask_weight": 1.0}),
    "uniform": Arm("objective", "levels uniform, then shifted", {"objective.timestep_sampling": "uniform"}),
    "mode": Arm("objective", "levels by mode sampling, then shifted", {"objective.timestep_sampling": "mode"}),
    "cosmap": Arm("objective", "loss weighted by cosmap", {"objective.weighting": "cosmap"}),
    "no_dropout": Arm("objective", "neither text nor reference is dropped", {"objective.text_dropout": 0.0, "objective.reference_dropout": 0.0}),
    "recon": Arm("objective", "reference reconstruction beside it, weight 0.1", {"objective.reference_recon_weight": 0.1}),
    "identity": Arm(
        "objective", "identity loss beside it, weight 0.1, below level 0.5", {"objective.identity_weight": 0.1, "objective.identity_below": 0.5}
    ),
}

#: What the table shows of a record: name -> (heading, digits).
SHOWN = {
    "right": ("right product of 20", 3),
    "wrong_shown": ("wrong one shown", 3),
    "in_mask_db": ("in product, dB", 2),
    "background_db": ("background raw, dB", 2),
    "step_s": ("s a step", 2),
    "edit_s": ("s an edit", 2),
    "trained_k": ("trained, thousands", 0),
}


def recipe_of(arm: str, seed: int, steps: int, edits: int) -> Any:
    """The recipe nano with the arm's changes on its stage `base`, checked as any recipe is."""
    from pvtt_model.recipes import recipe_by_name

    one = {"parallel.num_workers": 1, "parallel.zero_stage": 0, "train.steps": steps, "train.seed": seed, "train.checkpoint_every_steps": steps}
    one |= {"init_from": "base", "edit.max_clips": edits, "edit.baselines": ["wrong_reference"]}
    return recipe_by_name("nano", DATA | {f"stages.{STAGE}.{path}": value for path, value in (one | ARMS[arm].changes).items()})


def prepare(work: Path) -> None:
    """The curated artifacts in WORK/store, by the flow itself; their names in WORK/data.json."""
    from prefect.testing.utilities import prefect_test_harness

    from flows.curate import curate

    if (work / "data.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    with prefect_test_harness():
        state = curate(recipe="nano", clips="nano", overrides=DATA, store=str(work / "store"), return_state=True)
    lines = dict(line.split(": ", 1) for line in str(state.message).splitlines())
    (work / "data.json").write_text(json.dumps({kind: "/".join(uri.rsplit("/", 2)[1:]) for kind, uri in lines.items()}))


class Bench:
    """The curated data, opened once a process; and the edits' templates, references and candidates, the same for every arm."""

    def __init__(self, work: Path) -> None:
        from infra.artifact_store import ArtifactStore
        from pvtt_model.artifacts import ArtifactRef
        from tasks.clip_table import Curated, clip_places

        self.store = ArtifactStore.open(str(work / "store"), work / "cache")
        names = json.loads((work / "data.json").read_text())
        refs = {kind: ArtifactRef(kind=name.split("/")[0], version=name.split("/")[1], uri=str(work / "store")) for kind, name in names.items()}
        self.data = Curated(*(refs[kind] for kind in Curated._fields))
        self.usable = clip_places(self.store, self.data)

    def places(self, stage: Any) -> list[Any]:
        """Where the stage's training pairs lie."""
        from pvtt_model.training.samples import Place
        from tasks.train_pairs import select_pairs

        chosen = select_pairs(self.usable, stage.data, stage.name)
        return [Place(p.clip_key, self.store.local_path(p.latents), self.store.local_path(p.conditions), p.row) for p in chosen]

    def pairs(self, edits: int) -> list[Any]:
        """As generate_edits chooses them: a template, the product that goes in, and a wrong one."""
        from tasks.generate_edits import choose_pairs

        held_out = sorted((pf for pf in self.usable.values() if pf[1]["held_out"] and pf[1]["split"] != "validation"), key=lambda pf: pf[0].clip_key)
        return choose_pairs(held_out[:edits], True, held_out, True)

    def rows(self, place: Any, kinds: tuple[str, ...]) -> dict[str, Any]:
        from pvtt_model.data.shards import read_row

        return {kind: read_row(self.store.local_path(getattr(place, kind)), place.row) for kind in kinds}

    def gallery(self, judge: Any, folder: Path) -> Any:
        """The held-out products' pictures as the judge sees them."""
        from pvtt_model.data.shards import write_shard
        from pvtt_model.evaluation.gallery import SCHEMA, gallery_rows, read_gallery

        places = [pf for pf in self.usable.values() if pf[1]["held_out"] and pf[1]["split"] != "validation"]
        found = gallery_rows([{"product_id": f["product_id"], "look_alikes": f.get("look_alikes"), "place": p} for p, f in places])
        pictures = [self.rows(row.pop("place"), ("clips",))["clips"]["references"] for row in found]
        rows = [{**row, "pictures": its} for row, its in zip(found, pictures, strict=True)]
        write_shard(folder / "gallery.parquet", rows, SCHEMA)
        return read_gallery(folder / "gallery.parquet", judge)


def run_arm(bench: Bench, arm: str, seed: int, steps: int, edits: int) -> dict[str, Any]:
    """One record: what the arm reaches, and what it costs."""
    import torch
    from safetensors.torch import load_file

    from pvtt_model.editing.edit import edit_clip
    from pvtt_model.objectives.identity import LossModels
    from pvtt_model.training.loop import Hooks, train
    from pvtt_model.training.teacher import build_teacher
    from tasks.embed_conditions import EMPTY_TEXT
    from tasks.shard_work import model_of, weights_of

    class Nothing(Hooks):
        """The loop's surroundings, of which nothing is kept."""

    torch.set_num_threads(1)
    recipe = recipe_of(arm, seed, steps, edits)
    stage = next(s for s in recipe.stages if s.name == STAGE)
    conditions, vae = recipe.conditions, model_of("vae", recipe.latents.vae)
    teacher = build_teacher(
        stage.backbone, stage.reference, stage.lora, conditions.image_encoder.architecture, weights_of(stage.backbone), torch.float32, seed,
        stage.train.trained, clip_encoder=conditions.clip_encoder.architecture,
    )  # fmt: skip
    empty = load_file(bench.store.local_path(bench.store.manifest(bench.data.conditions).file(EMPTY_TEXT)))["text_LD"].float()
    record: dict[str, Any] = {"arm": arm, "seed": seed, "steps": steps, "edits": edits}
    record["trained_k"] = sum(p.numel() for p in teacher.trainable().values()) / 1000
    if arm != UNTRAINED:
        models = LossModels(vae, model_of("image", conditions.image_encoder)) if stage.objective.identity_weight else None
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            records = train(stage, teacher, bench.places(stage), empty, conditions.max_text_tokens, Nothing(), Path(folder), None, models)
            record |= {"step_s": (time.process_time() - began) / steps, "loss": statistics.mean(r["loss"] for r in records[-20:])}
    with tempfile.TemporaryDirectory() as folder:
        judge = model_of("image", stage.evaluate.judge)
        gallery = bench.gallery(judge, Path(folder))
    began, rows = time.process_time(), []
    for pair in bench.pairs(edits):
        template = bench.rows(pair.template, ("clips", "masks", "latents", "conditions"))
        reference, wrong = (bench.rows(place, ("clips", "conditions")) for place in (pair.reference, pair.wrong))
        rows.append(
            edit_clip(
                teacher.eval(),
                vae,
                template,
                reference,
                empty,
                stage.edit,
                recipe.latents,
                conditions.max_text_tokens,
                wrong=wrong,
                product_hidden=True,
            )
        )
    record["edit_s"] = (time.process_time() - began) / len(rows)
    return record | judged(rows, stage.evaluate, judge, gallery)


def judged(rows: list[dict[str, Any]], spec: Any, judge: Any, gallery: Any) -> dict[str, float]:
    """The report's own metrics of the edits, means. Raises RuntimeError where an edit was not made: an arm with fewer edits cannot be compared."""
    from pvtt_model.evaluation.background_psnr import background_psnr_db
    from pvtt_model.evaluation.frames import OPTIONAL_VIDEOS, edit_frames
    from pvtt_model.evaluation.score_against_truth import IDENTITY, PSNR, WRONG_SHOWN, identity_scores, judged_name, truth_scores

    failed = [row["reason"] for row in rows if not row["usable"]]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(rows)} edits were not made: {failed[0]}")
    found: dict[str, list[float]] = {name: [] for name in ("right", "wrong_shown", "in_mask_db", "background_db")}
    for row in rows:
        frames = edit_frames(row, OPTIONAL_VIDEOS)
        scores = {s.name: s.value for s in (*truth_scores(frames), *identity_scores(row, frames, spec, judge, gallery))}
        found["right"].append(scores[judged_name(IDENTITY, judge.name)])
        found["wrong_shown"].append(scores[judged_name(WRONG_SHOWN, judge.name)])
        found["in_mask_db"].append(scores[PSNR])
        found["background_db"].append(background_psnr_db(frames["raw"], frames["source"], frames["mask"]))
    return {name: statistics.mean(values) for name, values in found.items()}


def read_results() -> dict[tuple[str, int, int, int], dict[str, Any]]:
    records = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {(r["arm"], r["seed"], r["steps"], r["edits"]): r for r in records}


def work_off(work: Path, todo: list[tuple[str, int]], steps: int, edits: int) -> None:
    """A process of its own for a share of the runs: what an arm leaves in it, the next one does not see but for loaded models."""
    code = "import sys, json; from benchmarks.ablations import some; some(*json.loads(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, json.dumps([str(work), todo, steps, edits])], check=True)


def some(work: str, todo: list[tuple[str, int]], steps: int, edits: int) -> None:
    bench = Bench(Path(work))
    for arm, seed in todo:
        if (arm, seed, steps, edits) in read_results():
            continue
        began = time.monotonic()
        record = run_arm(bench, arm, seed, steps, edits)
        with RESULTS.open("a") as file:
            file.write(json.dumps(record | {"wall_s": round(time.monotonic() - began, 1)}) + "\n")
        print(f"{arm:15} seed {seed}: right {record['right']:.3f}, {record['in_mask_db']:.2f} dB, {time.monotonic() - began:.0f} s", flush=True)


def page(records: list[dict[str, Any]]) -> str:
    """docs/ablations.md of the records: mean and sample deviation over the seeds."""
    one = records[0]
    head = ["arm", "what is changed", *(heading for heading, _ in SHOWN.values()), "seeds"]
    text = (
        "# Ablations\n\nMade by `PYTHONPATH=. python benchmarks/ablations.py`: the nano world's stage `base` (nano-m), "
        f"{one['steps']} steps of 16, one thing changed at a time; {one['edits']} edits of unseen products by 4 flow-Euler steps. Right: the product "
        "that `nano-judge` finds among 20 in the raw edit is the reference's; wrong one shown: with another's pictures that one is found. "
        "In product: PSNR to the right edit. Background: raw, outside the mask, blended. Times are CPU seconds of one core, of a step of 16 "
        "clips and of an edit with its wrong-reference twin. Mean and deviation over the seeds; of one seed there is none. One edit is "
        f"{1 / one['edits']:.3f} of the first two columns: a difference of one deviation or less says nothing.\n\n"
        "These are small models on procedural clips. They tell whether a choice works and what it costs here, not which is best on real products.\n"
    )
    for group in dict.fromkeys(arm.group for arm in ARMS.values()):
        rows = [r for name, arm in ARMS.items() if arm.group == group and (r := _row(name, arm, records))]
        if rows:
            text += f"\n## {group or 'held against'}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}\n" + "".join(
                f"| {' | '.join(r)} |\n" for r in rows
            )
    return text


def _row(name: str, arm: Arm, records: list[dict[str, Any]]) -> list[str] | None:
    of = [r for r in records if r["arm"] == name]
    if not of:
        return None
    cells = []
    for key, (_, digits) in SHOWN.items():
        values = [r[key] for r in of if key in r]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and key not in ("step_s", "edit_s", "trained_k") else ""
        cells.append(f"{statistics.mean(values):,.{digits}f}{spread}" if values else "")
    return [f"`{name}`", arm.says, *cells, str(len(of))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="processes, a core each")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--edits", type=int, default=40)
    parser.add_argument("--work", type=Path, default=Path(".pvtt/ablations"))
    parser.add_argument("--table", action="store_true", help="write the page of what is there, and train nothing")
    asked = parser.parse_args()
    work = asked.work.resolve()
    if not asked.table:
        prepare(work)
        there = read_results()
        runs = [(arm, seed) for seed in asked.seeds for arm in asked.only if seed == asked.seeds[0] or arm != UNTRAINED]
        todo = [run for run in runs if (*run, asked.steps, asked.edits) not in there]
        with ThreadPoolExecutor(asked.jobs) as pool:
            list(pool.map(lambda i: work_off(work, todo[i :: asked.jobs], asked.steps, asked.edits), range(asked.jobs)))
    records = [r for (_, _, steps, edits), r in read_results().items() if (steps, edits) == (asked.steps, asked.edits)]
    DOC.write_text(page(records))
    print(f"{len(records)} runs in {DOC}")


if __name__ == "__main__":
    main()
