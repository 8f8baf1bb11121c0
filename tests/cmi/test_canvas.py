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
        return Pixels(players.space(IMAGE, MEAN, STD), lr)
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
def test_images_improve_within_the_range_of_pixels_and_a_seed_decides_them(kind: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        made, draws = canvas(kind, lr=0.05), random(seed)
        made.begin(6, draws)
        first = improve(made, draws)
        copy = first.detach().clone()
        for _ in range(25):
            last = improve(made, draws)
        assert torch.equal(first, copy)  # pitfall 8: an update does not alter the images drawn before
        assert first.shape == last.shape == (6, *IMAGE) and made.kept == (kind != "lasting")
        # Up to rounding: pixels are kept in the teacher's normalised space.
        assert -1e-6 <= last.min() and last.max() <= 1 + 1e-6
        assert (last - 0.9).square().mean() < 0.5 * (first - 0.9).square().mean()
        results.append(last)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_pixels_start_from_normal_noise_and_are_clamped_to_what_black_and_white_become() -> None:
    made = canvas("pixels", lr=0.2)
    made.begin(500, random())
    pixels = made.pixels.detach().clone()
    assert pixels.mean().item() == pytest.approx(0, abs=0.01) and pixels.std().item() == pytest.approx(1, abs=0.01)
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(made.draw(None).detach(), pixels * scale + shift)
    made.settle()
    black, white = (-shift / scale, (1 - shift) / scale)
    assert torch.equal(made.pixels, pixels.clamp(black, white)) and made.pixels.requires_grad
    (group,) = made.optimizer.param_groups
    assert isinstance(made.optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (0.2, (0.5, 0.99))
    improve(made, random())
    made.begin(500, random(1))  # every batch starts anew
    assert not torch.equal(made.pixels, pixels) and not made.optimizer.state


def test_a_fresh_generator_forgets_all_but_its_running_statistics() -> None:
    made, draws, starts = canvas("fresh", lr=3e-3), random(), []
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
    # Weights and the one noise of the batch are trained together.
    (group,) = made.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in [*parameters.values(), made.noise]}
    assert isinstance(made.optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (3e-3, (0.5, 0.999))
    now = {"noise": players.state(made.noise), "weights": players.state(made.generator)}
    assert {place.removeprefix("/") for place in players.differences(starts[1], now)} >= {"noise"} | drawn
    assert torch.equal(made.draw(None), made.draw(None))


def test_a_lasting_generator_keeps_weights_and_moments_and_draws_new_noise() -> None:
    made, draws = canvas("lasting", lr=2e-3), random()
    made.begin(4, draws)
    optimizer = made.optimizer
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (2e-3, (0.5, 0.999))
    improve(made, draws)
    before = players.state(made.generator)
    made.begin(6, draws)
    assert made.optimizer is optimizer and optimizer.state
    assert not list(players.differences(before, players.state(made.generator)))
    first, second = made.draw(draws), made.draw(draws)
    assert first.shape == (6, *IMAGE) and not torch.equal(first, second)
