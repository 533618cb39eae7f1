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
    keep_every_epoch: bool = Execution(False, description="also a checkpoint at the end of every epoch, which stays")
    release: Literal["last", "best"] = Added(
        "last",
        description="the state released: after the last step, or of the least validation loss (never of the least training loss)",
    )
    on_bad_loss: Literal["stop", "skip"] = Added(
        "stop",
        description="a loss or gradient that is not finite, or a spike: stop the training, or leave the step out (no parameter changes) and go on",
    )
    spike_factor: Annotated[float, Field(gt=1)] | None = Added(
        None, description="a loss above this many times the median of the last 50 steps is a spike; None: none is"
    )
    max_skipped: Annotated[int, Field(ge=0)] = Added(10, description="skipped steps in a row after which the training stops all the same")
    max_worker_restarts: Annotated[int, Field(ge=0)] = Execution(3)
    hang_timeout_s: Annotated[float, Field(gt=0)] = Execution(
        1800.0,
        description="no rank gets any further for so long: it is said which hangs and in what, and all are started anew from the last checkpoint",
    )

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
    selected_pairs: Positive | None = Added(None, description="so many of the pairs, the best by the masks' quality score, are the selected ones")
    selected_share: Annotated[float, Field(gt=0, lt=1)] | None = Added(
        None, description="the selected pairs' part of what is seen; each of the others is seen too, at least once an epoch"
    )
    prefetch: Annotated[int, Field(ge=0)] = Execution(4, description="micro-batches read and collated ahead, each by a thread; 0: read when needed")
    read: Literal["cache", "ranges"] = Execution(
        "cache", description="cache: each worker fetches whole shards before it starts; ranges: one request a row, for data that no disk here holds"
    )

    @model_validator(mode="after")
    def _share_of_something(self) -> DataSpec:
        if (self.selected_pairs is None) != (self.selected_share is None):
            raise ValueError(
                "data.selected_pairs and data.selected_share belong together: how many pairs are selected, and their part of what is seen."
            )
        return self
