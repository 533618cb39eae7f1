"""The nano text encoder: a tokenizer of the world's words with bytes for all others, and a UMT5 encoder that guesses hidden words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pvtt_model.backbones.architectures import architecture
from pvtt_model.nano.captions import phrase, sentence
from pvtt_model.nano.pretrain.optimise import Progress, descend, rate_at
from pvtt_model.nano.pretrain.vision import ATTRIBUTES, labels
from pvtt_model.nano.products import Product, draw_product
from pvtt_model.nano.render import draw_scene

BATCH, HIDDEN_SHARE, LR = 64, 0.25, 2e-3
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def captions(seed: int, step: int, count: int) -> tuple[list[str], list[Product]]:
    """Captions as a manifest has them, one in six without its product's words."""
    rng = np.random.default_rng([seed, 41, step])
    products = [draw_product(rng, "train") for _ in range(count)]
    texts = [phrase(p if i % 6 else None, draw_scene([seed, 42, step, i], 1)) for i, p in enumerate(products)]
    return [sentence(t) for t in texts], products


def make_tokenizer(seed: int, folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 512 entries learned from captions: a word of the world is one token, any other text falls into bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = int(architecture("nano-umt5").config["vocab_size"])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, UNKNOWN], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )

    def texts() -> Iterator[str]:
        for step in range(200):
            yield from captions(seed, 10_000_000 + step, BATCH)[0]

    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)
    fast.save_pretrained(folder)
    return fast


def train_text(seed: int, steps: int, folder: Path, progress: Progress) -> dict[str, float]:
    """Train and save text_encoder/ and tokenizer/. Score: share of hidden words and of attributes guessed right on unseen captions."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed, folder / "tokenizer")
    config = architecture("nano-umt5").config
    model = UMT5EncoderModel(UMT5Config(**config))
    words = nn.Linear(config["d_model"], config["vocab_size"])
    names = nn.ModuleList(nn.Linear(config["d_model"], len(n)) for n in ATTRIBUTES)
    parameters = [*model.parameters(), *words.parameters(), *names.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        loss, record = _guess(model, tokenizer, words, names, seed, step)
        descend(loss, optimizer, parameters, rate_at(step, steps, LR, least=0.0))
        if step % 100 == 0 or step == steps - 1:
            progress(step, {"loss": loss.item(), **record})
    model.eval()
    with torch.no_grad():
        _, score = _guess(model, tokenizer, words, names, seed + 1, 0, 256)
    model.save_pretrained(folder / "text_encoder", safe_serialization=True)
    return score


def _guess(
    model: Any, tokenizer: Any, words: nn.Module, names: nn.ModuleList, seed: int, step: int, count: int = BATCH
) -> tuple[Tensor, dict[str, float]]:
    """Loss of naming hidden words in their places, and every attribute from the mean of all tokens of a whole caption."""
    texts, products = captions(seed, step, count)
    ids: Tensor
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    hidden = (torch.rand(ids.shape, generator=generator) < HIDDEN_SHARE) & mask.bool() & (ids != tokenizer.eos_token_id)
    blank = ids.masked_fill(hidden, tokenizer.unk_token_id)
    out = model(input_ids=blank, attention_mask=mask).last_hidden_state
    guesses = words(out)
    loss = F.cross_entropy(guesses[hidden], ids[hidden]) + 0.3 * F.cross_entropy(guesses[mask.bool()], ids[mask.bool()])
    whole = model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = (whole * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    named = torch.tensor([i for i in range(count) if i % 6])
    wanted = labels(products)[named]
    answers = [head(pooled[named]) for head in names]
    loss = loss + sum(F.cross_entropy(a, wanted[:, i]) for i, a in enumerate(answers))
    right = torch.stack([(a.argmax(1) == wanted[:, i]).float().mean() for i, a in enumerate(answers)]).mean()
    return loss, {"words": (guesses.argmax(-1) == ids)[hidden].float().mean().item(), "attributes": right.item()}
