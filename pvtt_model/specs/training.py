"""How a stage trains: optimiser, workers, length, data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

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
    peak_tflops: Annotated[float, Field(gt=0)] | None = Execution(
        None, description="dense peak of one device at `precision`, what MFU is a share of; None: by the device's name (training/metering.py)"
    )

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
    validate_every_steps: Annotated[int, Field(ge=0)] = Execution(
        0,
        description="the loss of fixed validation clips at fixed noise, every so many steps and after the last; 0: never. It changes no trained bit",
    )
    validate_clips: Positive = Execution(8, description="the first of them, by key; each is asked once in every tenth of the noise levels")
    sample_every_steps: Annotated[int, Field(ge=0)] = Execution(
        0, description="edits with the weights just trained, to look at, every so many steps; 0: never. They change no trained bit"
    )
    sample_clips: Positive = Execution(2)
    sample_steps: Positive | None = Execution(None, description="denoising steps of such an edit; None: edit.num_steps")
    keep_optimizer: bool = Added(False, description="keep each rank's optimizer state in the checkpoint, for a next stage of init_optimizer='kept'")

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
