"""What one step of each scheme does: passes, draws, updates; and both schemes against loops written by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plain
import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, one_stage_gan, run
from reuselib.data import ImageSet
from reuselib.dfad import DFAD, losses
from reuselib.errors import BadValue, DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.one_stage_gan import OneStageDFAD, OneStageGAN, TwoStageGAN
from reuselib.one_stage_gan.method import GAN

IMAGE, LATENT, BATCH = (1, 16, 16), 5, 6
SCHEMES: dict[str, Callable[..., GAN]] = {
    "one": OneStageGAN,
    **{
        variant: lambda *parts, _variant=variant, **options: TwoStageGAN(*parts, variant=_variant, **options)
        for variant in one_stage_gan.VARIANTS
    },
}
PASSES = {  # generator forward and backward, discriminator forward and backward
    "one": (1, 1, 2, 2),
    "plain": (2, 1, 3, 3),
    "frozen": (2, 1, 3, 3),
    "reuse": (1, 1, 3, 3),
    "wasteful": (2, 2, 3, 3),
}
Players = tuple[nets.Generator, nets.Discriminator]


def trio(norm: str | None = "group") -> tuple[nets.Generator, nets.Discriminator, ImageSet]:
    """Two small players in float64, where a trajectory can be compared, and a few images."""
    with run.seeded(0):
        generator = nets.deconvolution_generator(IMAGE, LATENT, width=4).double()
        discriminator = nets.dcgan_discriminator(IMAGE, width=4, norm=norm, groups=2).double()
        pixels = torch.randint(256, (30, *IMAGE), dtype=torch.uint8)
    images = ImageSet("tiny", pixels, torch.zeros(30, dtype=torch.int64), ("any",), (0.5,), (0.5,))
    return generator, discriminator, images


def make(scheme: str, norm: str | None = "group", **options: Any) -> GAN:
    return SCHEMES[scheme](*trio(norm), **{"batch": BATCH, "seed": 3, "precision": "fp32"} | options)


def normal(random: torch.Generator) -> Tensor:
    return torch.randn(BATCH, LATENT, dtype=torch.float64, generator=random)


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_makes_its_passes_updates_each_player_once_and_reports_the_losses_before(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, updates = make(scheme), []
    for optimizer in (method.generator_optimizer, method.discriminator_optimizer):
        optimizer.register_step_post_hook(lambda which, *_: updates.append(which))
    backward = players.rigged(torch.Tensor.backward)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss, *a, **o: backward(loss, *a, **o))
    with run.count_passes(method.networks()) as counts:
        report = method.step()
    assert tuple(counts.values()) == PASSES[scheme] and next(iter(counts)) == "generator_forward"
    assert set(updates) == {method.generator_optimizer, method.discriminator_optimizer} and len(updates) == 2
    assert backward.calls == (1 if scheme == "one" else 2)
    generator, discriminator, images = trio()
    random = torch.Generator().manual_seed(3)
    real, y = images.sample(BATCH, random)[0].double(), discriminator(generator(normal(random)))
    loss = F.softplus(-discriminator(real)).mean() + F.softplus(y).mean()
    assert report["discriminator"].item() == pytest.approx(loss.item(), rel=1e-9)
    if scheme == "one":
        assert report["generator"].item() == pytest.approx(F.softplus(-y).mean().item(), rel=1e-9)
    assert not any(value.requires_grad for value in report.values())


def test_only_the_plain_second_stages_compute_gradients_of_the_discriminators_weights() -> None:
    first = make("frozen")
    first.discriminator_stage(first.draw_real(), first._fakes(graph=False))
    expected = [parameter.grad for parameter in first.discriminator.parameters()]
    for scheme, wasted in {"frozen": False, "plain": True, "wasteful": True}.items():
        method = make(scheme)
        method.step()
        left = [parameter.grad for parameter in method.discriminator.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(left, expected, strict=True)) != wasted


@pytest.mark.parametrize("name", ["gan-one-stage", "gan-two-stage-frozen"])
def test_both_players_follow_one_schedule(name: str) -> None:
    method = players.make(name, schedule=run.step_decay([2], 0.1))
    groups = [each.param_groups[0] for each in (method.generator_optimizer, method.discriminator_optimizer)]
    for factor in (1.0, 0.1):
        method.step()
        assert [group["lr"] for group in groups] == pytest.approx([factor * 2e-4, factor * 1e-4])


# --- trajectories ----------------------------------------------------------------------------------------------------


def by_hand(
    loss: str,
    *,
    one_stage: bool,
    reuse: bool = False,
    clip: float = math.inf,
    last: bool = False,
    norm: str | None = "group",
) -> Players:
    """A GAN as one would first write it; in one stage, the two gradients are computed by two backward passes."""
    generator, discriminator, images = trio(norm)
    real_term, fake_term, generator_term = plain.GAMES[loss]
    random = torch.Generator().manual_seed(3)
    to_generate = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    to_discriminate = torch.optim.Adam(discriminator.parameters(), 1e-4, (0.5, 0.999))
    for _ in range(5):
        real = images.sample(BATCH, random)[0].double()
        fakes = generator(normal(random))
        if one_stage:
            of_generator = torch.autograd.grad(generator_term(discriminator(fakes)).mean(), [*generator.parameters()])
        to_discriminate.zero_grad()
        (real_term(discriminator(real)).mean() + fake_term(discriminator(fakes.detach())).mean()).backward()
        to_discriminate.step()
        if not last:
            clamp(discriminator, clip)
        if one_stage:
            for parameter, gradient in zip(generator.parameters(), of_generator, strict=True):
                parameter.grad = gradient
        else:
            to_generate.zero_grad()
            fakes = fakes if reuse else generator(normal(random))
            generator_term(discriminator(fakes)).mean().backward()
        to_generate.step()
        clamp(discriminator, clip)
    return generator, discriminator


def clamp(network: nn.Module, most: float) -> None:
    for parameter in network.parameters():
        parameter.data.clamp_(-most, most)


def assert_same_players(method: GAN, expected: Players) -> None:
    start = trio()[0].state_dict()
    for _ in range(5):
        method.step()
    torch.testing.assert_close(method.discriminator.state_dict(), expected[1].state_dict(), rtol=1e-7, atol=1e-9)
    # Adam blows up the rounding errors of biases before a batch norm: compare the other weights, and the images.
    weights = {name: value for name, value in method.generator.state_dict().items() if name.endswith("weight")}
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[0].state_dict()[name], rtol=1e-7, atol=1e-9)
        assert not torch.equal(value, start[name])
    noise = torch.randn(BATCH, LATENT, dtype=torch.float64)
    torch.testing.assert_close(method.generator(noise), expected[0](noise), rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", one_stage_gan.LOSSES)
@pytest.mark.parametrize("variant", ["frozen", "reuse"])
def test_two_stages_give_what_a_plain_loop_gives(loss: str, variant: str) -> None:
    method = make(variant, loss=one_stage_gan.LOSSES[loss])
    assert_same_players(method, by_hand(loss, one_stage=False, reuse=variant == "reuse"))


@pytest.mark.parametrize("loss", [loss for loss in one_stage_gan.LOSSES if loss != "hinge"])
@pytest.mark.parametrize("ratio", ["closed", "autograd"])
def test_one_stage_gives_what_a_simultaneous_loop_with_two_backward_passes_gives(loss: str, ratio: str) -> None:
    method = make("one", loss=one_stage_gan.LOSSES[loss], ratio=ratio)
    assert_same_players(method, by_hand(loss, one_stage=True))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("scheme", ["one", "frozen"])
def test_wgan_gives_what_a_plain_loop_with_clipped_weights_gives(scheme: str, last: bool) -> None:
    method = make(scheme, norm=None, loss=one_stage_gan.WASSERSTEIN, clip=0.01, clip_last=last)
    expected = by_hand("wasserstein", one_stage=scheme == "one", clip=0.01, last=last, norm=None)
    assert_same_players(method, expected)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_wasted_work_changes_nothing_bit_for_bit(norm: str) -> None:
    states = {}
    for variant in one_stage_gan.VARIANTS:
        method = make(variant, norm)
        for _ in range(3):
            method.step()
        states[variant] = players.state(method.networks())
    for variant in ("plain", "wasteful"):
        assert not list(players.differences(states["frozen"], states[variant]))
    assert list(players.differences(states["frozen"], states["reuse"]))


# --- what is refused -------------------------------------------------------------------------------------------------


def foreign(*layers: nn.Module, channels: int = 1) -> nn.Module:
    """A discriminator that knows nothing of this library: one logit for each patch, and what comes behind."""
    return nn.Sequential(nn.Conv2d(channels, 1, 4, 4), nn.Flatten(), *layers).double()


def test_any_module_with_one_logit_an_image_is_a_discriminator_and_patches_are_refused() -> None:
    generator, _, images = trio()
    for scheme in (OneStageGAN, TwoStageGAN):  # as the message says
        scheme(generator, foreign(nn.AdaptiveAvgPool1d(1)), images, batch=BATCH, precision="fp32").step()
    for batch in (1, 4):  # at batch 1 one ratio would spread over all patches
        with pytest.raises(ShapeMismatch, match="The discriminator gives .* logits for .* images.*their mean"):
            OneStageGAN(generator, foreign(), images, batch=batch)
        real, noise = images.sample(batch, None)[0].double(), torch.randn(batch, LATENT, dtype=torch.float64)
        with pytest.raises(ShapeMismatch, match="logits for"):
            one_stage_gan.one_stage_losses(generator, foreign(), real, noise, one_stage_gan.NON_SATURATING)


G, D, X = trio()
SMALL = nets.deconvolution_generator((1, 8, 8), LATENT, width=4)


@pytest.mark.parametrize(
    ("error", "message", "parts", "options"),
    [
        (DeviceError, "generator on meta.*Move them", (copy.deepcopy(G).to("meta"), D, X), {}),
        (DeviceError, "images on meta.*Move them", (G, D, X.to("meta")), {}),
        (ShapeMismatch, r"makes images of shape \(1, 8, 8\).*image=images.shape", (SMALL, D, X), {}),
        (ShapeMismatch, "do not fit the discriminator", (G, foreign(channels=3), X), {}),
        (ReuseError, r"mean \(0.5,\) and std \(0.25,\).*in_tanh_range", (G, D, replace(X, std=(0.25,))), {}),
        (BadValue, "Sequential does not say how long its noise is. Wrap it", (G.layers, D, X), {}),
        (BadValue, "images must be ImageSet", (G, D, X.images), {}),
        (ReuseError, "'hinge' has no gradient ratio.*leaky_hinge", (G, D, X), {"loss": one_stage_gan.HINGE}),
        (UnknownName, "ratio 'closd'. Did you mean 'closed'", (G, D, X), {"ratio": "closd"}),
        *((BadValue, "clip must be", (G, D, X), {"clip": value}) for value in (0.0, -0.01, math.inf)),
        *((BadValue, "ratio must be", (G, D, X), {"ratio": value}) for value in (1.0, math.nan)),
    ],
)
def test_what_does_not_fit_and_what_cannot_be_meant_is_refused(
    error: type[Exception], message: str, parts: tuple[Any, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        OneStageGAN(*parts, **options)


def test_a_variant_is_one_of_those_that_there_are() -> None:
    with pytest.raises(UnknownName, match="variant 'frosen'. Did you mean 'frozen'"):
        TwoStageGAN(*trio(), variant="frosen")


def test_images_in_tanh_range_reach_from_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    images = ImageSet("tiny", pixels, torch.zeros(2, dtype=torch.int64), ("any",), (0.1,) * 3, (0.1,) * 3)
    changed = one_stage_gan.in_tanh_range(images)
    ends = changed.normalised(changed.images)
    torch.testing.assert_close(ends, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand_as(ends))
    assert images.mean == (0.1,) * 3 and torch.equal(changed.images, images.images)


# ---- data-free distillation in one stage


DISCREPANCIES = {  # the library's own are computed in float32
    "l1": lambda t, s: (t - s).abs().mean(),
    "l2": lambda t, s: (t - s).square().mean(),
    "kl": lambda t, s: F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean"),
}


def distilling(scheme: type[DFAD], **options: Any) -> Any:
    """A method on players in float64, with batch norm in the student; noise is drawn in float32 and widened."""
    cast = players.cast(seed=2)
    parts = [network.double() for network in (cast.teacher, cast.student, cast.generator)]
    cast.generator.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return scheme(*parts, **{"batch": 8, "student_steps": 1, "seed": 4, "precision": "fp32"} | options)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("generation", [losses.negative, losses.negative_log])
@pytest.mark.parametrize("discrepancy", DISCREPANCIES.values(), ids=list(DISCREPANCIES))
def test_one_stage_gives_the_gradients_of_two_on_the_same_noise(
    generation: Callable[[Tensor], Tensor], discrepancy: Callable[[Tensor, Tensor], Tensor]
) -> None:
    options = {"generation": generation, "discrepancy": discrepancy}
    fused, imitating, generating = (distilling(scheme, **options) for scheme in (OneStageDFAD, DFAD, DFAD))
    fused.fused_stage(), imitating.imitation_stage(), generating.generation_stage()
    for player, alone in (("student", imitating), ("generator", generating)):
        found, expected = (gradients(getattr(method, player)) for method in (fused, alone))
        assert expected.norm() > 1e-6 and (found - expected).norm() < 1e-10 * expected.norm()


@pytest.mark.parametrize("steps", [1, 3])
def test_an_iteration_has_one_generator_update_within_as_many_student_updates_and_reports_their_mean(
    steps: int,
) -> None:
    whole, parts = (distilling(OneStageDFAD, student_steps=steps) for _ in range(2))
    updates: list[torch.optim.Optimizer] = []
    for optimizer in (whole.student_optimizer, whole.generator_optimizer):
        optimizer.register_step_post_hook(lambda which, *_: updates.append(which))
    with run.count_passes(whole.networks()) as passes:
        report = whole.step()
    assert updates.count(whole.student_optimizer) == steps and updates.count(whole.generator_optimizer) == 1
    forward = {f"{player}_forward": steps for player in ("teacher", "student", "generator")}
    assert passes == forward | {"teacher_backward": 1, "student_backward": steps, "generator_backward": 1}
    alone = [parts.imitation_stage(1) for _ in range(steps - 1)]
    last, generation = parts.fused_stage()
    for name in ("imitation", "teacher_logits"):
        mean = sum(each[name].item() for each in [*alone, last]) / steps
        assert report[name].item() == pytest.approx(mean, rel=1e-6)
    assert torch.equal(report["generation"], generation) and report.keys() == {*last, "generation"}
    assert not any(value.requires_grad for value in report.values())
