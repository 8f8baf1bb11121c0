"""What one step of each scheme does: passes, draws, updates; and both schemes against loops written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, one_stage_gan, run
from reuselib.data import ImageSet
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.one_stage_gan import GAN, OneStageGAN, TwoStageGAN

IMAGE, LATENT, BATCH = (1, 16, 16), 5, 6
SCHEMES: dict[str, Callable[..., GAN]] = {
    "one": OneStageGAN,
    **{
        variant: lambda *parts, _variant=variant, **options: TwoStageGAN(*parts, variant=_variant, **options)
        for variant in one_stage_gan.VARIANTS
    },
}
by_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def trio(norm: str | None = "group", seed: int = 0) -> tuple[nets.Generator, nets.Discriminator, ImageSet]:
    """Two small players in float64, where a trajectory can be compared, and a few images."""
    with run.seeded(seed):
        generator = nets.deconvolution_generator(IMAGE, LATENT, width=4).double()
        discriminator = nets.dcgan_discriminator(IMAGE, width=4, norm=norm, groups=2).double()
        pixels = torch.randint(256, (30, *IMAGE), dtype=torch.uint8)
    images = ImageSet("tiny", pixels, torch.zeros(30, dtype=torch.int64), ("any",), (0.5,), (0.5,))
    return generator, discriminator, images


def make(scheme: str, norm: str | None = "group", **options: Any) -> GAN:
    return SCHEMES[scheme](*trio(norm), **{"batch": BATCH, "seed": 3, "precision": "fp32"} | options)


# --- one step --------------------------------------------------------------------------------------------------------

PASSES = {  # generator forward and backward, discriminator forward and backward
    "one": (1, 1, 2, 2),
    "plain": (2, 1, 3, 3),
    "frozen": (2, 1, 3, 3),
    "reuse": (1, 1, 3, 3),
    "wasteful": (2, 2, 3, 3),
}


@by_scheme
def test_passes_of_a_step(scheme: str) -> None:
    method = make(scheme)
    with run.count_passes(method.networks()) as counts:
        method.step()
    assert tuple(counts.values()) == PASSES[scheme]
    assert list(counts) == [
        "generator_forward",
        "generator_backward",
        "discriminator_forward",
        "discriminator_backward",
    ]


@by_scheme
def test_a_step_updates_each_player_once_on_whole_batches(scheme: str) -> None:
    method, updates, sizes = make(scheme), [], []
    for optimizer in (method.generator_optimizer, method.discriminator_optimizer):
        optimizer.register_step_post_hook(lambda which, *_: updates.append(which))
    method.discriminator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    method.step()
    assert set(updates) == {method.generator_optimizer, method.discriminator_optimizer} and len(updates) == 2
    assert sizes == [BATCH] * PASSES[scheme][2]


def test_a_one_stage_step_propagates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme, expected in {"one": 1, "plain": 2, "frozen": 2, "reuse": 2, "wasteful": 2}.items():
        with monkeypatch.context() as context:
            backward = players.rigged(torch.Tensor.backward)
            context.setattr(torch.Tensor, "backward", lambda loss, *a, _b=backward, **o: _b(loss, *a, **o))
            make(scheme).step()
        assert backward.calls == expected


@pytest.mark.parametrize(("scheme", "draws"), [("one", 1), ("plain", 2), ("frozen", 2), ("reuse", 1), ("wasteful", 2)])
def test_one_stage_draws_noise_once_and_two_stages_draw_anew(scheme: str, draws: int) -> None:
    method, noise = make(scheme), set()
    method.generator.register_forward_pre_hook(lambda _, inputs: noise.add(inputs[0].numpy().tobytes()))
    for step in (1, 2):
        method.step()
        assert len(noise) == draws * step


def test_only_the_plain_second_stages_compute_gradients_of_the_discriminators_weights() -> None:
    first = make("frozen")
    first.discriminator_stage(first.draw_real(), first._fakes(graph=False))
    expected = [parameter.grad for parameter in first.discriminator.parameters()]
    for scheme, wasted in {"frozen": False, "plain": True, "wasteful": True}.items():
        method = make(scheme)
        method.step()
        left = [parameter.grad for parameter in method.discriminator.parameters()]
        same = all(torch.equal(a, b) for a, b in zip(left, expected, strict=True))
        assert same != wasted


def test_only_the_wasteful_first_stage_reaches_the_generator() -> None:
    for variant in one_stage_gan.VARIANTS:
        method, reached = make(variant), []
        stage = method.discriminator_stage

        def watched(real: Tensor, fakes: Tensor, _stage=stage, _reached=reached) -> Tensor:
            _reached.append(fakes.requires_grad)
            return _stage(real, fakes)

        method.discriminator_stage = watched
        method.step()
        assert reached == [variant == "wasteful"]


def test_both_players_of_one_stage_use_the_gradients_at_the_old_parameters() -> None:
    method, (generator, discriminator, images) = make("one"), trio()
    random = torch.Generator().manual_seed(3)
    real, noise = images.sample(BATCH, random)[0].double(), normal(random)
    expected = torch.autograd.grad(F.softplus(-discriminator(generator(noise))).mean(), list(generator.parameters()))
    loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(generator(noise).detach())).mean()
    wanted = torch.autograd.grad(loss, list(discriminator.parameters()))
    method.step()
    found = [p.grad for network in (method.generator, method.discriminator) for p in network.parameters()]
    # The generator's batch norm swallows the biases before it: their gradients are rounding errors.
    torch.testing.assert_close(found, [*expected, *wanted], rtol=1e-9, atol=1e-15)


@by_scheme
def test_a_step_reports_both_losses_as_they_were_before_the_update(scheme: str) -> None:
    generator, discriminator, images = trio()
    random = torch.Generator().manual_seed(3)
    real, noise = images.sample(BATCH, random)[0].double(), normal(random)
    y = discriminator(generator(noise))
    loss = F.softplus(-discriminator(real)).mean() + F.softplus(y).mean()
    report = make(scheme).step()
    assert report["discriminator"].item() == pytest.approx(loss.item(), rel=1e-9)
    if scheme == "one":
        assert report["generator"].item() == pytest.approx(F.softplus(-y).mean().item(), rel=1e-9)
    assert not any(value.requires_grad for value in report.values())


def largest_weight(network: nn.Module) -> float:
    return max(parameter.abs().max().item() for parameter in network.parameters())


@by_scheme
def test_weights_are_clipped_after_the_update(scheme: str) -> None:
    method = make(scheme, norm="batch", loss=one_stage_gan.WASSERSTEIN, clip=0.01, discriminator_lr=0.1)
    assert largest_weight(method.discriminator) > 0.01
    for _ in range(2):
        method.step()
    assert largest_weight(method.discriminator) == pytest.approx(0.01)
    assert largest_weight(method.generator) > 0.01


@by_scheme
def test_learning_rates_of_both_players_follow_the_schedule(scheme: str) -> None:
    method = make(scheme, generator_lr=0.4, discriminator_lr=0.1, schedule=lambda iteration: 0.5**iteration)
    for factor in (1, 0.5, 0.25):
        rates = [o.param_groups[0]["lr"] for o in (method.generator_optimizer, method.discriminator_optimizer)]
        assert rates == pytest.approx([0.4 * factor, 0.1 * factor])
        method.step()


def test_the_defaults_are_those_of_dcgan() -> None:
    method = OneStageGAN(*trio(), precision="fp32")
    groups = [o.param_groups[0] for o in (method.generator_optimizer, method.discriminator_optimizer)]
    assert [(group["lr"], group["betas"]) for group in groups] == [(2e-4, (0.5, 0.999)), (1e-4, (0.5, 0.999))]
    assert (method.batch, method.clip, method.loss) == (64, None, one_stage_gan.NON_SATURATING)


# --- trajectories ----------------------------------------------------------------------------------------------------

PLAIN = {  # real, fake, generator
    "saturating": (lambda y: F.softplus(-y), F.softplus, lambda y: -F.softplus(y)),
    "non_saturating": (lambda y: F.softplus(-y), F.softplus, lambda y: F.softplus(-y)),
    "least_squares": (lambda y: (y - 1) ** 2, lambda y: y**2, lambda y: (y - 1) ** 2),
    "wasserstein": (lambda y: -y, lambda y: y, lambda y: -y),
    "hinge": (lambda y: (1 - y).clamp(min=0), lambda y: (1 + y).clamp(min=0), lambda y: -y),
}


def normal(random: torch.Generator) -> Tensor:
    return torch.randn(BATCH, LATENT, dtype=torch.float64, generator=random)


def by_hand(
    loss: str,
    steps: int,
    *,
    one_stage: bool,
    reuse: bool = False,
    clip: float | None = None,
    norm: str | None = "group",
) -> tuple[nets.Generator, nets.Discriminator]:
    """A GAN as one would first write it; in one stage, the two gradients are computed by two backward passes."""
    generator, discriminator, images = trio(norm)
    real_term, fake_term, generator_term = PLAIN[loss]
    random = torch.Generator().manual_seed(3)
    to_generate = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    to_discriminate = torch.optim.Adam(discriminator.parameters(), 1e-4, (0.5, 0.999))
    for _ in range(steps):
        real = images.sample(BATCH, random)[0].double()
        fakes = generator(normal(random))
        if one_stage:
            of_generator = torch.autograd.grad(
                generator_term(discriminator(fakes)).mean(), list(generator.parameters())
            )
        to_discriminate.zero_grad()
        (real_term(discriminator(real)).mean() + fake_term(discriminator(fakes.detach())).mean()).backward()
        to_discriminate.step()
        if clip is not None:
            for parameter in discriminator.parameters():
                parameter.data.clamp_(-clip, clip)
        if one_stage:
            for parameter, gradient in zip(generator.parameters(), of_generator, strict=True):
                parameter.grad = gradient
        else:
            to_generate.zero_grad()
            fakes = fakes if reuse else generator(normal(random))
            generator_term(discriminator(fakes)).mean().backward()
        to_generate.step()
    return generator, discriminator


def assert_same_players(method: GAN, expected: tuple[nets.Generator, nets.Discriminator], steps: int) -> None:
    start = trio()[0].state_dict()
    for _ in range(steps):
        method.step()
    torch.testing.assert_close(method.discriminator.state_dict(), expected[1].state_dict(), rtol=1e-7, atol=1e-9)
    # Adam blows up the rounding errors of biases before a batch norm: compare the other weights, and the images.
    weights = {name: value for name, value in method.generator.state_dict().items() if name.endswith("weight")}
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[0].state_dict()[name], rtol=1e-7, atol=1e-9)
        assert not torch.equal(value, start[name])
    noise = torch.randn(BATCH, LATENT, dtype=torch.float64)
    torch.testing.assert_close(method.generator(noise), expected[0](noise), rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("variant", one_stage_gan.VARIANTS)
def test_two_stages_give_what_a_plain_loop_gives(loss: str, variant: str) -> None:
    method = make(variant, loss=one_stage_gan.LOSSES[loss])
    assert_same_players(method, by_hand(loss, 5, one_stage=False, reuse=variant == "reuse"), 5)


@pytest.mark.parametrize("loss", [loss for loss in PLAIN if loss != "hinge"])
@pytest.mark.parametrize("ratio", ["closed", "autograd"])
def test_one_stage_gives_what_a_simultaneous_loop_with_two_backward_passes_gives(loss: str, ratio: str) -> None:
    method = make("one", loss=one_stage_gan.LOSSES[loss], ratio=ratio)
    assert_same_players(method, by_hand(loss, 5, one_stage=True), 5)


@pytest.mark.parametrize("scheme", ["one", "frozen"])
def test_wgan_gives_what_a_plain_loop_with_clipped_weights_gives(scheme: str) -> None:
    method = make(scheme, norm=None, loss=one_stage_gan.WASSERSTEIN, clip=0.01)
    assert_same_players(method, by_hand("wasserstein", 4, one_stage=scheme == "one", clip=0.01, norm=None), 4)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_wasted_work_changes_nothing_bit_for_bit(norm: str) -> None:
    states = {}
    for variant in one_stage_gan.VARIANTS:
        method = make(variant, norm)
        for _ in range(5):
            method.step()
        states[variant] = players.state(method.networks())
    for variant in ("plain", "wasteful"):
        assert not list(players.differences(states["frozen"], states[variant]))
    assert list(players.differences(states["frozen"], states["reuse"]))


def test_the_two_schemes_are_different_trainings() -> None:
    states = []
    for scheme in ("one", "frozen", "reuse"):
        method = make(scheme)
        method.step()
        states.append(players.state(method.generator))
    assert list(players.differences(states[0], states[1])) and list(players.differences(states[0], states[2]))


def test_in_one_stage_the_discriminator_learns_as_in_the_first_of_two() -> None:
    one, two = make("one"), make("reuse")
    one.step(), two.step()
    torch.testing.assert_close(one.discriminator.state_dict(), two.discriminator.state_dict(), rtol=1e-9, atol=1e-12)


@by_scheme
def test_a_generator_learns_the_mean_of_its_images(scheme: str) -> None:
    generator, discriminator, images = trio()
    bright = replace(images, images=images.images // 8 + 200)
    options = {"batch": 16, "generator_lr": 5e-3, "discriminator_lr": 2e-3, "precision": "fp32"}
    method = SCHEMES[scheme](generator.float(), discriminator.float(), bright, **options)
    start = method.generator(method.draw_noise()).mean()
    for _ in range(60):
        method.step()
    wanted = bright.normalised(bright.images).mean()
    assert abs(method.generator(method.draw_noise()).mean() - wanted) < abs(start - wanted) / 2


# --- what is refused -------------------------------------------------------------------------------------------------


def test_the_hinge_is_refused_in_one_stage_and_taken_in_two() -> None:
    with pytest.raises(ReuseError, match="'hinge' has no gradient ratio.*leaky_hinge"):
        make("one", loss=one_stage_gan.HINGE)
    for variant in one_stage_gan.VARIANTS:
        assert all(value.isfinite() for value in make(variant, loss=one_stage_gan.HINGE).step().values())
    assert all(value.isfinite() for value in make("one", loss=one_stage_gan.leaky_hinge(0.1)).step().values())


def test_unknown_variants_and_ratios_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="variant 'frosen'. Did you mean 'frozen'"):
        TwoStageGAN(*trio(), variant="frosen")
    with pytest.raises(UnknownName, match="ratio 'closd'. Did you mean 'closed'"):
        OneStageGAN(*trio(), ratio="closd")


@pytest.mark.parametrize("stranger", ["generator", "discriminator", "images"])
@by_scheme
def test_networks_and_images_on_different_devices_are_refused(scheme: str, stranger: str) -> None:
    parts = dict(zip(("generator", "discriminator", "images"), trio(), strict=True))
    parts[stranger] = parts[stranger].to("meta")
    with pytest.raises(DeviceError, match=f"'{stranger}'.*meta.*Move them"):
        SCHEMES[scheme](*parts.values())


@pytest.mark.parametrize("stranger", ["generator", "discriminator", "images"])
@by_scheme
def test_unlike_image_shapes_are_refused(scheme: str, stranger: str) -> None:
    parts = dict(zip(("generator", "discriminator", "images"), trio(), strict=True))
    parts[stranger] = {
        "generator": lambda: nets.deconvolution_generator((1, 8, 8), LATENT, width=4),
        "discriminator": lambda: nets.dcgan_discriminator((3, 16, 16), width=4, groups=2),
        "images": lambda: one_stage_gan.in_tanh_range(parts["images"].resized(8)),
    }[stranger]()
    with pytest.raises(ShapeMismatch, match=f"'{stranger}'.*image=images.shape"):
        SCHEMES[scheme](*parts.values())


@by_scheme
def test_images_in_another_range_than_the_generators_are_refused(scheme: str) -> None:
    generator, discriminator, images = trio()
    with pytest.raises(ReuseError, match=r"tiny are normalised by mean \(0.5,\) and std \(0.25,\).*in_tanh_range"):
        SCHEMES[scheme](generator, discriminator, replace(images, std=(0.25,)))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_tanh_range_reach_from_minus_one_to_one(channels: int) -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, channels, 8, 8)
    channelwise = (0.1,) * channels
    images = ImageSet("tiny", pixels, torch.zeros(2, dtype=torch.int64), ("any",), channelwise, channelwise)
    changed = one_stage_gan.in_tanh_range(images)
    ends = changed.normalised(changed.images)
    torch.testing.assert_close(ends[0], torch.full((channels, 8, 8), -1.0))
    torch.testing.assert_close(ends[1], torch.full((channels, 8, 8), 1.0))
    assert images.mean == channelwise and torch.equal(changed.images, images.images)


def test_the_base_class_cannot_play() -> None:
    with pytest.raises(TypeError, match="GAN has no play"):
        GAN(*trio(), precision="fp32").step()
