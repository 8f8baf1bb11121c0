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


def canvas(kind: str, lr: float = 0.05) -> Canvas:
    if kind == "pixels":
        return Pixels(players.space(IMAGE, MEAN, STD), lr)
    with run.seeded(0):
        generator = nets.inversion_generator(IMAGE, latent=5, width=4)
    return {"fresh": FreshGenerator, "lasting": LastingGenerator}[kind](generator, lr)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def improve(made: Canvas, draws: torch.Generator) -> Tensor:
    """One update towards bright images."""
    images = made.draw(draws)
    made.optimizer.zero_grad()
    (images - 0.9).square().mean().backward()
    made.optimizer.step()
    made.settle()
    return images


@pytest.mark.parametrize(("kind", "second"), [("pixels", 0.99), ("fresh", 0.999), ("lasting", 0.999)])
def test_images_improve_within_the_range_of_pixels_and_a_seed_decides_them(kind: str, second: float) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        made, draws = canvas(kind), random(seed)
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
    (group,) = made.optimizer.param_groups
    assert isinstance(made.optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (0.05, (0.5, second))
    optimizer = made.optimizer
    made.begin(6, draws)  # every batch starts anew, but for a lasting generator
    assert (made.optimizer is optimizer) == bool(made.optimizer.state) == (kind == "lasting")
    assert torch.equal(made.draw(draws), made.draw(draws)) == (kind != "lasting")


def test_pixels_start_from_normal_noise_and_are_clamped_to_what_black_and_white_become() -> None:
    made = canvas("pixels")
    made.begin(500, random())
    pixels = made.pixels.detach().clone()
    assert pixels.mean().item() == pytest.approx(0, abs=0.01) and pixels.std().item() == pytest.approx(1, abs=0.01)
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(made.draw(None).detach(), pixels * scale + shift)
    made.settle()
    assert torch.equal(made.pixels, pixels.clamp(-shift / scale, (1 - shift) / scale)) and made.pixels.requires_grad


def test_a_fresh_generator_is_drawn_anew_for_each_batch_and_trained_with_its_noise_and_a_lasting_one_stays() -> None:
    for kind in ("fresh", "lasting"):
        made, draws = canvas(kind), random()
        made.begin(4, draws)
        improve(made, draws)
        before = players.state(made.generator)
        made.begin(4, draws)
        changed = {place.removeprefix("/") for place in players.differences(before, players.state(made.generator))}
        weights = {name for name, _ in made.generator.named_parameters()}
        assert changed == (weights if kind == "fresh" else set())  # the running statistics stay
        trained = {id(parameter) for parameter in made.optimizer.param_groups[0]["params"]}
        assert trained == {*map(id, made.generator.parameters()), *([id(made.noise)] if kind == "fresh" else [])}
