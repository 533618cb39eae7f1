"""One LoRA step of a tiny Wan, ours against DiffSynth-Studio's model, loss and LoRA, and against diffusers + peft + DeepSpeed ZeRO-2.

    PYTHONPATH=. .venv/bin/python benchmarks/train_step.py [--dtype bfloat16] [--threads 1] [--rounds 9] [--compile] [--rows rows.jsonl]

Width 384, 3 heads, 8 layers, feed-forward 1,536, 1,280 video tokens (latents 16 x 5 x 32 x 32), 512 text tokens, LoRA of rank 16 on q, k, v and o
of both attentions, checkpointing on, AdamW; random weights, the same in all. A step: noise, forward, loss, backward, update. Contenders take
turns in every round, in an order of its own, in one process:

    diffsynth        its WanModel, add_lora_to_model, FlowMatchSFTLoss, full checkpointing, as its trainer calls them (without accelerate)
    diffusers zero2  WanTransformer3DModel, peft, enable_gradient_checkpointing(), DeepSpeed ZeRO-2, one worker
    ours             pvtt_model.training.prepare_step: fused LoRA, attentions kept, wide products, and with --compile compiled blocks
    ours ffn          and the feed-forwards' answers kept
    ours zero2       the same under DeepSpeed ZeRO-2
    ours narrow      the first without wide products outside the LoRA layers (in bfloat16 on a CPU without kernels for it)

DiffSynth is of the dependency group `diffsynth` (requirements/diffsynth.txt); where it is not installed it is left out, and said. Before the
rounds every contender's LoRA gradients in float32 are held against plain diffusers + peft's. --rows: figures are appended there and all that the
file has of this dtype, thread count and --compile are in the table, so that rounds may be run in several goes. Prints CPU and wall seconds a step
(median over rounds), and how many times ours they are.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from pvtt_model.low_rank.attach import attach_low_rank
from pvtt_model.objectives.rectified_flow import flow_loss, interpolate
from pvtt_model.specs import LoraSpec, OptimSpec, ParallelSpec
from pvtt_model.training.prepare_step import prepare_step

WIDTH, HEADS, LAYERS, FFN, TEXT, RANK = 384, 3, 8, 1536, 256, 16
CONFIG = {
    "num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS, "in_channels": 16, "out_channels": 16, "text_dim": TEXT, "freq_dim": 256,
    "ffn_dim": FFN, "num_layers": LAYERS,
}  # fmt: skip
LORA = LoraSpec(rank=RANK, alpha=RANK, dropout=0.0)
OPTIM = OptimSpec(lr=1e-4, warmup_steps=0)
SIGMA = 0.5
#: diffusers' names of a block's parts and DiffSynth's.
RENAMED = {
    "attn1.": "self_attn.", "attn2.": "cross_attn.", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2", "norm2": "norm3", "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2", "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2", "condition_embedder.time_proj": "time_projection.1",
}  # fmt: skip


def theirs(name: str) -> str:
    for own, other in RENAMED.items():
        name = name.replace(own, other)
    if "scale_shift_table" in name:
        return name.replace("scale_shift_table", "modulation") if name.startswith("blocks.") else "head.modulation"
    return name.replace("proj_out.", "head.head.") if name.startswith("proj_out.") else name


def batch(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, 5, 32, 32, generator=g).to(dtype), torch.randn(1, 512, TEXT, generator=g).to(dtype)


def noise_like(x0: Tensor, seed: int) -> Tensor:
    """As DiffSynth's loss draws it: after its draw of a time step."""
    torch.manual_seed(seed)
    torch.randint(0, 1, (1,))
    return torch.randn_like(x0)


def plain_model(dtype: torch.dtype) -> Any:
    """The frozen base with LoRA, both drawn: B too, so that every gradient is something."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(**CONFIG).requires_grad_(False)
    attach_low_rank(model, LORA)
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(p, std=0.02)
    return model.to(dtype).train()


class Asked(nn.Module):
    """model(noisy, text) at SIGMA, as DeepSpeed wants it: a module."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, noisy: Tensor, text: Tensor) -> Tensor:
        return self.transformer(noisy, torch.tensor([1000 * SIGMA]), text, return_dict=False)[0]


