"""The reference adapter on a real (nano) Wan-VACE transformer."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.reference.attention import ReferenceAttnProcessor, attach_reference, attend
from pvtt_model.specs import BackboneSpec

NANO = BackboneSpec(architecture="nano-s", weights="seed:7")


def base_answer(inputs):
    noisy, sigma, text, control = inputs[:4]
    with torch.no_grad():
        return load_transformer(NANO, None)(
            hidden_states=noisy, timestep=sigma * 1000.0, encoder_hidden_states=text, control_hidden_states=control, return_dict=False
        )[0]


def train_values(teacher) -> None:
    """Give every to_v_ref (space 'own') or gate (space 'words') a value other than zero, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in teacher.trainable().items():
            if "to_v_ref" in name and not teacher.words:
                p.copy_(torch.randn(p.shape, generator=generator))
            if name.endswith(".gate"):
                p.fill_(0.05)


both_spaces = pytest.mark.parametrize("space", ["own", "words"])


@both_spaces
def test_a_fresh_adapter_leaves_the_base_bit_equal(make_teacher, teacher_inputs, space):
    inputs = teacher_inputs(2)
    with torch.no_grad():
        assert torch.equal(make_teacher(space=space)(*inputs), base_answer(inputs))


@both_spaces
def test_a_trained_adapter_answers_to_the_reference_and_a_dropped_one_is_the_base(make_teacher, teacher_inputs, space):
    teacher, inputs = make_teacher(space=space), teacher_inputs(2)
    train_values(teacher)
    base = base_answer(inputs)
    with torch.no_grad():
        dropped = teacher(*inputs[:5], torch.tensor([1.0, 0.0]))
        other = teacher(*inputs[:4], inputs[4]._replace(patches_BPC=inputs[4].patches_BPC + 1), inputs[5])
    assert torch.equal(dropped[1], base[1]), "what is not there adds exact zeros: the base answers, bit for bit"
    assert not torch.allclose(dropped[0], base[0], atol=1e-4)
    assert not torch.allclose(other[0], dropped[0], atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_trained_part(make_teacher, teacher_inputs, checkpointing):
    teacher, inputs = make_teacher(), teacher_inputs(2)
    if checkpointing:
        teacher.transformer.enable_gradient_checkpointing()
    teacher.train()

    def gradients() -> dict[str, float]:
        teacher.zero_grad()
        teacher(*inputs).square().mean().backward()
        return {n: 0.0 if p.grad is None else float(p.grad.abs().sum()) for n, p in teacher.trainable().items()}

    fresh = gradients()
    assert all(g > 0 for n, g in fresh.items() if "to_v_ref" in n), "values start at zero and must still learn"
    assert all(g == 0 for n, g in fresh.items() if "to_k_ref" in n or n.startswith("resampler.")), "nothing flows through zero values"
    train_values(teacher)
    later = gradients()
    silent = [n for n, g in later.items() if not g > 0 and "lora_A" not in n]
    assert silent == [], "LoRA's A waits for B, all else learns"
    frozen = [n for n, p in teacher.named_parameters() if not p.requires_grad and p.grad is not None]
    assert frozen == []


def test_words_are_read_by_copies_of_the_texts_own_projections_behind_a_gate(make_teacher, teacher_inputs):
    teacher, inputs = make_teacher(space="words"), teacher_inputs(2)
    for block in teacher.transformer.blocks:
        for ours, texts in ((block.attn2.processor.to_k_ref, block.attn2.to_k), (block.attn2.processor.to_v_ref, block.attn2.to_v)):
            assert torch.equal(ours.weight, texts.base_layer.weight) and torch.equal(ours.bias, texts.base_layer.bias)
    assert teacher.resampler(inputs[4].patches_BPC).shape == (2, 3, teacher.transformer.config.text_dim)

    # tokens that are a text's, and the gate at 1: the reference adds what the base's own attention to that text gives
    attn = teacher.transformer.blocks[1].attn2
    processor = attn.processor
    processor.gate.data.fill_(0.1)
    g = torch.Generator().manual_seed(2)
    hidden, text, words = (
        torch.randn(2, 7, attn.inner_dim, generator=g),
        torch.zeros(2, 1, attn.inner_dim),
        torch.randn(2, 3, attn.inner_dim, generator=g),
    )
    with torch.no_grad():
        alone, of_words = processor(attn, hidden, text), processor(attn, hidden, words)
        processor.shared.tokens_BND = words
        both = processor(attn, hidden, text)
        bias = attn.to_out[0](torch.zeros_like(hidden))
    torch.testing.assert_close(both, alone + of_words - bias, rtol=1e-4, atol=1e-5)


def test_a_fresh_gate_learns_first_and_opens_the_way(make_teacher, teacher_inputs):
    teacher = make_teacher(space="words").train()
    teacher(*teacher_inputs(2)).square().mean().backward()
    moved = {n for n, p in teacher.trainable().items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {n for n in moved if n.endswith(".gate")} == {f"transformer.blocks.{i}.attn2.processor.gate" for i in range(4)}
    assert not any("_ref" in n or n.startswith("resampler.") for n in moved), "nothing flows through a closed gate"
    train_values(teacher)
    teacher.zero_grad()
    teacher(*teacher_inputs(2)).square().mean().backward()
    assert [n for n, p in teacher.trainable().items() if "lora_A" not in n and not (p.grad is not None and p.grad.abs().sum() > 0)] == []


def test_gradient_checkpointing_changes_no_gradient(make_teacher, teacher_inputs):
    grads = []
    for checkpointing in (False, True):
        teacher = make_teacher()
        train_values(teacher)
        if checkpointing:
            teacher.transformer.enable_gradient_checkpointing()
        teacher.train()
        teacher(*teacher_inputs(1)).square().mean().backward()
        grads.append({n: p.grad.clone() for n, p in teacher.trainable().items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("every", "hooked"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3]), (9, [0])])
def test_every_nth_layer(every, hooked):
    transformer = load_transformer(NANO, None)
    attach_reference(transformer, 32, every)
    assert [i for i, block in enumerate(transformer.blocks) if isinstance(block.attn2.processor, ReferenceAttnProcessor)] == hooked
    assert not any(isinstance(block.attn2.processor, ReferenceAttnProcessor) for block in transformer.vace_blocks)


def test_vace_blocks_too(make_teacher, teacher_inputs):
    """A base may draw in its VACE branch; hooked there alone in effect (the main gates shut), the reference still counts."""
    teacher, inputs = make_teacher(space="words", vace_blocks=True), teacher_inputs(2)
    with torch.no_grad():
        assert torch.equal(teacher(*inputs), base_answer(inputs))
        for block in teacher.transformer.vace_blocks:
            block.attn2.processor.gate.fill_(0.1)
            torch.nn.init.normal_(block.proj_out.weight)  # a random VACE branch says nothing until its projections are opened
        seen, dropped = teacher(*inputs), teacher(*inputs[:5], torch.zeros(2))
    assert not torch.allclose(seen, dropped, atol=1e-4)
    with pytest.raises(ValueError, match="block 0 has a reference adapter already"):
        attach_reference(teacher.transformer, None, vace_blocks=True)


def test_attaching_twice_is_refused():
    transformer = load_transformer(NANO, None)
    attach_reference(transformer, 32)
    with pytest.raises(ValueError, match="block 0 has a reference adapter already. Load a fresh transformer"):
        attach_reference(transformer, 32)


def test_no_tokens_laid_is_the_base(teacher_inputs):
    inputs = teacher_inputs(1)
    transformer = load_transformer(NANO, None)
    shared = attach_reference(transformer, 32)
    for block in transformer.blocks:
        torch.nn.init.ones_(block.attn2.processor.to_v_ref.weight)
    assert shared.tokens_BND is None
    noisy, sigma, text, control = inputs[:4]
    with torch.no_grad():
        answer = transformer(
            hidden_states=noisy, timestep=sigma * 1000.0, encoder_hidden_states=text, control_hidden_states=control, return_dict=False
        )[0]
    assert torch.equal(answer, base_answer(inputs))


def test_the_sum_of_both_attentions_is_projected_once(make_teacher, teacher_inputs):
    """By the formula: to_out(text + reference), the query shared. Text attention alone is diffusers' own processor."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    teacher = make_teacher()
    train_values(teacher)
    attn = teacher.transformer.blocks[0].attn2
    processor = attn.processor
    g = torch.Generator().manual_seed(2)
    hidden, text, tokens = (torch.randn(2, n, width, generator=g) for n, width in ((7, attn.inner_dim), (5, attn.inner_dim), (3, 32)))
    calls = {"to_q": 0, "to_out": 0}
    attn.to_q.register_forward_hook(lambda *_: calls.__setitem__("to_q", calls["to_q"] + 1))
    attn.to_out[0].register_forward_hook(lambda *_: calls.__setitem__("to_out", calls["to_out"] + 1))
    processor.shared.tokens_BND = tokens
    with torch.no_grad():
        got = processor(attn, hidden, text)
        assert calls == {"to_q": 1, "to_out": 1}
        query, key = attn.norm_q(attn.to_q(hidden)), processor.to_k_ref(tokens)
        query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (query, key, processor.to_v_ref(tokens)))
        reference = ((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)
        bias = attn.to_out[0](torch.zeros_like(reference))
        wanted = WanAttnProcessor()(attn, hidden, text) + attn.to_out[0](reference) - bias
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_attention_in_bfloat16_on_a_cpu_is_done_in_float32():
    q, k, v = (torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(s)).bfloat16() for s in range(3))
    keep = torch.tensor([True, True, True, False, False])
    got = attend(q, k, v, keep.expand(1, 1, 5, 5))
    wanted = torch.nn.functional.scaled_dot_product_attention(q.float(), k[:, :, :3].float(), v[:, :, :3].float())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted.bfloat16())


def test_fused_projections_are_refused():
    transformer = load_transformer(NANO, None)
    transformer.blocks[0].attn2.fused_projections = True
    with pytest.raises(ValueError, match="block 0 has fused projections"):
        attach_reference(transformer, 32)
