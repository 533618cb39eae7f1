"""The model card: written from the recipe, the reports and the lineage, so that it cannot say more than they do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pvtt_model.backbones.architectures import pipeline_of
from pvtt_model.evaluation.gate import Verdict
from pvtt_model.evaluation.report import Report
from pvtt_model.evaluation.report_markdown import counts_line, escape_cell, metric_table


def model_card(
    *,
    recipe: dict[str, Any],
    stages: list[dict[str, Any]],
    reports: Sequence[Report],
    verdicts: Sequence[Verdict],
    lineage: dict[str, Any],
    created: str,
    lora_parameters: int,
    has_sheet: bool,
) -> str:
    """README.md of a release. Arguments as in write_release; what is not recorded is called so."""
    last = recipe["stages"][-1]
    base = last["backbone"]
    parts = [
        _front_matter(base, random=bool(random_parts(recipe))),
        f"# {escape_cell(recipe['name'])}: product replacement in video",
        f"A LoRA and a reference adapter for a video model ({pipeline_of(base['architecture'])}): they put the product of a reference picture in the "
        "place of the masked product of a video and keep the rest. Made by PVTT (Product Video Template Transfer)"
        f" on {created}.",
        _warnings(recipe, reports, verdicts),
        "## Base model",
        f"`{base['architecture']}`, weights `{base['weights']}`, revision `{base.get('revision') or 'none'}`. Trained on it: the "
        f"{_low_rank(last['lora'])}; {lora_parameters:,} parameters) and the reference adapter{_own_share(last)}.",
        _own_weights(last),
        "## How it was trained",
        _training(recipe, stages),
        "## Data",
        _data(lineage),
        "## Results",
        _results(reports, verdicts),
        "![source, mask, reference, raw edit, composited](contact_sheet.png)" if has_sheet else "",
        "## Use",
        _use(base, recipe),
        "## Limits",
        _limits(recipe),
        "## Lineage",
        f"`lineage.json` names every artifact back to the clips.\n\n```json\n{_short(lineage)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _own_share(last: dict[str, Any]) -> str:
    named = {"vace": ", and VACE's blocks themselves", "all": ", and the whole of it"}
    own = [said for part, said in named.items() if part in last["train"].get("trained", ())]
    return own[-1] if own else "; the base itself is frozen"


def _own_weights(last: dict[str, Any]) -> str:
    """What else than LoRA and adapter the last stage trained, and what it did not train of them."""
    trained = last["train"].get("trained", ("lora", "adapter"))
    if list(trained) == ["lora", "adapter"]:
        return ""
    said = f"This stage trained: {', '.join(trained)}."
    if "vace" in trained or "all" in trained:
        said += " `backbone.safetensors` holds the backbone's own trained weights under diffusers' names; load it over the base model's."
    return said + " What an earlier stage trained and this one did not is in the files unchanged."


def random_parts(recipe: dict[str, Any]) -> list[str]:
    """Models of the last stage with random weights, as 'what: architecture (seed:N)'."""
    return _parts(recipe, "seed:")


def _parts(recipe: dict[str, Any], scheme: str) -> list[str]:
    """Models of the last stage whose weights are of `scheme`, as 'what: architecture (weights)'."""
    last = recipe["stages"][-1]
    models = {
        "video model": last["backbone"],
        "VAE": recipe["latents"]["vae"],
        "text encoder": recipe["conditions"]["text_encoder"],
        "image encoder": recipe["conditions"]["image_encoder"],
        "CLIP extractor": last["evaluate"]["clip"],
        "DINO extractor": last["evaluate"]["dino"],
    }
    if last["evaluate"].get("judge"):
        models["judge"] = last["evaluate"]["judge"]
    return [f"{what}: {m['architecture']} ({m['weights']})" for what, m in models.items() if str(m["weights"]).startswith(scheme)]


def _front_matter(base: dict[str, Any], random: bool) -> str:
    lines = ["license: apache-2.0"]
    if base["weights"].startswith("hf://"):
        lines.append(f"base_model: {json.dumps(base['weights'].removeprefix('hf://'))}")
        lines.append("base_model_relation: adapter")
    tags = ["pvtt", "video-editing", "product-replacement", "lora", "reference-adapter", "wan", "vace"]
    lines += ["library_name: diffusers", "tags:", *[f"- {tag}" for tag in tags + (["random-weights"] if random else [])]]
    return "---\n" + "\n".join(lines) + "\n---"


def _warnings(recipe: dict[str, Any], reports: Sequence[Report], verdicts: Sequence[Verdict]) -> str:
    said = []
    if random_parts(recipe):
        said.append(f"Random weights, not a usable model: {'; '.join(random_parts(recipe))}. This release shows that the pipeline runs.")
    if small := _parts(recipe, "nano:"):
        said.append(f"Small weights trained on PVTT's procedural clips, of no use on real ones: {'; '.join(small)}.")
    missed = [v.stage for v in verdicts if not v.passed]
    if missed:
        said.append(f"Gates missed: {', '.join(missed)}.")
    judged = {v.stage for v in verdicts}
    unjudged = [r.stage for r in reports if r.stage not in judged]
    if unjudged:
        said.append(f"Stages without a gate: {', '.join(unjudged)}.")
    said += [f"{report.stage}: {warning}" for report in reports[-1:] for warning in report.warnings]
    return "## Warnings\n\n" + "\n".join(f"- {escape_cell(text)}" for text in said) if said else ""


def _training(recipe: dict[str, Any], stages: list[dict[str, Any]]) -> str:
    facts = {stage["name"]: stage for stage in stages}
    head = "| stage | backbone | from | steps | lr | global batch | ZeRO | LoRA rank | what else is recorded |"
    rows = [head, "|---" * 9 + "|"]
    for spec in recipe["stages"]:
        parallel = spec["parallel"]
        batch = parallel["micro_batch"] * parallel["num_workers"] * parallel["grad_accum"]
        fact = facts.get(spec["name"])
        more = "not trained in this run" if fact is None else ", ".join(f"{k} {_plain(v)}" for k, v in fact.items() if k != "name" and _is_plain(v))
        cells = [spec["name"], spec["backbone"]["architecture"], spec["init_from"], spec["train"]["steps"], spec["optim"]["lr"], batch]
        rows.append("| " + " | ".join(escape_cell(str(c)) for c in [*cells, parallel["zero_stage"], spec["lora"]["rank"], more]) + " |")
    last, video = recipe["stages"][-1], recipe["latents"]["video"]
    rate = f" at {video['fps']:g} a second" if video.get("fps") else ""
    said = (
        f"Rectified flow, shift {last['objective']['shift']:g}; AdamW {last['optim']['beta1']:g}/{last['optim']['beta2']:g}, decay "
        f"{last['optim']['weight_decay']:g}, warm-up {last['optim']['warmup_steps']} steps, gradients clipped at {last['optim']['grad_clip']:g}, "
        f"{last['parallel']['precision']}; LoRA dropout {last['lora']['dropout']:g}; reference dropped {last['objective']['reference_dropout']:.0%}, "
        f"text {last['objective']['text_dropout']:.0%}. Video {_sizes(video)}, {video['num_frames']} frames{rate}; mask policy "
        f"{recipe['latents']['mask_policy']['kind']} {recipe['latents']['mask_policy']['grow_px']} px, fill {recipe['latents']['fill']}."
    )
    return said + "\n\n" + "\n".join(rows)


def _data(lineage: dict[str, Any]) -> str:
    data = lineage.get("data")
    if not isinstance(data, dict):
        return "Numbers of clips and products are not recorded in the lineage."
    return "\n".join(f"- {escape_cell(str(key))}: {_plain(value)}" for key, value in sorted(data.items()) if _is_plain(value))


def _results(reports: Sequence[Report], verdicts: Sequence[Verdict]) -> str:
    if not reports:
        return "Not evaluated."
    judged = {v.stage: v for v in verdicts}
    parts = []
    for report in reports:
        verdict = judged.get(report.stage)
        word = "no gate" if verdict is None else f"gate {'passed' if verdict.passed else 'missed'}"
        parts.append(f"### {escape_cell(report.stage)}: {word}\n\n{counts_line(report)}\n\n" + metric_table(report, verdict))
        if verdict is not None and verdict.lines:
            parts.append(verdict.markdown())
    return "\n\n".join(parts)


def _low_rank(lora: dict[str, Any]) -> str:
    """'LoRA (rank 128, alpha 128, on attn1, attn2' and what is unlike that."""
    kind = "DoRA" if lora.get("kind") == "dora" else "LoRA"
    parts = [f"rank {lora['rank']}", f"alpha {lora['alpha']}", f"on {', '.join(lora['targets'])}"]
    for field, what in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        parts += [f"{what} {value} on {name}" for name, value in lora.get(field) or ()]
    if lora.get("blocks"):
        parts.append(f"in blocks {', '.join(map(str, lora['blocks']))}")
    if lora.get("quantize"):
        parts.append("trained on the base in 4 bits (NF4): on whole weights it was not measured")
    return f"{kind} ({', '.join(parts)}"


_OTHER_TOOLS = """ComfyUI, DiffSynth-Studio and the original repository name the layers otherwise. These write the LoRA as each reads it, alpha
included, and the base with the LoRA merged:

