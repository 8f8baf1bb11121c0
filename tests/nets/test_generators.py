"""Generators and DCGAN's discriminator: shapes, statistics of images and of initial weights, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.dfad import sources
from reuselib.errors import ReuseError
from reuselib.nets import generators

SMALL = {
    "upsampling": lambda: nets.upsampling_generator(image=(3, 8, 8), latent=8, width=4),
    "zskt": lambda: nets.upsampling_generator((1, 8, 16), latent=8, width=4, activation=None, affine=True),
    "dcgan": lambda: nets.dcgan_generator(image=(3, 32, 32), latent=8, width=4),
    "inversion": lambda: nets.inversion_generator(image=(3, 8, 8), latent=8, width=4),
    "deconvolution": lambda: nets.deconvolution_generator(image=(3, 16, 16), latent=8, width=4),
}
CONVOLUTION = nn.Conv2d | nn.ConvTranspose2d


def kinds(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def discriminator(size: int = 16, channels: int = 1, **options: object) -> nets.Discriminator:
    return nets.dcgan_discriminator((channels, size, size), **{"width": 4, "groups": 2} | options)


@pytest.mark.parametrize("case", SMALL)
def test_shapes_gradients_seeds_and_the_meta_device(case: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append((generator := SMALL[case]()).state_dict())
    assert all(torch.equal(value, states[0][key]) for key, value in states[1].items())
    images = generator(torch.randn(4, 8))
    assert images.shape == (4, *generator.image)
    images.pow(3).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters())
    with torch.device("meta"):
        assert SMALL[case]()(torch.randn(4, 8)).shape == images.shape


def test_values_stay_in_their_range_at_every_size() -> None:
    for channels, size in ((1, 8), (3, 28)):  # normalised in train mode
        images = nets.upsampling_generator((channels, size, size), latent=16, width=8).train()(torch.randn(16, 16))
        assert images.mean((0, 2, 3)).abs().max() < 1e-3
        assert (images.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
    for large in (False, True):
        generator = nets.inversion_generator((3, 28, 28), latent=16, width=8, large=large)
        images = generator(100 * torch.randn(4, 16))
        assert images.shape == (4, 3, 28, 28) and 0 <= images.min() and images.max() <= 1
        assert generator.layers[0].out_features == (32 if large else 16) * 7**2
    assert SMALL["dcgan"]()(10 * torch.randn(4, 8)).abs().max() <= 1


def test_layers_of_the_papers() -> None:
    zskt, inversion = SMALL["zskt"](), SMALL["inversion"]()
    assert zskt.layers[-1].affine and not kinds(zskt, nn.Tanh)
    assert [m.bias is not None for m in kinds(inversion, nn.Conv2d)] == [False, False, True]
    for size, widths in {8: [4], 64: [32, 16, 8, 4]}.items():  # each halving of the size drops the widest layer
        generator, judge = nets.deconvolution_generator((3, size, size), latent=5, width=4), discriminator(size, 3)
        images = generator(10 * torch.randn(3, 5))
        assert images.shape == (3, 3, size, size) and images.abs().max() <= 1 and judge(images).shape == (3,)
        assert [layer.out_channels for layer in kinds(generator, CONVOLUTION)] == [*widths, 3]
        assert [layer.in_channels for layer in kinds(judge, CONVOLUTION)] == [3, *widths[::-1]]
        assert {m.negative_slope for m in kinds(inversion, nn.LeakyReLU) + kinds(judge, nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sources.from_generator(nn.Sequential(nn.Linear(8, 4))), "Sequential does not say how long its noise"),
        (lambda: SMALL["dcgan"]()(torch.randn(4, 9)), r"\(batch, 8\), not \(4, 9\)"),
        (lambda: nets.upsampling_generator((1, 30, 32)), "multiples of 4"),
        (lambda: nets.inversion_generator((1, 32, 2)), "multiples of 4"),
        (lambda: nets.dcgan_generator((3, 40, 48)), "multiples of 16"),
        (lambda: nets.deconvolution_generator((1, 4, 4)), "8, 16, 32, 64 … pixels, not 4x4.*Resize"),
        (lambda: nets.deconvolution_generator((1, 16, 32)), "pixels, not 16x32"),
        (lambda: nets.dcgan_discriminator((1, 12, 12)), "pixels, not 12x12"),
        (lambda: discriminator()(torch.randn(2, 1, 32, 32)), r"shape \(1, 16, 16\), not .*Build it with"),
        (lambda: nets.upsampling_generator(activation="tan"), "tanh"),
        (lambda: discriminator(norm="grup"), "normalisation 'grup'. Did you mean 'group'"),
        (lambda: discriminator(groups=32), "32 groups do not divide 8 channels"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        call()


# --- initial weights --------------------------------------------------------------------------------------------------


def assert_drawn(network: nn.Module, norms: bool) -> None:
    """Assert N(0, 0.02), for batch norms N(1, 0.02) or else exactly one, and biases of zero."""
    for module in kinds(network, nn.Linear | CONVOLUTION | nn.BatchNorm2d | nn.GroupNorm):
        norm, count = isinstance(module, nn.BatchNorm2d | nn.GroupNorm), module.weight.numel()
        assert module.bias is None or not module.bias.any()
        if norm and not norms:
            assert (module.weight == 1).all()
            continue
        assert abs(module.weight.mean() - float(norm)) < 6 * 0.02 / count**0.5
        assert abs(module.weight.std() - 0.02) < 6 * 0.02 / (2 * count) ** 0.5


def test_initial_weights() -> None:
    assert_drawn(nets.dcgan_generator(image=(3, 32, 32)), norms=True)
    for build in (nets.deconvolution_generator, nets.dcgan_discriminator):
        assert_drawn(build((3, 32, 32), width=32), norms=False)


def test_reinitialise_draws_from_its_generator_alone_and_spares_statistics_and_storage() -> None:
    network, drawn = nets.inversion_generator((3, 16, 16)), []
    network(torch.randn(16, 256))
    state, buffers = torch.get_rng_state(), [buffer.clone() for buffer in network.buffers()]
    parameters = [(parameter, parameter.data_ptr()) for parameter in network.parameters()]
    for seed in (5, 5, 6):
        nets.reinitialise(network, torch.Generator().manual_seed(seed))
        drawn.append(nn.utils.parameters_to_vector(network.parameters()))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert_drawn(network, norms=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(old, new) for old, new in zip(buffers, network.buffers(), strict=True))
    assert all(a is p and a.data_ptr() == at for (a, at), p in zip(parameters, network.parameters(), strict=True))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in network.parameters())
    nets.reinitialise(SMALL["upsampling"](), torch.Generator())  # whose last batch norm has no weights


# --- DCGAN ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "group", None])
def test_normalisations(norm: str | None) -> None:
    judge = discriminator(32, norm=norm)  # all but the first and the last layer
    found = kinds(judge, nn.BatchNorm2d | nn.GroupNorm)
    kind = {"batch": nn.BatchNorm2d, "group": generators.GroupNorm}.get(norm)

    assert [(type(module), getattr(module, "num_groups", 2)) for module in found] == [(kind, 2)] * len(found)
    assert len(found) == (2 if norm else 0)
    judge = discriminator(norm=norm).double()  # only batch normalisation couples the images of a batch
    images = torch.randn(5, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge(images)[0], images)
    assert gradient[0].any() and gradient[1:].any() == (norm == "batch")
    judge, generator = discriminator(channels=3, norm=norm), SMALL["deconvolution"]()
    judge(generator(torch.randn(4, 8))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (*judge.parameters(), *generator.parameters()))


@pytest.mark.parametrize(
    ("quick", "shape"), [(generators.GroupNorm(4, 8), (3, 8, 8, 8)), (generators.Projection(70, 6, 4), (5, 70, 1, 1))]
)
def test_quick_layers_compute_what_torchs_own_do(quick: nn.Module, shape: tuple[int, ...]) -> None:
    own = type(quick).__mro__[1]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        maps = torch.randn(shape).contiguous(memory_format=memory_format)
        found, expected = quick(maps), own.forward(quick, maps)
        torch.testing.assert_close(found, expected)
        assert shape[2] == 1 or found.is_contiguous(memory_format=memory_format)
        weights, slope = [*quick.parameters()], torch.randn_like(expected)
        gradients = [torch.autograd.grad(each, weights, slope) for each in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
