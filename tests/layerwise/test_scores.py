"""Which classes teachers know, the scores of their union, and how a student is judged."""

from __future__ import annotations

from dataclasses import replace

import players
import pytest
import torch

from reuselib.errors import ShapeMismatch
from reuselib.layerwise import ClassSets, Teachers, accuracies
from reuselib.layerwise.scores import amalgamated_scores, relabelled

DISJOINT = ClassSets(((2, 0), (3,), (4, 1)))
SHARING = ClassSets(((2, 0), (0, 3), (1, 2, 0)))


def amalgamated(scores: list[torch.Tensor], classes: ClassSets, log_softmax: bool = False) -> torch.Tensor:
    columns = torch.tensor([column for each in classes.columns for column in each])
    return amalgamated_scores(scores, columns, torch.tensor(classes.counts).float(), log_softmax)


def test_the_union_keeps_the_order_of_the_teachers() -> None:
    assert DISJOINT.union == (2, 0, 3, 4, 1) and DISJOINT.columns == ((0, 1), (2,), (3, 4))
    assert SHARING.union == (2, 0, 3, 1) and SHARING.columns == ((0, 1), (1, 2), (3, 0, 1))
    assert DISJOINT.counts == (1,) * 5 and SHARING.counts == (2, 3, 1, 1)
    assert len(SHARING) == 3 and hash(SHARING)


def test_classes_are_divided_as_evenly_as_can_be() -> None:
    order = [3, 1, 4, 0, 2, 5, 9, 8, 7, 6]
    for teachers, sizes in {1: [10], 2: [5, 5], 3: [4, 3, 3], 4: [3, 3, 2, 2], 5: [2] * 5}.items():
        classes = ClassSets.divide(order, teachers)
        assert [len(each) for each in classes.sets] == sizes and classes.union == tuple(order)
    assert ClassSets.consecutive([2, 1]).sets == ((0, 1), (2,))


def test_disjoint_scores_stand_side_by_side_bit_for_bit() -> None:
    scores = [torch.randn(6, len(each)) for each in DISJOINT.sets]
    assert torch.equal(amalgamated(scores, DISJOINT), torch.cat(scores, 1))
    softmax = torch.cat([z.log_softmax(1) for z in scores], 1)
    torch.testing.assert_close(amalgamated(scores, DISJOINT, log_softmax=True), softmax)
    for number, columns in enumerate(DISJOINT.columns):  # block t begins where the blocks before it end
        start = sum(len(each) for each in DISJOINT.sets[:number])
        assert columns == tuple(range(start, start + len(DISJOINT.sets[number])))


def test_permuting_the_teachers_permutes_the_blocks_and_nothing_else() -> None:
    scores = [torch.randn(6, len(each)) for each in DISJOINT.sets]
    order = [2, 0, 1]
    permuted = ClassSets(tuple(DISJOINT.sets[t] for t in order))
    target = amalgamated([scores[t] for t in order], permuted)
    assert torch.equal(target, torch.cat([scores[t] for t in order], 1))
    place = [DISJOINT.union.index(label) for label in permuted.union]
    assert torch.equal(target, amalgamated(scores, DISJOINT)[:, place])


@pytest.mark.parametrize("log_softmax", [False, True])
def test_a_shared_class_gets_the_mean(log_softmax: bool) -> None:
    scores = [torch.randn(6, len(each)) for each in SHARING.sets]
    each = [z.log_softmax(1) if log_softmax else z for z in scores]
    expected = torch.stack(
        [
            torch.stack(
                [z[:, known.index(label)] for z, known in zip(each, SHARING.sets, strict=True) if label in known]
            ).mean(0)
            for label in SHARING.union
        ],
        1,
    )
    torch.testing.assert_close(amalgamated(scores, SHARING, log_softmax), expected)


def test_scores_are_float32_also_of_half_precision() -> None:
    scores = [torch.randn(2, len(each)).bfloat16() for each in SHARING.sets]
    assert amalgamated(scores, SHARING).dtype == torch.float32


