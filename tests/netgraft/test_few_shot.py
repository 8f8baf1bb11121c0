"""What the few-shot methods share: batches without labels, blocks that are copied, parts that take turns."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import little
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib.data import ImageSet
from reuselib.errors import BadValue, DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.netgraft import KnowledgeDistillation, losses
from reuselib.netgraft.few_shot import share_prefix, spread


def distilling(**options: Any) -> KnowledgeDistillation:
    parts = {"teacher": little.teacher(), "student": little.student(), "images": little.images()}
    parts |= {name: options.pop(name) for name in parts if name in options}
    return KnowledgeDistillation(*parts.values(), **{"batch": 4, "precision": "fp32"} | options)


# --- batches


def numbered(count: int) -> ImageSet:
    """Images whose every pixel is their own number."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return replace(little.images(count), images=pixels.contiguous())


def drawn(method: KnowledgeDistillation, times: int) -> list[list[int]]:
    """Which images the next batches hold."""
    found = []
    for _ in range(times):
        found.append(((method.draw()[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().int().tolist())
        method.iteration += 1
    return found


def test_an_epoch_shows_every_image_once_and_keeps_its_short_last_batch() -> None:
    for count, batch, sizes in ((10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3]), (7, 7, [7])):
        method, orders = distilling(images=numbered(count), batch=batch, epochs=True), []
        for _ in range(3):
            epoch = drawn(method, len(sizes))
            assert [len(each) for each in epoch] == sizes
            orders.append(tuple(sum(epoch, [])))
            assert sorted(orders[-1]) == list(range(count))
        assert len(set(orders)) > 1


def test_with_replacement_every_image_is_as_likely_and_a_seed_decides() -> None:
    ((numbers),) = drawn(distilling(images=numbered(5), batch=2000), 1)
    assert (torch.tensor(numbers).bincount() / 2000 - 0.2).abs().max() < 0.04
    for epochs in (False, True):
        rows = [drawn(distilling(images=numbered(9), epochs=epochs, seed=seed), 5) for seed in (1, 1, 2)]
        assert rows[0] == rows[1] != rows[2]


def test_augmentation_sees_uint8_and_the_methods_generator() -> None:
    seen = []

    def augment(pixels: Tensor, random: torch.Generator | None) -> Tensor:
        seen.append((pixels.dtype, random))
        return 255 - pixels

    for epochs in (False, True):
        method = distilling(images=numbered(6), batch=6, epochs=epochs, augment=augment)
        assert set(drawn(method, 1)[0]) <= set(range(250, 256))
        assert seen.pop() == (torch.uint8, method.random)


# --- what is refused


class Pair(nn.Module):
    """A network that gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(images.flatten(1)), images


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": little.images().subset([])}, BadValue, "images must be ImageSet with something in it"),
        ({"images": torch.zeros(3, 1, 8, 8)}, BadValue, "images must be ImageSet .*not Tensor"),
        ({"student": little.student().to("meta")}, DeviceError, "different devices: .*meta.*with .to"),
        ({"student": little.student(classes=5)}, ShapeMismatch, r"\(2, 4\) and \(2, 5\).*same number of classes"),
        ({"images": little.images(shape=(3, 8, 8))}, ShapeMismatch, r"takes images of shape \(batch, 1"),
        (
            {"student": nn.Sequential(nn.Flatten(), nn.Linear(9, 4))},
            ShapeMismatch,
            r"Images of shape \(2, 1, 8, 8\) do not fit the student .*Give images of the shape",
        ),
        ({"shared": 1}, ShapeMismatch, "(?s)first 1 blocks are not built like the teacher's.*or lower shared"),
        ({"shared": 3}, ShapeMismatch, "Of 3 blocks, 3 cannot be shared. Share 0 to 2"),
        ({"shared": -1}, BadValue, "shared must be a whole number of at least 0, not -1"),
        ({"batch": 0}, BadValue, "batch must be"),
        ({"seed": 0.5}, BadValue, "seed must be"),
        ({"lr": -1}, BadValue, "lr must be"),
        ({"precision": "bf15"}, UnknownName, "precision 'bf15'"),
        ({"student": Pair()}, ReuseError, r"student \(Pair\) gives tuple, not one tensor. Wrap it"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_teacher_comes_back(changed: dict, error: type, message: str) -> None:
    teacher = little.teacher().train()
    before = players.state(teacher)
    with pytest.raises(error, match=message):
        distilling(**{"teacher": teacher} | changed)
    assert not list(players.differences(before, players.state(teacher)))
    assert all(module.training for module in teacher.modules())


# --- shared blocks


def test_the_step_with_shared_blocks_is_that_of_the_whole_networks_and_leaves_them() -> None:
    method, student, calls = distilling(student=little.student(first=4), shared=1, lr=0.01), little.student(first=4), []
    before = players.state(method.student)
    for network in (method.teacher, method.student):
        network.blocks[0].register_forward_hook(lambda block, _, maps: calls.append((block, maps.requires_grad)))
    share_prefix(little.teacher(), student, 1)
    states = [network.blocks[0].state_dict() for network in (student, method.teacher)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 0.01)
    for x in islice(little.batches(little.images(), 4, 0), 3):
        loss = losses.soft_targets(little.teacher()(x), student(x))
        torch.testing.assert_close(method.step()["loss"], loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(method.student.state_dict(), student.state_dict(), rtol=1e-4, atol=1e-6)
    assert calls == [(method.teacher.blocks[0], False)] * 3, "once in a step, without gradient"
    changed = set(players.differences(before, players.state(method.student)))
    assert changed == {f"/{name}" for name, _ in method.student.named_parameters() if not name.startswith("blocks.0.")}


# --- turns


def test_parts_take_turns_and_share_the_updates_evenly() -> None:
    method = distilling()
    assert method.total == 0
    method.parts = [2, 0, 3, 1]
    assert [method.turn(iteration) for iteration in range(6)] == [0, 0, 2, 2, 2, 3]
    with pytest.raises(ReuseError, match="All 6 updates are done.*number 7. Plan more"):
        method.turn(6)
    for total, parts in ((27, 5), (7, 7), (1250, 3), (3, 5)):
        found = spread(total, parts)
        assert (len(found), sum(found)) == (parts, total) and max(found) - min(found) <= 1
