"""Which classes teachers know, the teachers read as one, and how a student is judged."""

from __future__ import annotations

import players
import pytest
import torch
from torch import nn

from reuselib.errors import BadValue, DeviceError, NonFinite, ShapeMismatch, UnknownName
from reuselib.layerwise import ClassSets, Teachers, accuracies, losses
from reuselib.layerwise.teachers import relabelled

DISJOINT = ClassSets(((2, 0), (3,), (4, 1)))
SHARING = ClassSets(((2, 0), (0, 3), (1, 2, 0)))


def test_the_union_keeps_the_order_of_the_teachers_and_classes_are_divided_as_evenly_as_can_be() -> None:
    assert DISJOINT.union == (2, 0, 3, 4, 1) and DISJOINT.columns == ((0, 1), (2,), (3, 4))
    assert SHARING.union == (2, 0, 3, 1) and SHARING.columns == ((0, 1), (1, 2), (3, 0, 1)) and len(SHARING) == 3
    assert ClassSets.divide([3, 1, 4, 0, 2], 2).sets == ((3, 1, 4), (0, 2))
    assert [len(each) for each in ClassSets.divide(range(10), 4).sets] == [3, 3, 2, 2]
    for sets in ((), ((0,), ()), ((0, 1), (2, 2))):
        with pytest.raises(ShapeMismatch, match="at least one class, and each of them once"):
            ClassSets(sets)
    for sets in (((-1,),), ((0.5,),)):
        with pytest.raises(BadValue, match="a class must be a whole number of at least 0"):
            ClassSets(sets)
    for parts in (0, 4, 1.5):
        with pytest.raises(BadValue, match="parts must be a whole number from 1 to 3"):
            ClassSets.divide(range(3), parts)


def test_images_are_labelled_by_the_places_of_the_classes() -> None:
    images = players.cast().images
    before = images.labels.clone()
    found, kept = relabelled(images, (3, 1, 0)), torch.isin(images.labels, torch.tensor([0, 1, 3]))
    assert found.classes == ("d", "b", "a") and torch.equal(found.images, images.images[kept])
    assert [found.classes[label] for label in found.labels] == [images.classes[label] for label in images.labels[kept]]
    everything = relabelled(images, [2, 0, 3, 1])
    assert everything.images is images.images and everything.classes == ("c", "a", "d", "b")
    assert torch.equal(images.labels, before)
    with pytest.raises(ShapeMismatch, match="tiny has 4 classes"):
        relabelled(images, (0, 4))


def test_accuracies_against_a_loop() -> None:
    scores, labels = torch.randn(200, 4), torch.arange(200) % 4
    expected = {"accuracy": (scores.argmax(1) == labels).float().mean().item()}
    for number, columns in enumerate(SHARING.columns, 1):
        own = [(s, int(y)) for s, y in zip(scores, labels, strict=True) if int(y) in columns]
        expected[f"part_{number}"] = sum(int(s.argmax()) == y for s, y in own) / len(own)
        masked = [max(columns, key=lambda c, s=s: float(s[c])) == y for s, y in own]
        expected[f"masked_{number}"] = sum(masked) / len(own)
    expected["masked_mean"] = sum(expected[f"masked_{k}"] for k in (1, 2, 3)) / 3
    assert accuracies(scores, labels, SHARING) == pytest.approx(expected)
    with pytest.raises(NonFinite, match="nothing can be said of such a network"):  # its best class would be the first
        accuracies(torch.full((200, 4), torch.nan), labels, SHARING)


@pytest.mark.parametrize("classes", [DISJOINT, SHARING])
@pytest.mark.parametrize("log_softmax", [False, True])
def test_scores_stand_side_by_side_and_a_shared_class_gets_the_mean(classes: ClassSets, log_softmax: bool) -> None:
    columns = torch.tensor([column for each in classes.columns for column in each])
    options = columns, columns.bincount().float(), log_softmax
    scores = [torch.randn(6, len(each)) for each in classes.sets]
    each = [z.log_softmax(1) if log_softmax else z for z in scores]
    pairs = list(zip(each, classes.sets, strict=True))
    wanted = [torch.stack([z[:, known.index(k)] for z, known in pairs if k in known]).mean(0) for k in classes.union]
    torch.testing.assert_close(losses.amalgamated_scores(scores, *options), torch.stack(wanted, 1))
    assert losses.amalgamated_scores([z.bfloat16() for z in scores], *options).dtype == torch.float32


# --- teachers read as one --------------------------------------------------------------------------------------------


def test_teachers_give_features_and_scores_in_evaluation_mode() -> None:
    cast = players.cast()
    networks = [nn.Sequential(each, nn.Dropout(0.5)).train() for each in cast.teachers]
    teachers = Teachers(networks, ClassSets(players.KNOWN))
    images = cast.images.normalised(cast.images.images[:3])
    features, scores = teachers(images, [("0.blocks.0.0", "0.blocks.0.0"), ("0.head", "0.pool")])
    shapes = [[tuple(each.shape) for each in layer] for layer in features]
    assert shapes == [[(3, 4, 8, 8), (3, 5, 8, 8)], [(3, 3), (3, 20)]]
    with torch.no_grad():
        a, b = (teacher(images) for teacher in cast.teachers)
    torch.testing.assert_close(scores, torch.stack([a[:, 0], (a[:, 1] + b[:, 1]) / 2, a[:, 2], b[:, 0]], 1))
    assert torch.equal(features[1][0], a) and not scores.requires_grad and networks[0].training
    empty, again = teachers(images)
    assert empty == [] and torch.equal(again, scores)
    assert not teachers.state_dict().keys() & {"columns", "counts"}


def test_features_are_those_before_a_relu_that_works_in_place() -> None:
    network, images = nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), torch.randn(5, 3)
    features, _ = Teachers([network], ClassSets(((0, 1),)))(images, [("0",)])
    assert torch.equal(features[0][0], network[0](images)) and features[0][0].min() < 0
    assert players.hooks(network) == 0


def test_wrong_teachers_are_refused() -> None:
    linear, two = nn.Linear(7, 2), ClassSets(((0, 1),))
    with pytest.raises(ShapeMismatch, match="2 teachers need as many class sets, not 1"):
        Teachers([linear, linear], two)
    with pytest.raises(ShapeMismatch, match=r"Teacher 1 gives outputs of shape \(2, 2\) for 3 classes"):
        Teachers([linear], ClassSets(((2, 3, 4),)))(torch.randn(2, 7))
    with pytest.raises(UnknownName, match="weights"):
        Teachers([nn.Sequential(linear)], two)(torch.randn(2, 7), [("weights",)])
    with pytest.raises(DeviceError, match="meta.*Move them to one"):
        Teachers([linear, nn.Linear(7, 1, device="meta")], ClassSets(((0, 1), (2,))))
