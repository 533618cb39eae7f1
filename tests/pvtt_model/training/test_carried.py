"""What is taken over from the stage before, and what is said of the rest."""

from __future__ import annotations

from pvtt_model.training.carried import Carried, as_text, carried_counts, carried_over, carried_rows

RESAMPLER = {"resampler.latents": (16, 128), "resampler.out.weight": (64, 128)}
LORA = "transformer.blocks.{}.attn1.to_q.lora_A.default.weight"


def small_to_big() -> list[Carried]:
    before = RESAMPLER | {LORA.format(i): (16, 96) for i in range(3)} | {"transformer.blocks.0.attn2.processor.to_k.weight": (96, 96)}
    here = RESAMPLER | {LORA.format(i): (16, 192) for i in range(4)}
    return carried_over(here | {"reference_probe.weight": (2, 2)}, before)


def test_same_size_is_taken_over_whole():
    found = carried_over(RESAMPLER, RESAMPLER)
    assert found == [Carried(name, "loaded") for name in sorted(RESAMPLER)]
    assert as_text(found) == "of the stage before 2 tensors are taken over; 0 start fresh, 0 are not used"


def test_another_size_is_told_by_name_and_reason():
    found = {c.name: c for c in small_to_big()}
    assert [name for name, c in found.items() if c.fate == "loaded"] == sorted(RESAMPLER)
    assert found[LORA.format(2)] == Carried(LORA.format(2), "fresh", "another size: 16 x 96 there, 16 x 192 here")
    assert found[LORA.format(3)] == Carried(LORA.format(3), "fresh", "the stage before has no such tensor")
    assert found["transformer.blocks.0.attn2.processor.to_k.weight"][1:] == ("unused", "this stage has no such tensor")
    assert "reference_probe.weight" not in found, "no file keeps it"


def test_blocks_are_counted_together():
    assert carried_rows(small_to_big())[2] == {
        "tensors": LORA.format("*"), "fate": "fresh", "count": 3, "reason": "another size: 16 x 96 there, 16 x 192 here"
    }  # fmt: skip
    counts = carried_counts(small_to_big())
    assert (counts["loaded"], counts["fresh"], counts["unused"]) == (2, 4, 1)
    assert counts["why"]["fresh: another size"] == 3
    text = as_text(small_to_big())
    assert "fresh      3 x transformer.blocks.*.attn1.to_q.lora_A.default.weight: another size: 16 x 96 there, 16 x 192 here" in text


def test_a_part_that_the_stage_before_left_nothing_of_is_no_news():
    assert carried_over(RESAMPLER | {LORA.format(0): (16, 96)}, RESAMPLER) == [Carried(name, "loaded") for name in sorted(RESAMPLER)]


def test_a_layer_that_peft_wraps_has_one_name():
    name = "transformer.vace_blocks.0.attn1.to_q.{}weight"
    assert [c.fate for c in carried_over({name.format("base_layer."): (4, 4)}, {name.format(""): (4, 4)})] == ["loaded"]
