"""The copied half: what it copies, where its pictures stand, and what the base's self-attention makes of it."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.backbones.dit import load_transformer
from pvtt_model.reference.reference_net import Keys, ReferenceKeys, ReferenceSelfAttnProcessor, attach_reference_net, reference_rotary
from pvtt_model.specs import BackboneSpec


def base(name: str = "nano-s"):
    return load_transformer(BackboneSpec(architecture=name, weights="seed:7"), None)


@pytest.mark.parametrize(("name", "every", "vace", "copied", "main", "of_vace"), [
    ("nano-s", 1, False, 2, [0, 1], []),
    ("nano-m", 1, True, 3, [0, 1, 2], [0, 1]), ("nano-m", 2, False, 3, [0, 2], []), ("nano-m", 9, True, 3, [0], [0, 1]),
])  # fmt: skip
def test_the_first_half_is_copied_as_far_as_it_is_read(name, every, vace, copied, main, of_vace):
    transformer = base(name)
    net, _ = attach_reference_net(transformer, every, vace_blocks=vace)
    assert len(net.blocks) == copied

    def reading(blocks):
        return [i for i, block in enumerate(blocks) if isinstance(block.attn1.processor, ReferenceSelfAttnProcessor)]

    assert reading(transformer.blocks) == main and reading(transformer.vace_blocks) == of_vace
    assert [transformer.vace_blocks[i].attn1.processor.layer for i in of_vace] == [transformer.config.vace_layers[i] for i in of_vace]
    ours, theirs = dict(net.blocks[0].named_parameters()), dict(transformer.blocks[0].named_parameters())
    assert all(torch.equal(ours[n], theirs[n]) and ours[n] is not theirs[n] for n in ours) and ours.keys() == theirs.keys() - {"attn1.processor.gate"}
    assert all(p.requires_grad for p in net.parameters())


@torch.no_grad()
def test_untrained_it_sees_of_a_picture_what_the_base_sees_of_a_clean_video_of_one_frame():
    transformer, frames = base("nano-m"), 3
    net, _ = attach_reference_net(base("nano-m"))
    g = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 2, 32, 4, 6, generator=g), torch.randn(1, 5, 96, generator=g)
    found = net(transformer, latents, text, frames)
    assert [k.key_BRHd.shape for k in found] == [(1, 2 * 6, 6, 32)] * 3
    heard: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    keys: list[torch.Tensor] = []
    for i in heard:
        transformer.blocks[i].attn1.to_v.register_forward_hook(lambda _, __, out, i=i: heard[i].append(out))
    transformer.blocks[2].attn1.norm_k.register_forward_hook(lambda _, __, out: keys.append(out))
    _, temb, words, _ = transformer.condition_embedder(torch.zeros(1), text)
    for n in range(2):
        video = latents[:, n, :, None]
        hidden = transformer.patch_embedding(video).flatten(2).transpose(1, 2)
        for block in transformer.blocks[:3]:
            hidden = block(hidden, words, temb.unflatten(1, (6, -1)), transformer.rope(video))
    for i in heard:
        torch.testing.assert_close(found[i].value_BRHd.flatten(2), torch.cat(heard[i], 1), rtol=1e-4, atol=1e-5)
    # keys: the same, turned to the places behind the video's end
    longer = transformer.rope(torch.zeros(1, 1, frames + 2, 4, 6))
    pairs = torch.view_as_complex(torch.cat(keys, 1).unflatten(2, (6, -1)).unflatten(-1, (-1, 2)).contiguous())
    turn = torch.complex(*(t[:, -12:, :, ::2].float() for t in longer))
    torch.testing.assert_close(found[2].key_BRHd, torch.view_as_real(pairs * turn).flatten(-2), rtol=1e-4, atol=1e-5)


def test_pictures_stand_behind_the_videos_end_and_no_place_is_taken_twice():
    rope = base().rope
    cos, sin = reference_rotary(rope, 3, 2, 2, 3)
    whole = rope(torch.zeros(1, 1, 5, 4, 6))
    for ours, theirs in zip((cos, sin), whole, strict=True):
        assert torch.equal(ours.flatten(0, 1), theirs[0, -12:])
    places = torch.cat([whole[0][0, :, 0], whole[1][0, :, 0]], 1)
    assert len(places.unique(dim=0)) == 5 * 6
    with pytest.raises(ValueError, match="2 reference pictures behind 1023 latent frames pass the 1024 positions of the base. Use fewer"):
        reference_rotary(rope, 1023, 2, 2, 3)


@torch.no_grad()
def test_an_open_gate_is_the_attention_to_concatenated_keys_by_hand():
    """And half open, half of the reference's share of it, which is S_ref / (S + S_ref) of the way to the attention to the pictures alone."""
    attn, shared = base().blocks[0].attn1, ReferenceKeys()
    processor = ReferenceSelfAttnProcessor(shared, 0)
    g = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, 7, attn.inner_dim, generator=g)
    k_ref, v_ref = (torch.randn(2, 3, attn.heads, 32, generator=g) for _ in range(2))
    keep = torch.tensor([[True, True, False], [True] * 3])
    query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in
                         (attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)))  # fmt: skip
    scores = query @ torch.cat([key, k_ref.transpose(1, 2)], 2).mT / 32**0.5
    scores[0, :, :, -1] = -torch.inf
    both = scores.softmax(-1) @ torch.cat([value, v_ref.transpose(1, 2)], 2)
    own, pictures = scores[..., :7].softmax(-1) @ value, scores[..., 7:].softmax(-1) @ v_ref.transpose(1, 2)
    share = (scores[..., 7:].logsumexp(-1) - scores[..., :7].logsumexp(-1)).sigmoid()[..., None]
    torch.testing.assert_close(own + share * (pictures - own), both, rtol=1e-4, atol=1e-5)

    def projected(x):
        return attn.to_out[0](x.transpose(1, 2).flatten(2))

    shared.layers, shared.keep_BR = [Keys(k_ref, v_ref)], keep
    for gate, scale, wanted in ((0.1, 1.0, both), (0.05, 1.0, own + 0.5 * (both - own)), (0.1, 0.5, own + 0.5 * (both - own)), (0.1, 0.0, own)):
        processor.gate.fill_(gate)
        shared.scale = scale
        torch.testing.assert_close(processor(attn, hidden), projected(wanted), rtol=1e-4, atol=1e-5)


def test_attached_twice_or_fused_is_refused():
    transformer = base()
    attach_reference_net(transformer)
    with pytest.raises(ValueError, match="block 0 has a reference adapter already"):
        attach_reference_net(transformer)
    fused = base()
    fused.blocks[1].attn1.fused_projections = True
    with pytest.raises(ValueError, match="block 1 has fused projections. Call unfuse_qkv_projections\(\)"):
        attach_reference_net(fused)
