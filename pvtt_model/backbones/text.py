"""UMT5 text encoder, as Wan uses it: the last hidden states of the real tokens. arXiv:2304.09151.

nano reads bytes: pad 0, end 1, byte b is 3 + b, so no vocabulary file is needed.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from pvtt_model.backbones.source import (
    architecture_of,
    frozen,
    label,
    part_folder,
    refuse_mismatch,
    refuse_other_config,
    seeded,
    weight_files,
)
from pvtt_model.specs import ModelSpec


class Tokenizer(Protocol):
    def __call__(self, text: str) -> list[int]:
        """Token ids of the whole text, with the end token last."""


class ByteTokenizer:
    """UTF-8 bytes as tokens: 3 + byte, then end (1). The ids fit a vocabulary of 259."""

    end = 1

    def __call__(self, text: str) -> list[int]:
        return [3 + byte for byte in text.encode()] + [self.end]


class _FolderTokenizer:
    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=True)["input_ids"])


class TextEncoder:
    """Prompts to embeddings of their own lengths, without gradients. A stand-in's `name` says that its weights are random."""

    def __init__(self, model: Any, tokenizer: Tokenizer, name: str) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.width = int(model.config.d_model)

    def to(self, device: torch.device | str) -> TextEncoder:
        self.model.to(device)
        return self

    def token_counts(self, prompts: list[str]) -> list[int]:
        """Tokens of each prompt, the end token counted: above `max_tokens`, `embed` cuts, and a caller can say so."""
        return [len(self.tokenizer(clean(p))) for p in prompts]

    @torch.no_grad()
    def embed(self, prompts: list[str], max_tokens: int) -> list[Tensor]:
        """One (length_i, D) tensor a prompt, length_i in [1, max_tokens]; padding is dropped, as Wan zeroes it.

        A longer prompt is cut to its first max_tokens - 1 tokens and the end token, as Wan does (see `token_counts`). The empty
        prompt is the end token alone: the null text of guidance. Each prompt goes through alone, so its embedding does not
        depend on its neighbours. Raises ValueError for max_tokens < 1.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; a prompt has at least its end token. Use 1 or more (Wan: 512).")
        embedded = []
        for prompt in prompts:
            ids = self.tokenizer(clean(prompt))
            ids = ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]
            ids_1L = torch.tensor([ids], device=self.model.device)
            embedded.append(self.model(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L)).last_hidden_state[0])
        return embedded


def clean(prompt: str) -> str:
    """HTML entities undone, white space squeezed: Wan's cleaning, less ftfy's mending of broken encodings."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def load_text_encoder(spec: ModelSpec, folder: Path | None, dtype: torch.dtype = torch.float32) -> TextEncoder:
    """The encoder of `spec`: random from its seed where `folder` is None, else from text_encoder/ and tokenizer/ of a diffusers folder."""
    arch, seed = architecture_of(spec, "text", folder)
    model: Any  # transformers' decorators hide the types
    tokenizer: Tokenizer
    if seed is not None:
        with seeded(seed):
            model = UMT5EncoderModel(UMT5Config(**arch.config))
        model = model.to(dtype)
        tokenizer = ByteTokenizer()
    else:
        assert folder is not None
        part = part_folder(folder, "text")
        weight_files(part, spec.sha256)
        loaded: Any = UMT5EncoderModel.from_pretrained(part, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True)
        model, info = loaded
        refuse_mismatch(info["missing_keys"], info["unexpected_keys"], part)
        refuse_other_config(model.config.to_dict(), arch.config, part, spec.architecture)
        tokens = Path(folder) / "tokenizer"
        tokenizer = _FolderTokenizer(tokens if tokens.is_dir() else part)
    return TextEncoder(frozen(model), tokenizer, label(spec))
