"""What the few-shot methods share: batches without labels, blocks that are copied, an end after so many updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import little
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import netgraft, nets, run
from reuselib.data import ImageSet
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.netgraft import Draws, KnowledgeDistillation
from reuselib.netgraft.few_shot import for_each, share_prefix, turn_of


def numbered(count: int) -> ImageSet:
    """Images whose every pixel is their own number."""
    few = little.images(count)
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return replace(few, images=pixels.contiguous())


def draws(count: int, batch: int, draw: str, seed: int = 0, **options: Any) -> Draws:
    return Draws(numbered(count), batch, draw, options.get("augment"), torch.Generator().manual_seed(seed))


def numbers(few: ImageSet, images: Tensor) -> list[int]:
    """Which images a normalised batch holds."""
    return ((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().int().tolist()


# --- batches


@pytest.mark.parametrize(("count", "batch", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3]), (7, 7, [7])])
def test_an_epoch_shows_every_image_once_and_keeps_its_short_last_batch(
    count: int, batch: int, sizes: list[int]
) -> None:
    draw = draws(count, batch, "epochs")
    assert len(draw) == len(sizes)
    orders = []
    for _ in range(3):
        epoch = [numbers(draw.images, draw()) for _ in sizes]
        assert [len(each) for each in epoch] == sizes
        orders.append(sum(epoch, []))
        assert sorted(orders[-1]) == list(range(count))
    assert len({tuple(order) for order in orders}) > 1


def test_with_replacement_every_image_is_as_likely_at_every_place() -> None:
    draw = draws(5, 2000, "replacement")
    drawn = torch.tensor(numbers(draw.images, draw()))
    assert len(drawn) == 2000 and (drawn.bincount() / 2000 - 0.2).abs().max() < 0.04
    assert len(draws(5, 4, "replacement")) == 2


@pytest.mark.parametrize("shots", [*range(1, 11), 20, 50])
def test_ten_classes_in_batches_of_the_official_size_take_two_updates_an_epoch(shots: int) -> None:
    draw = draws(10 * shots, int(64 * shots / 10), "epochs")
    assert len(draw) == 2
    drawn = [len(draw()) for _ in range(4)]
    assert drawn[:2] == drawn[2:] and sum(drawn) == 2 * 10 * shots


@pytest.mark.parametrize("draw", ["replacement", "epochs"])
def test_a_seed_decides_the_batches(draw: str) -> None:
    rows = []
    for seed in (1, 1, 2):
        each = draws(9, 4, draw, seed)
        rows.append([numbers(each.images, each()) for _ in range(5)])
    assert rows[0] == rows[1] != rows[2]


def test_augmentation_sees_uint8_and_the_methods_generator() -> None:
    seen = []

    def augment(pixels: Tensor, random: torch.Generator | None) -> Tensor:
        seen.append((pixels.dtype, random))
        return 255 - pixels

    draw = draws(6, 6, "epochs", augment=augment)
    assert sorted(numbers(draw.images, draw())) == list(range(250, 256))
    assert seen == [(torch.uint8, draw.random)]


def test_the_place_in_an_epoch_is_kept_and_is_no_alias() -> None:
    first, second = draws(10, 4, "epochs"), draws(10, 4, "epochs", seed=7)
    first()
    saved, random = first.state_dict(), first.random.get_state()
    rest = [numbers(first.images, first()) for _ in range(4)]
    second.load_state_dict(saved)
    second.random.set_state(random)
    assert [numbers(second.images, second()) for _ in range(4)] == rest
    again = draws(10, 4, "epochs")
    again.load_state_dict(saved)  # two epochs later, the saved state is what it was
    assert numbers(again.images, again()) == rest[0]


def test_labels_are_never_read() -> None:
    """Every method gives the same networks whatever the labels say."""
    for name, make in players.GRAFTING.items():
        states = []
        for labels in (torch.arange(40) % 4, torch.full((40,), -7)):
            cast = players.cast()
            cast.images = replace(cast.images, labels=labels)
            method = make(cast, batch=6, precision="fp32")
            method.steps_per_round = 2
            next(islice(method.rounds(), 1))
            states.append(players.state(method))
        assert not list(players.differences(*states)), name


def test_an_unknown_way_to_draw_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown way to draw 'epoch'. Did you mean 'epochs'"):
        draws(4, 2, "epoch")


@pytest.mark.parametrize("batch", [0, -3])
def test_an_empty_batch_is_refused(batch: int) -> None:
    with pytest.raises(ReuseError, match=f"A batch of {batch} teaches nothing. Give 1 or more"):
        draws(4, batch, "epochs")


# --- the method


def distilling(**options: Any) -> KnowledgeDistillation:
    parts = {"teacher": little.teacher(), "student": little.student(), "images": little.images()}
    parts |= {name: options.pop(name) for name in parts if name in options}
    return KnowledgeDistillation(*parts.values(), **{"batch": 4, "precision": "fp32"} | options)


@pytest.mark.parametrize(("total", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3]), (0, [])])
def test_rounds_end_after_all_updates_and_the_last_is_shorter(total: int, sizes: list[int]) -> None:
    method, done = distilling(steps=total), []
    method.steps_per_round = 4
    for _ in method.rounds():
        done.append(method.iteration)
    assert [b - a for a, b in pairwise([0, *done])] == sizes
    assert method.iteration == total and method.steps_per_round == 4
    assert list(method.rounds()) == []


def test_a_short_round_reports_its_own_mean() -> None:
    method, losses = distilling(steps=5), []
    method.steps_per_round = 3
    step = method.step
    method.step = lambda: (losses.append(step()), losses[-1])[1]  # type: ignore[method-assign]
    reports = [report["loss"] for report in method.rounds()]
    values = torch.stack([each["loss"] for each in losses])
    torch.testing.assert_close(torch.stack(reports), torch.stack([values[:3].mean(), values[3:].mean()]))


def test_without_a_total_rounds_never_end() -> None:
    method = distilling()
    method.steps_per_round = 1
    assert method.total is None and len(list(islice(method.rounds(), 30))) == 30


def test_an_engines_run_ends_with_the_method() -> None:
    method = distilling(steps=7)
    method.steps_per_round = 5
    history = run.run(method, 10, progress=False)
    assert [entry["iteration"] for entry in history.rounds] == [5, 7]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": little.images().subset([])}, ReuseError, "no images in few. Take at least one of each class"),
        ({"student": little.student().to("meta")}, DeviceError, "different devices: .*meta.*Use .to"),
        ({"images": little.images().to("meta")}, DeviceError, "different devices"),
        ({"student": little.student(classes=5)}, ShapeMismatch, r"\(2, 4\) and \(2, 5\).*same number of classes"),
        ({"images": little.images(shape=(3, 8, 8))}, ShapeMismatch, r"takes images of shape \(batch, 1"),
        ({"images": little.images(shape=(1, 16, 16))}, ShapeMismatch, "8x8 pixels, not 16x16"),
        (
            {"student": nn.Sequential(nn.Flatten(), nn.Linear(9, 4))},
            ShapeMismatch,
            r"Images of shape \(2, 1, 8, 8\) do not fit the teacher or the student .*Give images of the shape",
        ),
        ({"draw": "twice"}, UnknownName, "unknown way to draw"),
        ({"batch": 0}, ReuseError, "batch of 0"),
        ({"shared": 1}, ShapeMismatch, "Block 0 of the student is not built like the teacher's.*or lower shared"),
        ({"shared": 3}, ShapeMismatch, "Of 3 blocks, 3 cannot be shared. Share 0 to 2"),
        ({"shared": -1}, ShapeMismatch, "Of 3 blocks, -1 cannot be shared"),
        ({"precision": "bf15"}, UnknownName, "precision 'bf15'"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_teacher_comes_back(changed: dict, error: type, message: str) -> None:
    teacher = little.teacher().train()
    before = players.state(teacher)
    with pytest.raises(error, match=message):
        distilling(teacher=teacher, **changed)
    assert not list(players.differences(before, players.state(teacher)))
    assert all(module.training for module in teacher.modules())


@pytest.mark.parametrize(
    ("batch", "count", "draw", "refused"),
    [
        (1, 10, "replacement", True),
        (2, 10, "replacement", False),
        (3, 10, "epochs", True),
        (10, 10, "epochs", False),
        (12, 10, "epochs", False),
        (4, 10, "epochs", False),
        (1, 10, "epochs", True),
        (9, 10, "epochs", True),
    ],
)
def test_batch_norm_is_not_left_alone_with_one_image(batch: int, count: int, draw: str, refused: bool) -> None:
    options = {"student": little.teacher(seed=5), "images": little.images(count), "batch": batch, "draw": draw}
    if refused:
        message = f"Batches of {batch} from {count} images leave one image alone.*draw='replacement'"
        with pytest.raises(ReuseError, match=message):
            distilling(**options)
    else:
        distilling(**options).step()
    plain = distilling(**options | {"student": little.student()})
    for _ in range(len(plain.draw)):
        assert plain.step()["loss"].isfinite()


# --- shared blocks


def shared(**options: Any) -> KnowledgeDistillation:
    return distilling(student=little.student(first=4), shared=1, **options)


def test_shared_blocks_are_copied_frozen_and_no_alias() -> None:
    teacher, student = nets.conv3(3, 4, batch_norm=True).train(), nets.conv3(3, 4, batch_norm=True)
    teacher(torch.randn(9, 1, 8, 8))
    share_prefix(teacher, student, 2)
    for own, model in zip(student.blocks[:2], teacher.blocks[:2], strict=True):
        assert not list(players.differences(players.state(own), players.state(model)))
        places = [{value.data_ptr() for value in block.state_dict().values()} for block in (own, model)]
        assert not places[0] & places[1]
        assert not any(p.requires_grad for p in own.parameters()) and not any(m.training for m in own.modules())
    assert all(p.requires_grad for p in [*student.blocks[2].parameters(), *student.head.parameters()])
    assert teacher.training and all(p.requires_grad for p in teacher.parameters())
    before = players.state(student)
    share_prefix(teacher, student, 0)
    assert not list(players.differences(before, players.state(student)))


def test_shared_blocks_stay_while_the_rest_learns() -> None:
    method = shared(steps=3)
    before = players.state(method.student)
    list(method.rounds())
    changed = set(players.differences(before, players.state(method.student)))
    learning = {f"/{name}" for name, _ in method.student.named_parameters() if not name.startswith("blocks.0.")}
    assert changed == learning
    assert not list(players.differences(before["blocks.0.0.weight"], players.state(method.teacher.blocks[0][0].weight)))


def test_shared_blocks_run_once_and_without_gradient() -> None:
    method, calls = shared(), []
    for network in (method.teacher, method.student):
        network.blocks[0].register_forward_hook(lambda block, _, maps: calls.append((block, maps.requires_grad)))
    method.step()
    assert calls == [(method.teacher.blocks[0], False)]


def test_the_step_with_shared_blocks_is_that_of_the_whole_networks() -> None:
    method, student = shared(lr=0.01), little.student(first=4)
    share_prefix(little.teacher(), student, 1)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 0.01)
    for x in islice(little.batches(little.images(), 4, 0), 3):
        loss = netgraft.soft_targets(little.teacher()(x), student(x))
        torch.testing.assert_close(method.step()["loss"], loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(method.student.state_dict(), student.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("where", ["teacher", "student"])
def test_networks_that_cannot_be_taken_apart_can_share_nothing(where: str) -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = little.student()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images)

    assert distilling(**{where: Opaque()}).step()["loss"].isfinite()
    with pytest.raises(ReuseError, match="Opaque cannot be taken apart into blocks"):
        distilling(**{where: Opaque()}, shared=1)


# --- small tools


def test_one_value_for_all_or_a_value_for_each() -> None:
    assert for_each(3, 2) == [2, 2, 2] and for_each(2, (1, 5)) == [1, 5] and for_each(2, None) == [None, None]
    with pytest.raises(ReuseError, match=r"\[1, 2, 3\]: 3 values where 2 are needed. Give one value, or 2"):
        for_each(2, (1, 2, 3))


def test_the_turn_is_the_part_whose_updates_are_not_done() -> None:
    assert [turn_of(iteration, [2, 0, 3, 1]) for iteration in range(6)] == [0, 0, 2, 2, 2, 3]
    with pytest.raises(ReuseError, match="All 6 updates are done.*number 7. Plan more"):
        turn_of(6, [2, 0, 3, 1])


MAKE: dict[str, Callable[..., Any]] = players.GRAFTING


@pytest.mark.parametrize("name", MAKE)
def test_the_target_of_an_image_does_not_depend_on_its_batch(name: str) -> None:
    """The teacher's batch norm, in training mode as somebody left it, is not used in that mode."""
    cast = players.cast()
    method = MAKE[name](cast, batch=6, precision="fp32")
    cast.teacher.train()
    modes: list[bool] = []
    for module in cast.teacher.modules():
        module.register_forward_hook(lambda each, *_: modes.append(each.training))
    method.step()
    assert modes and not any(modes) and cast.teacher.training