def our_loss(ask: Callable[[Tensor, Tensor], Tensor], seed: int, dtype: torch.dtype) -> Tensor:
    x0, text = batch(seed, dtype)
    noise = noise_like(x0, seed)
    noisy = interpolate(x0.float(), noise.float(), torch.tensor([SIGMA]))
    return flow_loss(ask(noisy.to(dtype), text), x0.float(), noise.float()).mean()


class Contender:
    """gradients(seed): LoRA's by diffusers' names; step(seed): a whole step."""

    def __init__(self, module: Asked, dtype: torch.dtype, zero2: bool = False) -> None:
        self.module, self.dtype, self.engine = module, dtype, None
        if zero2:
            from pvtt_model.training.deepspeed_engine import DeepSpeedEngine as Engine

            parallel = ParallelSpec(num_workers=1, accelerator="cpu", zero_stage=2, grad_accum=1, precision=str(dtype).removeprefix("torch."))
            self.engine = Engine(module, parallel, OPTIM, first_step=1, steps=10_000)
        else:
            trained = [p for p in module.parameters() if p.requires_grad]
            self.adamw = torch.optim.AdamW(trained, lr=OPTIM.lr, betas=(OPTIM.beta1, OPTIM.beta2), weight_decay=OPTIM.weight_decay)

    def loss(self, seed: int) -> Tensor:
        return our_loss(self.engine.forward if self.engine else self.module, seed, self.dtype)

    def gradients(self, seed: int) -> dict[str, Tensor]:
        self.loss(seed).backward()
        found = {n.removeprefix("transformer."): p.grad.clone() for n, p in self.module.named_parameters() if p.requires_grad}
        self.module.zero_grad()
        return found

    def step(self, seed: int) -> None:
        loss = self.loss(seed)
        if self.engine:
            self.engine.backward(loss)  # and steps
            return
        loss.backward()
        self.adamw.step()
        self.adamw.zero_grad()


class DiffSynth(Contender):
    """Its own model, loss and LoRA. Scheduler: Wan's, held at SIGMA with weight 1, so that the losses are the same."""

    def __init__(self, base: Any, dtype: torch.dtype) -> None:
        from diffsynth.diffusion.flow_match import FlowMatchScheduler
        from diffsynth.diffusion.loss import FlowMatchSFTLoss
        from diffsynth.diffusion.training_module import DiffusionTrainingModule
        from diffsynth.models.wan_video_dit import WanModel
        from diffsynth.pipelines.wan_video import model_fn_wan_video

        dit = WanModel(
            dim=WIDTH, in_dim=16, ffn_dim=FFN, out_dim=16, text_dim=TEXT, freq_dim=256, eps=1e-6, patch_size=(1, 2, 2), num_heads=HEADS,
            num_layers=LAYERS, has_image_input=False,
        ).requires_grad_(False)  # fmt: skip
        dit = DiffusionTrainingModule().add_lora_to_model(dit.to(dtype), ["q", "k", "v", "o"], RANK, upcast_dtype=dtype)
        state = {theirs(name): value.to(dtype) for name, value in base.state_dict().items()}
        dit.load_state_dict(state, strict=True)
        scheduler = FlowMatchScheduler("Wan")
        scheduler.set_timesteps(1000, training=True)
        scheduler.timesteps, scheduler.sigmas, scheduler.linear_timesteps_weights = (torch.tensor([v]) for v in (1000 * SIGMA, SIGMA, 1.0))
        self.pipe = SimpleNamespace(
            scheduler=scheduler, torch_dtype=dtype, device="cpu", in_iteration_models=("dit",), model_fn=model_fn_wan_video, dit=dit
        )
        self.sft = FlowMatchSFTLoss
        super().__init__(Asked(dit.train()), dtype)

    def loss(self, seed: int) -> Tensor:
        x0, text = batch(seed, self.dtype)
        torch.manual_seed(seed)
        return self.sft(self.pipe, input_latents=x0, context=text, use_gradient_checkpointing=True)


