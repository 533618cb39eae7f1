"""What every injection owes: the base's bits at the start and at scale 0, gradients where they belong, any number of pictures."""

from __future__ import annotations

import re

import pytest
import torch

from pvtt_model.backbones.dit import build_on_meta, load_transformer
from pvtt_model.editing.sample import EditInputs, sample_edit
from pvtt_model.reference.features import PictureFeatures, stack_features
from pvtt_model.specs import BackboneSpec, EditSpec, LoraSpec, ReferenceSpec
from pvtt_model.training.teacher import Teacher, load_trainable
from pvtt_model.training.trained_tensors import join_trainable, split_trainable

NANO = BackboneSpec(architecture="nano-s", weights="seed:7")
KINDS = ["ip_adapter", "ip_adapter_plus", "dual_path", "reference_net"]
CASES = [(kind, space) for kind in KINDS for space in ("own", "words") if (kind, space) != ("reference_net", "words")]
every_case = pytest.mark.parametrize(("kind", "space"), CASES)
every_kind = pytest.mark.parametrize("kind", KINDS)
FIELDS = {
    "ip_adapter": ("cls_BNC",),
    "ip_adapter_plus": ("patches_BPC",),
    "dual_path": ("patches_BPC", "clip_BPC"),
    "reference_net": ("latents_BNCHW",),
}


@torch.no_grad()
def base_answer(inputs):
    noisy, sigma, text, control = inputs[:4]
    return load_transformer(NANO, None)(
        hidden_states=noisy, timestep=sigma * 1000.0, encoder_hidden_states=text, control_hidden_states=control, return_dict=False
    )[0]


