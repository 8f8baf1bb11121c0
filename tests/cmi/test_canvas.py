"""What images are made with: pixels, a generator for each batch, a generator for all of them."""

from __future__ import annotations

import players
import pytest
import torch
from torch import Tensor

from reuselib import nets, run
from reuselib.cmi.canvas import Canvas, FreshGenerator, LastingGenerator, Pixels

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
IMAGE = (3, 8, 8)
KINDS = ["pixels", "fresh", "lasting"]


def canvas(kind: str, lr: float = 0.1, seed: int = 0) -> Canvas:
    if kind == "pixels":
        return Pixels(IMAGE, MEAN, STD, torch.device("cpu"), lr)
    with run.seeded(seed):
        generator = nets.inversion_generator(IMAGE, latent=5, width=4)
    return {"fresh": FreshGenerator, "lasting": LastingGenerator}[kind](generator, lr)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def improve(made: Canvas, draws: torch.Generator, target: float = 0.9) -> Tensor:
    """One update towards bright images."""
    images = made.draw(draws)
    made.optimizer.zero_grad()
    (images - target).square().mean().backward()
    made.optimizer.step()
    made.settle()
    return images


@pytest.mark.parametrize("kind", KINDS)
def test_images_have_their_shape_and_improve_within_the_range_of_pixels(kind: str) -> None:
    made, draws = canvas(kind, lr=0.05), random()
    made.begin(6, draws)
    first = improve(made, draws)
    for _ in range(25):
        last = improve(made, draws)
    assert first.shape == last.shape == (6, *IMAGE)
    # Up to rounding: pixels are kept in the teacher's normalised space.
    assert -1e-6 <= last.min() and last.max() <= 1 + 1e-6
    assert (last - 0.9).square().mean() < 0.5 * (first - 0.9).square().mean()


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_8_an_update_does_not_alter_the_images_drawn_before(kind: str) -> None:
    made, draws = canvas(kind), random()
    made.begin(6, draws)
    first = improve(made, draws)
    copy = first.detach().clone()
    for _ in range(3):
        improve(made, draws)
    assert torch.equal(first, copy)
    assert not torch.equal(made.draw(draws), copy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_the_images(kind: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        made, draws = canvas(kind), random(seed)
        made.begin(6, draws)
        improve(made, draws)
        results.append(made.draw(draws))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_pixels_start_from_normal_noise_in_normalised_space() -> None:
    made = canvas("pixels")
    made.begin(500, random())
    pixels = made.pixels.detach()
    assert pixels.mean().item() == pytest.approx(0, abs=0.01) and pixels.std().item() == pytest.approx(1, abs=0.01)
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(made.draw(None).detach(), pixels * scale + shift)


def test_pixels_are_clamped_to_what_black_and_white_become() -> None:
    made = canvas("pixels")
    made.begin(50, random())
    made.settle()
    black, white = ((value - torch.tensor(MEAN)) / torch.tensor(STD) for value in (0, 1))
    torch.testing.assert_close(made.pixels.amin((0, 2, 3)), black.clamp(min=made.pixels.min()))
    assert (made.pixels.amin((0, 2, 3)) >= black).all() and (made.pixels.amax((0, 2, 3)) <= white).all()
    before = made.pixels.detach().clone()
    made.settle()
    assert torch.equal(made.pixels, before) and made.pixels.requires_grad


def test_every_batch_of_pixels_starts_anew() -> None:
    made, draws = canvas("pixels"), random()
    starts = []
    for _ in range(2):
        made.begin(4, draws)
        starts.append(made.pixels.detach().clone())
        improve(made, draws)
    assert not torch.equal(*starts) and len(made.optimizer.state) == 1


def test_a_fresh_generator_forgets_all_but_its_running_statistics() -> None:
    made, draws = canvas("fresh"), random()
    starts = []
    for _ in range(2):
        made.begin(4, draws)
        assert not made.optimizer.state
        starts.append({"noise": players.state(made.noise), "weights": players.state(made.generator)})
        for _ in range(3):
            improve(made, draws)
    changed = {place.removeprefix("/") for place in players.differences(*starts)}
    parameters = dict(made.generator.named_parameters())
    drawn = {f"weights/{name}" for name in parameters if name.endswith("weight")}
    statistics = {f"weights/{name}" for name, _ in made.generator.named_buffers()}
    assert changed == {"noise"} | drawn | statistics  # every bias starts from 0 each time
    assert all((starts[1]["weights"][name] == 0).all() for name in parameters if name.endswith("bias"))


def test_a_fresh_generator_is_redrawn_as_dcgan_does() -> None:
    made = FreshGenerator(nets.inversion_generator((3, 32, 32), latent=64, width=16))
    made.begin(4, random())
    for module in made.generator.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.BatchNorm2d):
            centre = float(isinstance(module, torch.nn.BatchNorm2d))
            error = 5 * 0.02 / module.weight.numel() ** 0.5
            assert module.weight.mean().item() == pytest.approx(centre, abs=error)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)


def test_a_fresh_generator_and_its_noise_are_trained_together_by_adam() -> None:
    made = canvas("fresh", lr=3e-3)
    made.begin(4, random())
    (group,) = made.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in [*made.generator.parameters(), made.noise]}
    assert isinstance(made.optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (3e-3, (0.5, 0.999))
    before, noise = players.state(made.generator), made.noise.detach().clone()
    improve(made, random())
    assert not torch.equal(made.noise, noise)
    moved = {place.removeprefix("/") for place in players.differences(before, players.state(made.generator))}
    assert moved >= {name for name, _ in made.generator.named_parameters() if name.endswith("weight")}
    assert torch.equal(made.draw(None), made.draw(None))  # the one noise of the batch


def test_adam_of_pixels_and_of_a_lasting_generator() -> None:
    pixels, lasting = canvas("pixels", lr=0.2), canvas("lasting", lr=2e-3)
    pixels.begin(2, random())
    for made, lr, betas in ((pixels, 0.2, (0.5, 0.99)), (lasting, 2e-3, (0.5, 0.999))):
        (group,) = made.optimizer.param_groups
        assert isinstance(made.optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (lr, betas)


def test_a_lasting_generator_keeps_weights_and_moments_and_draws_new_noise() -> None:
    made, draws = canvas("lasting"), random()
    made.begin(4, draws)
    optimizer = made.optimizer
    improve(made, draws)
    before = players.state(made.generator)
    made.begin(6, draws)
    assert made.optimizer is optimizer and optimizer.state
    assert not list(players.differences(before, players.state(made.generator)))
    first, second = made.draw(draws), made.draw(draws)
    assert first.shape == (6, *IMAGE) and not torch.equal(first, second)


def test_only_a_lasting_generators_batches_are_not_kept() -> None:
    assert [canvas(kind).kept for kind in KINDS] == [True, True, False]


def test_the_moments_of_a_lasting_generator_are_saved() -> None:
    first, second = canvas("lasting"), canvas("lasting")
    first.begin(4, random())
    improve(first, random())
    second.generator.load_state_dict(first.generator.state_dict())
    second.load_state_dict(players.state(first.state_dict()))
    for made in (first, second):
        made.begin(4, random())
        improve(made, random(2))
    assert not list(players.differences(players.state(first.generator), players.state(second.generator)))
    for kind in ("pixels", "fresh"):
        assert canvas(kind).state_dict() == {}
        canvas(kind).load_state_dict({})
