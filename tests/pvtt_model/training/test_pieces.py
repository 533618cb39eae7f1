"""The optimizer's state by the parameters' names: cut one way, read another, to the last bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pvtt_model.training.pieces import Master, Piece, gathered, load_pieces, pieces_of, whole
from pvtt_model.training.records import rank_files_for

SHAPES = {"a": (4, 3), "b": (5,), "gate": (1,)}


def stepped(masters: list[Master], seed: int = 0) -> torch.optim.AdamW:
    """AdamW over the masters, after two steps on random gradients: no moment is nought."""
    adamw = torch.optim.AdamW([m.tensor for m in masters], lr=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        for m in masters:
            m.tensor.grad = torch.randn(m.tensor.shape, generator=generator)
        adamw.step()
    return adamw


def wholes(seed: int) -> list[Master]:
    generator = torch.Generator().manual_seed(seed)
    return [whole(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in SHAPES.items()]


def flat(count: int, *pieces: Piece) -> Master:
    return Master(nn.Parameter(torch.zeros(count)), pieces)


#: As ZeRO-2 cuts 18 numbers into two of 9, the second's last one padding where there are 17; as FSDP2 takes rows; and one parameter a rank.
FLAT = [[flat(9, Piece("a", 0, 9, 0))], [flat(10, Piece("a", 9, 3, 0), Piece("b", 0, 5, 3), Piece("gate", 0, 1, 8))]]
ROWS = [[flat(6, Piece("a", 0, 6, 0)), flat(3, Piece("b", 0, 3, 0)), flat(1, Piece("gate", 0, 1, 0))],
        [flat(6, Piece("a", 6, 6, 0)), flat(2, Piece("b", 3, 2, 0)), flat(0)]]  # fmt: skip
THREE = [[flat(12, Piece("a", 0, 12, 0))], [flat(5, Piece("b", 0, 5, 0))], [flat(1, Piece("gate", 0, 1, 0))]]


@pytest.mark.parametrize("layouts", [(FLAT, ROWS), (ROWS, THREE), (THREE, FLAT)])
def test_another_layout_holds_the_same_numbers(tmp_path, layouts):
    """From whole parameters through two cuts and back to whole ones: masters, both moments and the count of steps."""
    source = wholes(seed=1)
    adamw = stepped(source)
    save_file(pieces_of(source, adamw), tmp_path / "rank0.safetensors")
    paths = [tmp_path / "rank0.safetensors"]
    for number, layout in enumerate(layouts):
        folder = tmp_path / str(number)
        folder.mkdir()
        for rank, masters in enumerate(layout):
            one = torch.optim.AdamW([m.tensor for m in masters], lr=0.1)
            load_pieces(masters, one, paths)
            save_file(pieces_of(masters, one), folder / f"rank{rank}.safetensors")
        paths = sorted(folder.iterdir())
    back = wholes(seed=2)
    again = torch.optim.AdamW([m.tensor for m in back], lr=0.1)
    load_pieces(back, again, paths)
    for old, new in zip(source, back, strict=True):
        assert torch.equal(old.tensor, new.tensor)
        was, now = adamw.state[old.tensor], again.state[new.tensor]
        assert was.keys() == now.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(was[key], now[key]) for key in was)
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(m.tensor.shape, generator=generator) for m in source]
    for masters, optimizer in ((source, adamw), (back, again)):
        for m, grad in zip(masters, gradients, strict=True):
            m.tensor.grad = grad.clone()
        optimizer.step()
    assert all(torch.equal(old.tensor, new.tensor) for old, new in zip(source, back, strict=True)), "and the next step is the same"


def test_a_rank_reads_its_own_file_alone(tmp_path):
    masters = [flat(9, Piece("a", 0, 9, 0))]
    adamw = stepped(masters)
    save_file(pieces_of(masters, adamw), tmp_path / "rank0.safetensors")
    assert set(load_file(tmp_path / "rank0.safetensors")) == {"a@0/param", "a@0/exp_avg", "a@0/exp_avg_sq", "step"}
    again = [flat(9, Piece("a", 0, 9, 0))]
    load_pieces(again, torch.optim.AdamW([again[0].tensor]), [tmp_path / "rank0.safetensors"])
    assert torch.equal(again[0].tensor, masters[0].tensor)


def test_a_missing_rank_is_said(tmp_path):
    save_file(pieces_of(FLAT[0], stepped(FLAT[0])), tmp_path / "rank0.safetensors")
    own = wholes(0)
    with pytest.raises(ValueError, match=r"rank0.safetensors do not fit this run: nothing of b is there"):
        load_pieces(own, torch.optim.AdamW([m.tensor for m in own]), [tmp_path / "rank0.safetensors"])
    with pytest.raises(ValueError, match=r"3 of 12 numbers of a/param are not there. Give the files of all ranks"):
        load_pieces(own[:1], torch.optim.AdamW([own[0].tensor]), [tmp_path / "rank0.safetensors"])


def test_the_format_of_before_is_refused_with_its_cure(tmp_path):
    save_file({"0.0.param": torch.zeros(3)}, tmp_path / "rank0.safetensors")
    with pytest.raises(ValueError, match="'0.0.param', no piece of a parameter: an earlier version .* delete the artifact's folder steps/"):
        load_pieces(wholes(0), torch.optim.AdamW([nn.Parameter(torch.zeros(1))]), [tmp_path / "rank0.safetensors"])


def test_gathered_names_and_shapes():
    masters = wholes(4)
    parameters = {name: m.tensor for name, m in zip(SHAPES, masters, strict=True)}
    found = dict(gathered(masters, [2 * m.tensor for m in masters], parameters, torch.device("cpu"), replicated=True))
    assert found.keys() == SHAPES.keys() and all(torch.equal(found[n], 2 * parameters[n]) for n in SHAPES)


def test_which_ranks_files_are_read():
    two = ["rank0.safetensors", "rank1.safetensors", "trained.safetensors", "state.json"]
    assert rank_files_for(1, 2, two, replicated=False) == ["rank1.safetensors"]
    assert rank_files_for(1, 2, two, replicated=True) == two[:2], "rank 0 wrote it all"
    assert rank_files_for(2, 3, two, replicated=False) == two[:2] == rank_files_for(0, 1, two, replicated=False)
    for there in (["rank1.safetensors"], ["rank0.safetensors", "rank2.safetensors"], []):
        with pytest.raises(ValueError, match="some are missing"):
            rank_files_for(0, 1, there, replicated=False)