def test_accuracies_against_a_loop() -> None:
    scores, labels = torch.randn(200, 4), torch.arange(200) % 4
    found = accuracies(scores, labels, SHARING)
    assert found["accuracy"] == pytest.approx(sum(s.argmax() == y for s, y in zip(scores, labels, strict=True)) / 200)
    for number, columns in enumerate(SHARING.columns, 1):
        own = [(s, int(y)) for s, y in zip(scores, labels, strict=True) if int(y) in columns]
        part = sum(int(s.argmax()) == y for s, y in own) / len(own)
        masked = sum(max(columns, key=lambda c, s=s: float(s[c])) == y for s, y in own) / len(own)
        assert found[f"part_{number}"] == pytest.approx(part) and found[f"masked_{number}"] == pytest.approx(masked)
        assert found[f"masked_{number}"] >= found[f"part_{number}"]
    assert found["masked_mean"] == pytest.approx(sum(found[f"masked_{k}"] for k in (1, 2, 3)) / 3)
    assert found.keys() == {"accuracy", "masked_mean"} | {f"{way}_{k}" for way in ("part", "masked") for k in (1, 2, 3)}


def test_masking_hides_confusion_between_the_teachers() -> None:
    """A student that always prefers the first teacher's classes is perfect when masked."""
    labels = torch.arange(5).repeat(4)
    scores = torch.eye(5)[labels] + torch.tensor([5.0, 5.0, 0, 0, 0])
    found = accuracies(scores, labels, DISJOINT)
    assert found["masked_mean"] == 1 and found["part_1"] == 1 and found["part_2"] == found["part_3"] == 0
    assert found["accuracy"] == pytest.approx(0.4)


def test_images_are_labelled_in_the_order_of_a_teacher_and_of_the_student() -> None:
    images = players.cast().images
    classes = ClassSets(((3, 1), (1, 0)))
    part, whole = classes.part(images, 0), classes.whole(images)
    assert part.classes == ("d", "b") and whole.classes == ("d", "b", "a")
    assert [part.classes[label] for label in part.labels] == [
        images.classes[label] for label in images.labels if int(label) in (3, 1)
    ]
    kept = torch.isin(images.labels, torch.tensor([0, 1, 3]))
    assert torch.equal(whole.images, images.images[kept])
    assert [whole.classes[label] for label in whole.labels] == [images.classes[label] for label in images.labels[kept]]
    everything = relabelled(images, [2, 0, 3, 1])
    assert everything.images is images.images and everything.classes == ("c", "a", "d", "b")


def test_wrong_class_sets_are_refused() -> None:
    for sets in ((), ((0,), ()), ((0, 1), (2, 2))):
        with pytest.raises(ShapeMismatch, match="at least one class, and each of them once"):
            ClassSets(sets)
    with pytest.raises(ShapeMismatch, match="tiny has 4 classes"):
        ClassSets(((0, 4),)).whole(players.cast().images)


# --- teachers read as one --------------------------------------------------------------------------------------------


def test_teachers_give_features_and_scores() -> None:
    cast = players.cast()
    classes = ClassSets(players.KNOWN)
    teachers = Teachers(cast.teachers, classes)
    images = cast.images.normalised(cast.images.images[:3])
    features, scores = teachers(images, [("blocks.0.0", "blocks.0.0"), ("head", "pool")])
    shapes = [[tuple(each.shape) for each in layer] for layer in features]
    assert shapes == [[(3, 4, 8, 8), (3, 5, 8, 8)], [(3, 3), (3, 20)]]
    with torch.no_grad():
        own = [teacher.eval()(images) for teacher in cast.teachers]
    assert torch.equal(scores, amalgamated(own, classes)) and not scores.requires_grad
    assert torch.equal(features[1][0], own[0])
    empty, again = teachers(images)
    assert empty == [] and torch.equal(again, scores)


def test_features_are_those_before_a_relu_that_works_in_place() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 2))
    images = torch.randn(5, 3)
    features, scores = Teachers([network])(images, [("0",)])
    assert torch.equal(features[0][0], network[0](images)) and features[0][0].min() < 0
    torch.testing.assert_close(scores, network(images))
    assert players.hooks(network) == 0


def test_classes_are_told_by_the_last_linear_layers() -> None:
    cast = players.cast()
    assert Teachers(cast.teachers).classes.sets == ((0, 1, 2), (3, 4))
    assert not Teachers(cast.teachers).state_dict().keys() & {"columns", "counts"}


def test_a_batch_is_judged_alike_in_any_mode() -> None:
    cast = players.cast()
    noisy = torch.nn.Sequential(cast.teachers[0], torch.nn.Dropout(0.5)).train()
    teachers, images = Teachers([noisy], ClassSets(((0, 1, 2),))), torch.randn(4, *players.IMAGE)
    assert torch.equal(teachers(images)[1], teachers(images)[1]) and noisy.training


def test_labels_of_other_sets_stay() -> None:
    images = players.cast().images
    before = images.labels.clone()
    ClassSets(((3, 1),)).whole(replace(images))
    assert torch.equal(images.labels, before)
