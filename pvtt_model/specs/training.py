"""How a stage trains: optimiser, workers, length, data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pvtt_model.specs.base import Added, Execution, Positive, Spec


class OptimSpec(Spec):
    """AdamW with a linear warm-up from lr/warmup_steps, then constant (the survey's 10.4) or a cosine down to a tenth."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    decay: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    grad_clip: Annotated[float, Field(gt=0)] = 1.0


class ParallelSpec(Spec):
    """Workers and sharding. global batch = micro_batch x num_workers x grad_accum."""

    num_workers: Positive = 8
    accelerator: Literal["cpu", "gpu"] = "gpu"
    gpu_memory_gib: Annotated[float, Field(gt=0)] = Execution(80.0)
    zero_stage: Literal[0, 1, 2, 3] = 3
    offload_optimizer: bool = False
    offload_params: bool = False
    micro_batch: Positive = 1
    grad_accum: Positive = 4
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = True
    checkpointing: Literal["full", "keep_attention", "keep_self_attention"] = Added(
        "full",
        description="with gradient_checkpointing, what is recomputed: all of a block; all but its attentions, whose outputs are kept; or all but the "
        "video's attention to itself, the costly one",
    )
    fused_lora: bool = Added(
        False, description="LoRA on frozen layers in one autograd node; DoRA, 4-bit bases and several adapters stay with peft's forward"
    )
    compile_blocks: bool = Added(False, description="torch.compile of the transformer block; minutes at the start, once for each size of clips")
    wide_products: bool = Added(
        False, description="bfloat16 products and attentions in float32, rounded, on a CPU without kernels for bfloat16; nothing elsewhere"
    )

    @model_validator(mode="after")
    def _whole_in_one_step(self) -> ParallelSpec:
        asked = [name for name in ("fused_lora", "compile_blocks") if getattr(self, name)]
        if asked and self.zero_stage == 3:
            raise ValueError(
                f"parallel.{asked[0]} is true at parallel.zero_stage 3, whose hooks gather each layer's weights as the layer is called, and it "
                f"calls several at once. Set parallel.zero_stage=2, or parallel.{asked[0]}=false."
            )
        if self.checkpointing != "full" and not self.gradient_checkpointing:
            raise ValueError(
                f"parallel.checkpointing is '{self.checkpointing}', but parallel.gradient_checkpointing is false. Set gradient_checkpointing=true."
            )
        return self

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.num_workers * self.grad_accum


class TrainSpec(Spec):
    """Length of a stage, what it trains, and how it survives."""

    steps: Positive
    seed: int = 42
    trained: tuple[Literal["lora", "adapter", "vace", "all"], ...] = Added(
        ("lora", "adapter"),
        description="what gets gradients and is saved: the LoRA, the reference adapter, VACE's own blocks, or all of the transformer's own weights; "
        "what the stage before trained and this one does not is carried along unchanged",
    )
    checkpoint_every_steps: Positive = Execution(500)
    keep_checkpoints: Positive = Execution(3)
    max_worker_restarts: Annotated[int, Field(ge=0)] = Execution(3)

    @field_validator("trained")
    @classmethod
    def _each_part_once(cls, trained: tuple[str, ...]) -> tuple[str, ...]:
        order = ("lora", "adapter", "vace", "all")
        if not trained:
            raise ValueError(f"train.trained is empty, so that nothing would be trained. Use some of {list(order)}.")
        if "vace" in trained and "all" in trained:
            raise ValueError("train.trained names 'vace' and 'all', which holds VACE's blocks. Name one of the two.")
        return tuple(part for part in order if part in trained)


class DataSpec(Spec):
    """How many pairs a stage wants, and which. Fewer than min_pairs refuses to train; more than max_pairs takes the first or the best."""

    min_pairs: Positive = 1
    max_pairs: Positive | None = None
    select: Literal["first", "best"] = Field(default="first", description="best: by the masks' quality score, highest first")
    read: Literal["cache", "ranges"] = Execution(
        "cache", description="cache: each worker fetches whole shards before it starts; ranges: one request a row, for data that no disk here holds"
    )
