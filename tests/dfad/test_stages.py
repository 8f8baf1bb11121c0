"""What one iteration of each method does: who moves, how often, on which noise (the paper's properties)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import plain
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.data.augment import window_and_flip
from reuselib.dfad import DAFL, DFAD, ZSKT, Distillation, losses, sources
from reuselib.dfad.method import Adversarial
from reuselib.errors import BadValue, DeviceError, ShapeMismatch, UnknownName

FORMS = [losses.negative, losses.negative_log]


def adversarial(name: str = "dfad", **options: Any) -> Adversarial:
    method = players.make(name, **options)
    assert isinstance(method, Adversarial)
    return method


def count_steps(optimizer: torch.optim.Optimizer) -> list[None]:
    steps: list[None] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(None))
    return steps


def inputs_of(network: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def distinct(tensors: list[Tensor]) -> int:
    return len({tensor.numpy().tobytes() for tensor in tensors})


def test_who_steps_how_often_on_which_images() -> None:
    # Updates of student and generator, draws of noise, images the student saw and how many of them differ.
    for name, options, expected in (
        ("dfad", {}, (5, 1, 6, 6, 6)),
        ("zskt", {"student_steps": 10}, (10, 1, 1, 11, 1)),
        ("dafl", {"student_steps": 3}, (3, 3, 3, 3, 3)),
    ):
        method = adversarial(name, **options)
        student, generator = count_steps(method.student_optimizer), count_steps(method.generator_optimizer)
        noise, images, taught = (inputs_of(n) for n in (method.generator, method.student, method.teacher))
        method.step()
        assert (len(student), len(generator), len(noise), len(images), distinct(images)) == expected, name
        assert distinct(noise) == len(noise) == distinct(taught)
        assert all(torch.equal(a, b) for a, b in zip(taught, images, strict=name != "zskt"))
    for name in ("kd-images", "kd-noise", "kd-generator"):
        method = players.make(name, student_steps=4)
        steps, images = count_steps(method.student_optimizer), inputs_of(method.student)
        method.step()
        assert len(steps) == len(images) == distinct(images) == 4


def test_an_untrained_generator_stays_untrained() -> None:
    cast = players.cast()
    before = players.state(dict(cast.generator.named_parameters()))
    Distillation(cast.teacher, cast.student, sources.from_generator(cast.generator), precision="fp32").step()
    assert not list(players.differences(before, players.state(dict(cast.generator.named_parameters()))))


@pytest.mark.parametrize("generation", FORMS)
def test_discrepancy_and_both_generator_losses_vanish_for_two_equal_networks(
    generation: Callable[[Tensor], Tensor],
) -> None:
    cast = players.cast(batch_norm=False)
    twin = copy.deepcopy(cast.teacher)
    method = DFAD(cast.teacher, twin, cast.generator, generation=generation, weight_decay=0, precision="fp32")
    report = method.step()
    assert report["imitation"] == 0 and report["generation"] == 0 and report["teacher_logits"] > 0
    assert not list(players.differences(players.state(cast.teacher), players.state(twin)))


def moved(before: Any, network: nn.Module) -> dict[str, set[str]]:
    """The names of the parameters and buffers that changed."""
    names = {place.removeprefix("/") for place in players.differences(before, players.state(network))}
    buffers = {name for name, _ in network.named_buffers()}
    return {"parameters": names - buffers, "buffers": names & buffers}


def statistics(network: nn.Module) -> set[str]:
    return {name for name, _ in network.named_buffers()}


def test_a_stage_moves_its_player_and_only_statistics_of_the_other() -> None:
    for stage, own, other in (
        ("imitation_stage", "student", "generator"),
        ("generation_stage", "generator", "student"),
    ):
        method = adversarial()
        before = {name: players.state(network) for name, network in method.networks().items()}
        getattr(method, stage)()
        change = {name: moved(before[name], network) for name, network in method.networks().items()}
        assert change["teacher"] == {"parameters": set(), "buffers": set()}
        assert change[own]["parameters"] and change[other]["parameters"] == set()
        assert change["generator"]["buffers"] == statistics(method.generator)
        assert change["student"]["buffers"] == statistics(method.student)


def test_the_generator_raises_what_the_student_lowers() -> None:
    method = adversarial(generator_lr=1e-2)
    noise = torch.randn(64, method.generator.latent, generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def discrepancy() -> float:
        with run.frozen(method.teacher):
            images = method.generator(noise)
            return losses.mean_absolute_error(method.teacher(images), method.student(images)).item()

    start = discrepancy()
    for _ in range(10):
        method.imitation_stage()
    learned = discrepancy()
    for _ in range(10):
        method.generation_stage()
    assert learned < 0.9 * start and discrepancy() > 1.1 * learned


@pytest.mark.parametrize("name", ["dfad", "dafl", "zskt"])
def test_a_plain_version_gives_the_same_networks(name: str) -> None:
    options = {"dfad": {"student_steps": 5}, "dafl": {}, "zskt": {"student_steps": 10}}[name]
    lr = 2e-3 if name == "zskt" else 0.05
    ours, theirs = players.cast(seed=3), players.cast(seed=3)
    method = {"dfad": DFAD, "dafl": DAFL, "zskt": ZSKT}[name](
        ours.teacher, ours.student, ours.generator, batch=16, lr=lr, seed=7, precision="fp32", **options
    )
    start = players.state(ours.student)
    for _ in range(3):
        method.step()
    getattr(plain, name)(
        theirs.teacher, theirs.student, theirs.generator, iterations=3, batch=16, lr=lr, seed=7, **options
    )
    assert len(list(players.differences(start, players.state(ours.student)))) > 10
    torch.testing.assert_close(ours.student.state_dict(), theirs.student.state_dict(), rtol=0, atol=1e-5)
    # Adam blows up the rounding errors of biases before a batch norm: compare the images.
    noise = torch.randn(16, ours.generator.latent)
    torch.testing.assert_close(ours.generator(noise), theirs.generator(noise), rtol=0, atol=1e-3)


def test_dafl_for_segmentation_takes_every_pixel_as_a_case_and_the_layer_that_is_named() -> None:
    method = adversarial("segmentation-dafl")
    t, features = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)
    rows = t.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = losses.one_hot_loss(rows) + 5 * losses.information_entropy_loss(rows) - 0.1 * features.abs().mean()
    torch.testing.assert_close(method.generation_loss(t, features), expected)
    seen = []
    method.generation_loss = lambda t, features: seen.append(features) or features.mean()
    method.step()
    assert seen[0].shape == (players.BATCH, 2, 8, 8)


def test_windows_of_images_are_a_source() -> None:
    cast = players.cast()
    source = sources.from_images(cast.images, partial(window_and_flip, size=5))
    images = source(4, torch.Generator().manual_seed(0))
    plain, _ = cast.images.sample(4, torch.Generator().manual_seed(0))
    assert images.shape == (4, 1, 5, 5)
    for image, whole in zip(images, plain, strict=True):
        windows = [whole[:, y : y + 5, x : x + 5] for y in range(4) for x in range(4)]
        assert any(torch.equal(image, w) or torch.equal(image, w.flip(2)) for w in windows)


def test_learning_rates_of_both_players_follow_the_schedule() -> None:
    halving = {"schedule": lambda iteration: 0.5**iteration, "lr": 0.4, "generator_lr": 0.1}
    method = adversarial(**halving)
    for factor in (1, 0.5, 0.25):
        rates = [o.param_groups[0]["lr"] for o in (method.student_optimizer, method.generator_optimizer)]
        assert rates == pytest.approx([0.4 * factor, 0.1 * factor])
        method.step()


def test_zskt_compares_all_blocks_of_like_networks_and_none_of_unlike_ones() -> None:
    assert adversarial("zskt").layers == ("blocks.0", "blocks.1", "blocks.2")
    cast = players.cast()
    student = nets.small_resnet((1, 1), width=8, classes=players.CLASSES)
    method = ZSKT(cast.teacher, student, cast.generator, batch=players.BATCH, precision="fp32")
    assert method.layers == ()
    assert method.step()["imitation"].isfinite()


@pytest.mark.parametrize("name", [name for name in players.METHODS if name != "fskd"])  # which draws nothing
def test_a_seed_decides_everything(name: str) -> None:
    results = []
    for chosen in (1, 1, 2):
        method = players.make(name, seed=5)
        method.random.manual_seed(chosen)
        method.step()
        results.append((players.state(method), players.state(players.learner(method))))
    assert not list(players.differences(list(results[0]), list(results[1])))
    assert list(players.differences(results[0][1], results[2][1]))


def refused() -> list[tuple[type[Exception], str, dict[str, Any]]]:
    cast, flat = players.cast(), nn.Sequential(nn.Flatten(), nn.Linear(64, players.CLASSES))
    large = nets.upsampling_generator(image=(1, 16, 16), latent=5, width=4)
    wrong = [("batch", -4), ("batch", 8.5), ("student_steps", 0), ("student_steps", -3), ("lr", -1), ("seed", 0.5)]
    return [
        *((BadValue, f"{name} must be", {name: value}) for name, value in wrong),
        (UnknownName, "'student_step'. Did you mean 'student_steps'", {"student_step": 2}),
        (ShapeMismatch, "same number of classes", {"student": nets.conv3(2, classes=players.CLASSES + 1)}),
        (ShapeMismatch, "do not fit the teacher", {"teacher": flat, "generator": large}),
        (BadValue, "Sequential does not say how long its noise is", {"generator": cast.generator.layers}),
        (BadValue, "Nothing can learn", {"student": copy.deepcopy(cast.student).requires_grad_(False)}),
        (BadValue, "What learns is part of the teacher", dict.fromkeys(("teacher", "student"), cast.teacher)),
        *((DeviceError, f"{n} on meta", {n: copy.deepcopy(getattr(cast, n)).to("meta")}) for n in PARTS),
    ]


PARTS = ("teacher", "student", "generator")


def test_what_cannot_be_meant_and_networks_that_do_not_fit_are_refused() -> None:
    for error, message, changes in refused():
        cast = players.cast()
        parts = [changes.pop(name, getattr(cast, name)) for name in PARTS]
        for method in (DFAD, DAFL):
            with pytest.raises(error, match=message):
                method(*parts, **changes)


def test_a_teacher_that_gives_probabilities_is_warned_of() -> None:
    cast = players.cast()
    with pytest.warns(UserWarning, match="probabilities, not logits.*last softmax"):
        Distillation(nn.Sequential(cast.teacher, nn.Softmax(1)), cast.student, sources.from_images(cast.images))
    with warnings.catch_warnings(action="error"):
        Distillation(cast.teacher, cast.student, sources.from_images(cast.images))