def opened(teacher, vace: bool = True):
    """As after training: what starts at zero, but LoRA, is not. vace: VACE's branch, of a random base, is heard."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in teacher.trainable().items():
            if "to_v_ref.weight" in name and not teacher.words:
                p.copy_(torch.randn(p.shape, generator=g))
            if name.endswith(".gate"):
                p.fill_(0.07)
        if vace:
            for block in teacher.transformer.vace_blocks:
                block.proj_out.weight.copy_(torch.randn(block.proj_out.weight.shape, generator=g) * 0.05)
    return teacher


@torch.no_grad()
def answer(teacher, inputs, present=None):
    return teacher(*inputs[:5], inputs[5] if present is None else present)


@every_case
def test_fresh_or_at_scale_0_or_dropped_it_is_the_base_bit_for_bit(make_teacher, teacher_inputs, kind, space):
    teacher, inputs = make_teacher(injection=kind, space=space, vace_blocks=True), teacher_inputs(2)
    base = base_answer(inputs)
    assert torch.equal(answer(teacher, inputs), base)
    opened(teacher, vace=False)
    full, dropped = answer(teacher, inputs), answer(teacher, inputs, torch.tensor([1.0, 0.0]))
    assert torch.equal(dropped[1], base[1]) and torch.equal(dropped[0], full[0]) and not torch.allclose(full, base, atol=1e-4)
    for field in FIELDS[kind]:
        other = inputs[4]._replace(**{field: getattr(inputs[4], field) + 1})
        assert not torch.allclose(answer(teacher, (*inputs[:4], other, inputs[5])), full, atol=1e-5), f"{field} is read"
    teacher.reference_scale = 0.5
    half = answer(teacher, inputs)
    assert not torch.allclose(half, full, atol=1e-5) and not torch.allclose(half, base, atol=1e-5)
    teacher.reference_scale = 0.0
    assert torch.equal(answer(teacher, inputs), base)


@pytest.mark.parametrize("space", ["own", "words"])
def test_each_of_two_paths_has_its_scale(make_teacher, teacher_inputs, space):
    teacher, inputs = opened(make_teacher(injection="dual_path", space=space)), teacher_inputs(1)
    features, full = inputs[4], answer(teacher, inputs)
    changed = {name: (*inputs[:4], features._replace(**{name: getattr(features, name) + 1}), inputs[5]) for name in FIELDS["dual_path"]}
    for scales, silent, heard in (((1.0, 0.0), "clip_BPC", "patches_BPC"), ((0.0, 1.0), "patches_BPC", "clip_BPC")):
        teacher.path_scales = scales
        one = answer(teacher, inputs)
        assert not torch.allclose(one, full, atol=1e-5)
        assert torch.equal(answer(teacher, changed[silent]), one)
        assert not torch.allclose(answer(teacher, changed[heard]), one, atol=1e-5)
    teacher.path_scales = (0.0, 0.0)
    assert torch.equal(answer(teacher, inputs), answer(teacher, inputs, torch.zeros(1)))


def gradients(teacher, inputs, checkpointing: bool = False) -> dict[str, torch.Tensor]:
    if checkpointing:
        teacher.transformer.enable_gradient_checkpointing()
    teacher.train().zero_grad()
    teacher(*inputs).square().mean().backward()
    assert [n for n, p in teacher.named_parameters() if not p.requires_grad and p.grad is not None] == [], "the base is frozen"
    return {n: p.grad.clone() for n, p in teacher.trainable().items() if p.grad is not None}


@pytest.mark.parametrize(("kind", "space"), [*((kind, "own") for kind in KINDS), ("dual_path", "words")])
def test_all_that_is_trained_learns_and_checkpointing_changes_no_gradient(make_teacher, teacher_inputs, kind, space):
    teacher, inputs = opened(make_teacher(injection=kind, space=space, vace_blocks=True)), teacher_inputs(1)
    plain, again = (gradients(teacher, inputs, on) for on in (False, True))
    silent = [n for n in teacher.trainable() if "lora_A" not in n and not (n in plain and plain[n].abs().sum() > 0)]
    assert silent == [], "LoRA's A waits for B, all else learns"
    assert plain.keys() == again.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-4, atol=1e-7, msg=name)


@every_kind
def test_a_fresh_one_learns_first_where_it_starts_at_zero(make_teacher, teacher_inputs, kind):
    teacher = make_teacher(injection=kind)
    found = gradients(teacher, teacher_inputs(1))
    first = re.compile(r"\.gate$" if kind == "reference_net" else r"to_v_ref")
    moved = {n for n, g in found.items() if g.abs().sum() > 0 and ".lora_" not in n}
    assert moved and moved == {n for n in teacher.trainable() if first.search(n)}


TRAINED = {
    "ip_adapter": r"class_projection\.|transformer\.blocks\.[02]\.attn2\.processor\.to_[kv]_ref\.weight$",
    "ip_adapter_plus": r"resampler\.|transformer\.blocks\.[02]\.attn2\.processor\.to_[kv]_ref\.weight$",
    "dual_path": r"(semantic_)?resampler\.|transformer\.blocks\.[02]\.attn2\.processor\.(semantic\.)?to_[kv]_ref\.weight$",
    "reference_net": r"reference_net\.blocks\.0\.|transformer\.blocks\.0\.attn1\.processor\.gate$",
}


@every_kind
def test_names_of_what_is_trained_and_every_second_layer(make_teacher, kind):
    teacher = make_teacher(injection=kind, every=2)
    names = [n for n in teacher.trainable() if ".lora_" not in n]
    assert names and [n for n in names if not re.match(TRAINED[kind], n)] == []
    lora, adapter, _ = split_trainable(teacher.trainable())
    assert len(adapter) == len(names) and join_trainable(lora, adapter).keys() == teacher.trainable().keys()


@every_kind
def test_what_is_saved_makes_another_teacher_the_same(make_teacher, teacher_inputs, kind):
    one, two, inputs = opened(make_teacher(injection=kind)), make_teacher(injection=kind, seed=3), teacher_inputs(1)
    lora, adapter, _ = split_trainable({n: p.detach().clone() for n, p in one.trainable().items()})
    load_trainable(two, join_trainable(lora, adapter))
    with torch.no_grad():
        for ours, theirs in zip(one.transformer.vace_blocks, two.transformer.vace_blocks, strict=True):
            theirs.proj_out.weight.copy_(ours.proj_out.weight)
    assert torch.equal(answer(one, inputs), answer(two, inputs))


def test_what_another_injection_saved_is_refused(make_teacher):
    with pytest.raises(ValueError, match="made with other reference or LoRA settings"):
        load_trainable(make_teacher(injection="dual_path"), {n: p.detach() for n, p in make_teacher().trainable().items()})


def clip(pictures: int, seed: int) -> PictureFeatures:
    g = torch.Generator().manual_seed(seed)
    sizes = ((4 * pictures, 128), (pictures, 128), (5 * pictures, 96), (pictures, 32, 4, 4))
    return PictureFeatures(*(torch.randn(size, generator=g) for size in sizes))


@every_kind
def test_clips_of_different_numbers_of_pictures_answer_as_each_alone(make_teacher, teacher_inputs, kind):
    teacher, clips = opened(make_teacher(injection=kind)), [clip(1, 0), clip(3, 1)]
    noisy, sigma, text, control, _, present = teacher_inputs(2)
    stacked = stack_features(clips)
    marks = {"patches_BPC": "keep_BP", "cls_BNC": "cls_keep_BN", "clip_BPC": "clip_keep_BP", "latents_BNCHW": "latents_keep_BN"}
    dirty = {f: getattr(stacked, f).clone() for f in marks}
    for field, keep in marks.items():
        assert not getattr(stacked, keep).all()
        dirty[field][~getattr(stacked, keep)] = 99.0
    together = answer(teacher, (noisy, sigma, text, control, stacked._replace(**dirty), present))
    for i, pictures in enumerate(clips):
        alone = answer(teacher, (noisy[i : i + 1], sigma[i : i + 1], text[i : i + 1], control[i : i + 1], stack_features([pictures]), present[:1]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[1], answer(teacher, (noisy, sigma, text, control, stack_features([clip(1, 0)] * 2), present))[1], atol=1e-4)


@every_kind
def test_it_can_stand_on_the_meta_device(kind):
    with torch.device("meta"):
        teacher = Teacher(build_on_meta("nano-m"), ReferenceSpec(injection=kind), LoraSpec(rank=4, alpha=4), 48, 0, clip_width=32)
    assert all(p.device.type == "meta" for p in teacher.trainable().values())


@every_kind
def test_an_edit_in_bfloat16_and_its_scale(make_teacher, kind):
    teacher = opened(make_teacher(injection=kind, dtype="bfloat16"))
    g, config = torch.Generator().manual_seed(3), teacher.transformer.config
    shapes = ((config.vace_in_channels, 2, 4, 4), (5, config.text_dim), (1, config.text_dim))
    inputs = EditInputs(*(torch.randn(shape, generator=g) for shape in shapes), clip(2, 0))
    edits = {
        scale: sample_edit(teacher, inputs, EditSpec(num_steps=2, scheduler="flow_euler", guidance_text=1.0, reference_scale=scale), 8, 0)
        for scale in (0.0, 1.0)
    }
    none = sample_edit(teacher, inputs, EditSpec(num_steps=2, scheduler="flow_euler", guidance_text=1.0, guidance_reference=0.0), 8, 0)
    assert torch.allclose(edits[0.0], none, atol=1e-4) and not torch.allclose(edits[1.0], none, atol=1e-2)
    assert teacher.reference_scale == 1.0, "the scale of an edit stays with it"


@every_kind
def test_features_that_were_not_read_are_refused(make_teacher, teacher_inputs, kind):
    inputs = teacher_inputs(1)
    lacking = inputs[4]._replace(**{FIELDS[kind][-1]: None})
    with pytest.raises(ValueError, match="Read the samples with this recipe's reference.injection"):
        make_teacher(injection=kind)(*inputs[:4], lacking, inputs[5])


def test_a_path_without_a_clip_is_refused():
    with pytest.raises(ValueError, match="no CLIP's width is given. Set conditions.clip_encoder"):
        Teacher(load_transformer(NANO, None), ReferenceSpec(injection="dual_path"), LoraSpec(rank=4, alpha=4), 48, 0)


@pytest.mark.slow
@every_kind
def test_compiled_it_answers_and_learns_the_same(make_teacher, teacher_inputs, kind):
    inputs = teacher_inputs(2)
    teacher = opened(make_teacher(injection=kind))
    eager, wanted = answer(teacher, inputs), gradients(teacher, inputs)
    teacher.transformer.compile()
    torch.testing.assert_close(answer(teacher, inputs), eager, rtol=1e-3, atol=1e-4)
    for name, grad in gradients(teacher, inputs).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-2, atol=1e-5, msg=name)
