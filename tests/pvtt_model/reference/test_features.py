"""Features by row and as a batch."""

from __future__ import annotations

import pytest
import torch

from pvtt_model.reference.class_token import ClassTokenProjection
from pvtt_model.reference.features import READS, PictureFeatures, pictures_of, stack_features, stack_references

ROW = {
    "reference_NPC": torch.arange(12.0).view(2, 3, 2),
    "reference_1_NPC": torch.arange(12.0).view(2, 3, 2) + 100,
    "reference_NC": torch.ones(2, 2).bfloat16(),
    "reference_1_NC": torch.full((2, 2), 2.0),
    "clip_NPC": torch.ones(2, 5, 4),
    "clip_1_NPC": torch.zeros(2, 5, 4),
    "references_NCFHW": torch.ones(2, 16, 1, 4, 4),
}


def test_an_injection_gets_what_it_reads_and_no_more():
    for kind, fields in READS.items():
        found = pictures_of(ROW, kind, 1)
        assert {name for name, t in found._asdict().items() if t is not None} == fields
        assert all(t is None or t.dtype == torch.float32 for t in found)
    assert torch.equal(pictures_of(ROW, "ip_adapter_plus", 1).patches_PC, ROW["reference_1_NPC"].flatten(0, 1))
    assert (pictures_of(ROW, "ip_adapter", 1).cls_NC == 2).all() and pictures_of(ROW, "dual_path").clip_PC.shape == (10, 4)
    assert pictures_of(ROW, "reference_net").latents_NCHW.shape == (2, 16, 4, 4)


@pytest.mark.parametrize(
    ("kind", "name", "setting"),
    [
        ("ip_adapter", "reference_NC", "conditions.class_tokens=true"),
        ("dual_path", "clip_NPC", "conditions.clip_encoder"),
        ("reference_net", "references_NCFHW", "latents.references='white' or 'own'"),
    ],
)
def test_a_row_without_it_names_the_setting(kind, name, setting):
    with pytest.raises(ValueError, match=f"holds no '{name}', which reference.injection '{kind}' reads. Set {setting}, and re-run curation"):
        pictures_of({k: t for k, t in ROW.items() if k != name}, kind)


def test_clips_as_a_batch():
    one, two = PictureFeatures(torch.ones(2, 3), torch.ones(1, 3)), PictureFeatures(torch.ones(4, 3), torch.ones(2, 3))
    batch = stack_features([one, two])
    assert batch.keep_BP.tolist() == [[True, True, False, False], [True] * 4] and batch.cls_keep_BN.tolist() == [[True, False], [True, True]]
    assert batch.patches_BPC[0, :, 0].tolist() == [1, 1, 0, 0] and batch.clip_BPC is None and batch.latents_BNCHW is None
    moved = batch.to(torch.device("cpu"), torch.bfloat16)
    assert moved.patches_BPC.dtype == torch.bfloat16 and moved.keep_BP.dtype == torch.bool
    with pytest.raises(ValueError, match="1 of 2 clips have the reference's cls_NC"):
        stack_features([one, two._replace(cls_NC=None)])
    sizes = [PictureFeatures(latents_NCHW=torch.ones(1, 16, *size)) for size in ((4, 4), (4, 6))]
    with pytest.raises(ValueError, match="latents_NCHW are of shapes .* Batch clips of one size"):
        stack_features(sizes)


def test_equal_references_need_no_padding():
    stacked, keep = stack_references([torch.ones(2, 3)] * 2)
    assert stacked.shape == (2, 2, 3) and keep.all()


def test_class_tokens_are_averaged_and_padding_is_never_seen():
    torch.manual_seed(0)
    projection = ClassTokenProjection(6, 8, 3, out_width=5)
    tokens = torch.randn(1, 2, 6)
    with torch.no_grad():
        alone = projection(tokens)
        assert alone.shape == (1, 3, 5)
        padded = projection(torch.cat([tokens, torch.full((1, 2, 6), torch.inf)], 1), torch.tensor([[True, True, False, False]]))
        torch.testing.assert_close(padded, alone)
        torch.testing.assert_close(projection(tokens.flip(1)), alone)
        by_hand = projection.to_out(projection.norm_out(projection.proj_in(tokens.mean(1)).view(1, 3, 8)))
        torch.testing.assert_close(alone, by_hand)
