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
    fused: bool = Added(False, description="torch's fused AdamW, one kernel for all parameters: fewer passes over memory, other last bits")


class ParallelSpec(Spec):
    """Workers and sharding. global batch = micro_batch x num_workers x grad_accum.

    What decides a step's samples and the order of its sums is the artifact's identity: num_workers, grad_accum, micro_batch, strategy. How many
    workers there are just now is not: `run_workers` others see the same micro-batches of every step, num_workers x grad_accum of them, and differ
    from the recipe's number by the order of sums alone. So a run on a shrunken spot cluster goes on with the same artifact, and its manifest says how
    many workers trained which steps.
    """

    num_workers: Positive = 8
    run_workers: Positive | None = Execution(
        None,
        description="train on so many workers instead of num_workers, with grad_accum in proportion: the same global batch of the same samples, "
        "the same artifact, within 1e-4 of the same losses in float32; a training may be resumed so. It must divide num_workers x grad_accum",
    )
    strategy: Literal["deepspeed", "fsdp2", "ddp", "one"] = Added(
        "deepspeed",
        description="deepspeed: ZeRO by zero_stage, with offload; fsdp2: torch's fully_shard, everything cut among the workers as at ZeRO-3; "
        "ddp: everything on every worker; one: a plain process",
    )
    accelerator: Literal["cpu", "gpu"] = "gpu"
    gpu_memory_gib: Annotated[float, Field(gt=0)] = Execution(80.0)
    zero_stage: Literal[0, 1, 2, 3] = 3
    offload_optimizer: bool = False
    offload_params: bool = False
    offload_folder: str | None = Execution(
        None,
        description="a folder on a fast disk (NVMe) of every node: what the two offloads move lies there and not in the CPU's memory; at ZeRO-3. "
        "DeepSpeed compiles its asynchronous reads for it, minutes, and needs libaio",
    )
    micro_batch: Positive = 1
    grad_accum: Positive = 4
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = True
    peak_tflops: Annotated[float, Field(gt=0)] | None = Execution(
        None, description="dense peak of one device at `precision`, what MFU is a share of; None: by the device's name (training/metering.py)"
    )
    checkpointing: Literal["full", "keep_self_attention", "keep_attention", "keep_attention_and_ffn"] = Added(
        "full",
        description="with gradient_checkpointing, what is recomputed: all of a block; all but the video's attention to itself, the costly one, whose "
        "output is kept; all but its attentions; or all but these and the feed-forward's second product",
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
        if asked and self.sharding == 3:
            raise ValueError(
                f"parallel.{asked[0]} is true at ZeRO-3 or FSDP2, whose hooks gather each layer's weights as the layer is called, and it "
                f"calls several at once. Set parallel.zero_stage=2, or parallel.{asked[0]}=false."
            )
        if self.checkpointing != "full" and not self.gradient_checkpointing:
            raise ValueError(
                f"parallel.checkpointing is '{self.checkpointing}', but parallel.gradient_checkpointing is false. Set gradient_checkpointing=true, "
                "or checkpointing=full."
            )
        return self

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.num_workers * self.grad_accum

    @property
    def sharding(self) -> int:
        """What is cut among the workers, in ZeRO's numbers: 1 optimizer, 2 and gradients, 3 and weights; 0 nothing."""
        return {"deepspeed": self.zero_stage, "fsdp2": 3, "ddp": 0, "one": 0}[self.strategy]

    @property
    def replicated(self) -> bool:
        """Whether every worker holds all of the optimizer's state."""
        return self.sharding == 0

    def label(self) -> str:
        """The strategy in a word: ZeRO-2, FSDP2, DDP, one process."""
        return {"deepspeed": f"ZeRO-{self.zero_stage}", "fsdp2": "FSDP2", "ddp": "DDP", "one": "one process"}[self.strategy]

    def as_run(self) -> ParallelSpec:
        """With run_workers in num_workers' place, and grad_accum in proportion. Raises ValueError where it does not divide."""
        if self.run_workers is None or self.run_workers == self.num_workers:
            return self.model_copy(update={"run_workers": None})
        of_step = self.num_workers * self.grad_accum
        if of_step % self.run_workers:
            fit = [n for n in range(1, of_step + 1) if of_step % n == 0]
            raise ValueError(
                f"parallel.run_workers is {self.run_workers}, and a step has {of_step} micro-batches ({self.num_workers} workers x {self.grad_accum} "
                f"accumulated). Set it to one of {fit}."
            )
        return self.model_copy(update={"num_workers": self.run_workers, "grad_accum": of_step // self.run_workers, "run_workers": None})

    @model_validator(mode="after")
    def _strategy_can(self) -> ParallelSpec:
        self.as_run()
        workers = self.run_workers or self.num_workers
        if self.strategy == "one" and workers != 1:
            raise ValueError(f"parallel.strategy 'one' is one process, and there are {workers} workers. Take ddp, fsdp2 or deepspeed, or one worker.")
        offloads = [name for name in ("offload_optimizer", "offload_params") if getattr(self, name)]
        if offloads and self.strategy != "deepspeed":
            raise ValueError(
                f"parallel.{offloads[0]} is DeepSpeed's, and parallel.strategy is '{self.strategy}'. Set strategy='deepspeed', or it to false."
            )
        if self.offload_folder is not None and not (offloads and self.zero_stage == 3):
            raise ValueError(
                f"parallel.offload_folder is '{self.offload_folder}', but offload_optimizer and offload_params are false, or ZeRO's stage is "
                f"{self.zero_stage}: only ZeRO-3 moves them to a disk. Set one of them, and zero_stage=3, or offload_folder=null."
            )
        return self


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
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Added(
        None, description="keep an exponential moving average of the trained tensors, e.g. 0.999; its start is warmed up (training/ema.py)"
    )
    release_ema: bool = Added(
        False, description="the artifact holds the average in the last values' place: edits, later stages and the release have it"
    )
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

    @model_validator(mode="after")
    def _average_to_release(self) -> TrainSpec:
        if self.release_ema and self.ema_decay is None:
            raise ValueError("train.release_ema is set, and train.ema_decay is none: there is no average. Set ema_decay, e.g. 0.999.")
        return self

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
    replay_share: Annotated[float, Field(gt=0, lt=1)] | None = Added(
        None,
        description="of a stage with init_from='release': clips that the released checkpoint's data holds make up so much of what is seen, the new "
        "ones the rest; each is seen at least once an epoch. New ones come first where max_pairs leaves some out",
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
        if self.replay_share is not None and self.selected_share is not None:
            raise ValueError(
                "data.replay_share and data.selected_share both say what is seen more: the new pairs, and the best. Set one of them to null."
            )
        return self

    @property
    def share_of_selected(self) -> float | None:
        """The selected places' part of what is seen: the best pairs', or the new ones'. None: every pair once an epoch."""
        return self.selected_share if self.replay_share is None else 1 - self.replay_share