```
pvtt export path/to/this/folder --format comfyui --out ComfyUI/models/loras/product.safetensors
pvtt export path/to/this/folder --format diffsynth --out product.safetensors  # pipe.load_lora(pipe.dit, "product.safetensors")
pvtt export path/to/this/folder --format merged --base path/to/base --out merged
```"""
_DORA_ELSEWHERE = "Other tools do not read this DoRA: `pvtt export path/to/this/folder --format merged` gives them the base with it merged."


def _use(base: dict[str, Any], recipe: dict[str, Any]) -> str:
    pipeline = pipeline_of(base["architecture"])
    published, hub = base["weights"].startswith("hf://"), base["weights"].removeprefix("hf://")
    if published:
        revision = f", revision={json.dumps(base.get('revision'))}" if base.get("revision") else ""
        dora = recipe["stages"][-1]["lora"].get("kind") == "dora"
        parts = [
            f"```python\nfrom diffusers import {pipeline}\n\npipe = {pipeline}.from_pretrained({json.dumps(hub)}{revision})\n"
            'pipe.load_lora_weights("path/to/this/folder")  # the LoRA alone: without the reference adapter it was not evaluated\n```',
            _DORA_ELSEWHERE if dora else _OTHER_TOOLS,
        ]
    else:
        parts = [f"The base `{base['architecture']}` ({base['weights']}) is no published model: use this within PVTT, recipe `{recipe['name']}`."]
    given = ', "path/to/base"' if published else ""
    parts.append(
        "LoRA and reference adapter were trained together. Both, as a PyTorch module in this project's environment; "
        "`pvtt_model.editing.sample.sample_edit` takes it from there:\n\n"
        f'```python\nfrom pvtt_model.export.teacher import load_teacher\n\nteacher = load_teacher("path/to/this/folder"{given})\n```'
    )
    return "\n\n".join(parts)


def _sizes(video: dict[str, Any]) -> str:
    """Every bucket; recipes of before have no such field."""
    return ", ".join(f"{width} x {height}" for width, height in ((video["width"], video["height"]), *video.get("buckets", ())))


def _limits(recipe: dict[str, Any]) -> str:
    video = recipe["latents"]["video"]
    said = [
        f"Trained at {_sizes(video)} and {video['num_frames']} frames; other sizes were not measured.",
        "Composited background figures hold for any model: the source's pixels are put back. Judge the model by the raw ones.",
        "Product similarity depends on the extractor and the crop rule; do not compare it with figures made otherwise.",
        "Product similarity with a swapped reference needs the figure `*_source` beside it: an edit that does not beat it changed nothing.",
    ]
    return "\n".join(f"- {line}" for line in said)


def _short(lineage: dict[str, Any], most: int = 4000) -> str:
    text = json.dumps(lineage, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).replace("```", "'''")
    return text if len(text) <= most else text[:most].rsplit("\n", 1)[0] + "\n... the rest is in lineage.json"


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _plain(value: Any) -> str:
    return escape_cell(f"{value:.6g}" if isinstance(value, float) else str(value))
