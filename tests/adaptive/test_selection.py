"""Who teaches which image: what the sources say, the oracle, subsets and sub-batches."""

from __future__ import annotations

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.adaptive import losses, selection
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName


def test_subsets_are_disjoint_and_cover_the_data() -> None:
    choice = torch.randint(3, (100,))
    choice[choice == 1] = 2
    parts = selection.subsets(choice, 3)
    assert torch.cat(parts).sort().values.tolist() == list(range(100)) and len(parts[1]) == 0
    assert all((choice[part] == source).all() for source, part in enumerate(parts))


def test_the_oracle_takes_the_smallest_cross_entropy_and_is_right_wherever_a_source_is_right_of_two() -> None:
    logits, labels = torch.randn(3, 40, 5), torch.randint(5, (40,))
    each = torch.stack([F.cross_entropy(z, labels, reduction="none") for z in logits])
    assert torch.equal(selection.oracle(logits, labels), each.argmin(0))
    logits, labels = torch.randn(3, 200, 2), torch.randint(2, (200,))
    chosen = selection.pseudo_labels(logits, selection.oracle(logits, labels)) == labels
    assert torch.equal(chosen, (logits.argmax(2) == labels).any(0))


def test_sub_batches_follow_the_official_rule() -> None:
    for largest, second in ((640, 640), (1000, 37), (5000, 4999), (200, 3), (64, 1), (700, 350)):
        updates = int(largest / 64)
        sizes = selection.sub_batches([second, largest], 64)
        assert sizes == [64 if second == largest else max(1, int(second / updates)), 64]
        if second >= updates:  # both lists are gone through in about as many updates
            assert second // sizes[0] >= updates and second - updates * sizes[0] < max(updates, 64)
    assert selection.sub_batches([10, 0, 4], 64) == [10, 0, 4] and selection.sub_batches([100, 0], 32) == [32, 0]
    for sizes, batch in (([0, 0], 8), ([], 8), ([5], 0)):
        with pytest.raises(ReuseError, match="no batch of"):
            selection.sub_batches(sizes, batch)


class Broken(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"b": torch.full((len(images), 2), float("nan"))}


def test_predictions_are_those_of_the_evaluation_mode_and_leave_the_sources_alone() -> None:
    cast = players.cast()
    images, pool = cast.images, [source for source in players.pool(cast).values() if "b" in source.tasks]
    pool[0].train()
    before = players.state(pool[0])
    found = selection.predictions(pool, "b", images, batch=7)
    assert pool[0].training and not list(players.differences(before, players.state(pool[0])))
    with run.frozen(*pool), torch.no_grad():
        expected = torch.stack([source(images.normalised(images.images))["b"] for source in pool])
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 40, 2) and not found.requires_grad
    with pytest.raises(UnknownName, match="task 'e'"):
        selection.predictions(pool, "e", images)
    with pytest.raises(ReuseError, match="no source teaches 'b'"):
        selection.predictions([], "b", images)
    with pytest.raises(ShapeMismatch, match=r"number of classes: \[2, 2, 3\]"):
        selection.predictions([*pool, nets.multi_head_conv({"b": 3}, widths=(2, 2))], "b", images)
    assert losses.select(torch.tensor([[0.1], [float("nan")]])).tolist() == [1]  # what would happen
    with pytest.raises(NonFinite, match="source 2 gives NaN or infinity for 'b'"):
        selection.predictions([*pool, Broken()], "b", images)