def contenders(dtype: torch.dtype, compile_blocks: bool) -> dict[str, Contender]:
    precision = str(dtype).removeprefix("torch.")
    common = {"num_workers": 1, "accelerator": "cpu", "zero_stage": 2, "precision": precision}
    best = common | {"checkpointing": "keep_attention", "fused_lora": True, "compile_blocks": compile_blocks}

    def prepared(**settings: Any) -> Asked:
        model = plain_model(dtype)
        prepare_step(SimpleNamespace(transformer=model), ParallelSpec(**settings))
        return Asked(model)

    found = {
        "ours": Contender(prepared(**best, wide_products=True), dtype),
        "ours ffn": Contender(prepared(**best | {"checkpointing": "keep_attention_and_ffn"}, wide_products=True), dtype),
        "ours zero2": Contender(prepared(**best, wide_products=True), dtype, zero2=True),
        "diffusers zero2": Contender(prepared(**common), dtype, zero2=True),
    }
    if dtype == torch.bfloat16:
        found["ours narrow"] = Contender(prepared(**best), dtype)
    try:
        found["diffsynth"] = DiffSynth(plain_model(dtype), dtype)
    except ImportError as error:
        print(f"diffsynth is left out: {error}")
    return found


def check_gradients(compile_blocks: bool) -> None:
    """In float32, against plain diffusers + peft without checkpointing: the largest difference of a tensor relative to its largest value."""
    exact = Contender(Asked(plain_model(torch.float32)), torch.float32).gradients(1)
    for name, contender in contenders(torch.float32, compile_blocks).items():
        if contender.engine is None:
            got = contender.gradients(1)
            apart = max(float((got[theirs(n) if name == "diffsynth" else n] - g).abs().max() / g.abs().max()) for n, g in exact.items())
            print(f"gradients of {name}, float32: within {apart:.1e} of plain diffusers + peft's")
            assert apart <= (1e-5 if name.startswith("ours") else 1e-3), (name, apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--no-check", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if not asked.no_check:
        check_gradients(asked.compile)
    running = contenders(getattr(torch, asked.dtype), asked.compile)
    rows: list[dict[str, Any]] = []
    setting = {"dtype": asked.dtype, "threads": asked.threads, "compile": asked.compile}
    for name, contender in running.items():
        started = time.perf_counter()
        contender.step(0)  # warm: compiles, allocates
        print(f"first step of {name}: {time.perf_counter() - started:.1f} s", flush=True)
    for n in range(asked.rounds):
        for name in random.Random(time.time_ns()).sample(sorted(running), len(running)):
            wall, cpu = time.perf_counter(), time.process_time()
            running[name].step(n)
            row = setting | {"name": name, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            rows.append(row)
            if asked.rows:
                with asked.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    if asked.rows:
        rows = [r for r in map(json.loads, asked.rows.read_text().splitlines()) if setting.items() <= r.items()]
    table(rows, setting)


def table(rows: list[dict[str, Any]], setting: dict[str, Any]) -> None:
    print(", ".join(f"{k} {v}" for k, v in setting.items()) + "\n")
    print("| step | rounds | CPU s | wall s | CPU, times ours | wall, times ours | CPU, times ours zero2 |\n|---|---|---|---|---|---|---|")
    found = {name: [r for r in rows if r["name"] == name] for name in sorted({r["name"] for r in rows})}
    median = {name: {k: statistics.median(r[k] for r in of) for k in ("cpu", "wall")} for name, of in found.items()}
    for name, m in median.items():
        ours, zero2 = median["ours"], median["ours zero2"]
        print(
            f"| {name} | {len(found[name])} | {m['cpu']:.2f} | {m['wall']:.2f} | {m['cpu'] / ours['cpu']:.2f} | {m['wall'] / ours['wall']:.2f} | "
            f"{m['cpu'] / zero2['cpu']:.2f} |"
        )


if __name__ == "__main__":
    main()
