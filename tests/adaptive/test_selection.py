"""Who teaches which image: entropies, choices, subsets and sub-batches."""

from __future__ import annotations

import math

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.adaptive import selection
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_entropy_lies_between_zero_and_the_log_of_the_classes(classes: int) -> None:
    entropies = selection.entropy(5 * torch.randn(500, classes))
    assert entropies.shape == (500,) and (entropies >= 0).all() and (entropies <= math.log(classes) + 1e-6).all()
    uniform = selection.entropy(torch.full((1, classes), 3.7))
    assert uniform.item() == pytest.approx(math.log(classes), abs=1e-6)


def test_entropy_is_the_plain_formula() -> None:
    logits = torch.randn(20, 4, dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(selection.entropy(logits), -(p * p.log()).sum(1).float())


def test_entropy_ignores_a_constant_and_falls_as_logits_grow() -> None:
    logits = torch.randn(50, 3)
    torch.testing.assert_close(selection.entropy(logits + 7), selection.entropy(logits))
    assert (selection.entropy(2 * logits) < selection.entropy(logits)).all()


@pytest.mark.parametrize("scale", [88.8, 105.0, 1e4])
def test_entropy_is_finite_where_the_plain_formula_is_not(scale: float) -> None:
    logits = scale * torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert not (-(p * p.log()).sum(1)).isfinite().all()
    assert selection.entropy(logits).tolist() == pytest.approx([0, 0, math.log(2)], abs=1e-6)


def test_the_least_entropy_is_selected_and_ties_go_to_the_first() -> None:
    entropies = torch.tensor([[0.3, 0.2, 0.5], [0.1, 0.2, 0.6], [0.2, 0.2, 0.4]])
    assert selection.select(entropies).tolist() == [1, 0, 2]


def test_permuting_sources_permutes_the_choice() -> None:
    entropies, order = torch.rand(4, 60), torch.tensor([2, 0, 3, 1])
    assert torch.equal(order[selection.select(entropies[order])], selection.select(entropies))


def test_one_source_teaches_everything() -> None:
    assert selection.select(torch.rand(1, 9)).tolist() == [0] * 9


def test_subsets_are_disjoint_and_cover_the_data() -> None:
    choice = torch.randint(3, (100,))
    choice[choice == 1] = 2
    parts = selection.subsets(choice, 3)
    assert torch.cat(parts).sort().values.tolist() == list(range(100)) and len(parts[1]) == 0
    assert all((choice[part] == source).all() for source, part in enumerate(parts))


def test_with_two_sources_and_two_classes_the_mean_of_the_logits_decides_as_the_selection_does() -> None:
    logits = torch.randn(2, 1000, 2)
    chosen = selection.pseudo_labels(logits, selection.select(selection.entropy(logits)))
    assert torch.equal(chosen, logits.mean(0).argmax(1))
    more = torch.randn(2, 1000, 3)
    chosen = selection.pseudo_labels(more, selection.select(selection.entropy(more)))
    assert not torch.equal(chosen, more.mean(0).argmax(1))


def test_the_oracle_takes_the_smallest_cross_entropy() -> None:
    logits, labels = torch.randn(3, 40, 5), torch.randint(5, (40,))
    losses = torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits])
    assert torch.equal(selection.oracle(logits, labels), losses.argmin(0))


def test_the_oracle_is_right_wherever_a_source_is_right_of_two_classes() -> None:
    logits, labels = torch.randn(3, 200, 2), torch.randint(2, (200,))
    right = (logits.argmax(2) == labels).any(0)
    chosen = selection.pseudo_labels(logits, selection.oracle(logits, labels)) == labels
    assert torch.equal(chosen, right)


# ---- sub-batches


@pytest.mark.parametrize(("largest", "second"), [(640, 640), (1000, 37), (5000, 4999), (200, 3), (64, 1), (700, 350)])
def test_sub_batches_follow_the_official_rule(largest: int, second: int) -> None:
    updates = int(largest / 64)
    sizes = selection.sub_batches([second, largest], 64)
    assert sizes == [64 if second == largest else max(1, int(second / updates)), 64]
    if second >= updates:
        # Both lists are gone through in about as many updates.
        assert second // sizes[0] >= updates
        assert second - updates * sizes[0] < max(updates, 64)


def test_sub_batches_of_small_and_empty_subsets() -> None:
    assert selection.sub_batches([10, 0, 4], 64) == [10, 0, 4]
    assert selection.sub_batches([100, 0], 32) == [32, 0]
    for sizes, batch in (([0, 0], 8), ([], 8), ([5], 0)):
        with pytest.raises(ReuseError, match="no batch of"):
            selection.sub_batches(sizes, batch)


# ---- predictions


def sources() -> list[nets.MultiHead]:
    return [source for source in players.pool(players.cast()).values() if "b" in source.tasks]


def test_predictions_are_those_of_the_evaluation_mode_and_leave_the_sources_alone() -> None:
    images, pool = players.cast().images, sources()
    pool[0].train()
    before = players.state(pool[0])
    found = selection.predictions(pool, "b", images, batch=7)
    assert pool[0].training and not list(players.differences(before, players.state(pool[0])))
    with run.frozen(*pool), torch.no_grad():
        expected = torch.stack([source(images.normalised(images.images))["b"] for source in pool])
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 40, 2) and not found.requires_grad


def test_a_source_without_the_task_is_refused() -> None:
    images = players.cast().images
    with pytest.raises(UnknownName, match="task 'e'"):
        selection.predictions(sources(), "e", images)
    with pytest.raises(ReuseError, match="no source teaches 'b'"):
        selection.predictions([], "b", images)


def test_sources_of_other_classes_are_refused() -> None:
    pool = [*sources(), nets.multi_head_conv({"b": 3}, widths=(2, 2))]
    with pytest.raises(ShapeMismatch, match=r"number of classes: \[2, 2, 3\]"):
        selection.predictions(pool, "b", players.cast().images)


class Broken(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"b": torch.full((len(images), 2), float("nan"))}


def test_a_source_that_gives_nan_is_refused_and_not_selected_silently() -> None:
    assert selection.select(torch.tensor([[0.1], [float("nan")]])).tolist() == [1]  # what would happen
    with pytest.raises(NonFinite, match="source 2 gives NaN or infinity for 'b'"):
        selection.predictions([*sources(), Broken()], "b", players.cast().images)
