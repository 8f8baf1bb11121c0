"""Generators and DCGAN's discriminator: shapes, statistics of images and of initial weights, gradients, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.dfad import sources
from reuselib.errors import BadValue, ShapeMismatch, UnknownName
from reuselib.nets import generators

SMALL = {
    "upsampling": lambda: nets.upsampling_generator(image=(3, 8, 8), latent=8, width=4),
    "zskt": lambda: nets.upsampling_generator((1, 8, 16), latent=8, width=4, activation=None, affine=True),
    "dcgan": lambda: nets.dcgan_generator(image=(3, 32, 32), latent=8, width=4),
    "inversion": lambda: nets.inversion_generator(image=(3, 8, 8), latent=8, width=4),
    "deconvolution": lambda: nets.deconvolution_generator(image=(3, 16, 16), latent=8, width=4),
}
NORMS = ["batch", "group", None]
CONVOLUTION = nn.Conv2d | nn.ConvTranspose2d


def kinds(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def discriminator(size: int = 16, channels: int = 1, **options: object) -> nets.Discriminator:
    return nets.dcgan_discriminator((channels, size, size), **{"width": 4, "groups": 2} | options)


def assert_reached(*networks: nn.Module) -> None:
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", SMALL)
def test_shapes_gradients_seeds_and_the_meta_device(case: str) -> None:
    torch.manual_seed(3)
    generator = SMALL[case]()
    torch.manual_seed(3)
    again = SMALL[case]().state_dict()
    assert all(torch.equal(value, again[key]) for key, value in generator.state_dict().items())
    images = generator(torch.randn(4, 8))
    assert images.shape == (4, *generator.image)
    images.pow(3).sum().backward()
    assert_reached(generator)
    with torch.device("meta"):
        images = SMALL[case]()(torch.randn(4, 8))
    images.sum().backward()
    assert images.is_meta and images.shape == (4, *generator.image)
    with pytest.raises(ShapeMismatch, match=r"\(batch, 8\), not \(4, 9\)"):
        generator(torch.randn(4, 9))


def test_values_stay_in_their_range_at_every_size() -> None:
    torch.manual_seed(0)
    for size in (8, 16, 28, 32):
        for channels in (1, 3):  # normalised in train mode
            generator = nets.upsampling_generator((channels, size, size), latent=16, width=8).train()
            images = generator(torch.randn(16, 16))
            assert images.mean((0, 2, 3)).abs().max() < 1e-3
            assert (images.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
        for large in (False, True):
            generator = nets.inversion_generator((3, size, size), latent=16, width=8, large=large)
            images = generator(100 * torch.randn(4, 16))
            assert images.shape == (4, 3, size, size) and 0 <= images.min() and images.max() <= 1
            assert generator.layers[0].out_features == (32 if large else 16) * (size // 4) ** 2
    assert SMALL["dcgan"]()(10 * torch.randn(4, 8)).abs().max() <= 1


def test_layers_of_the_papers() -> None:
    zskt = SMALL["zskt"]()
    assert zskt.layers[-1].affine and not kinds(zskt, nn.Tanh)
    inversion = SMALL["inversion"]()
    assert [m.bias is not None for m in kinds(inversion, nn.Conv2d)] == [False, False, True]
    assert [m.negative_slope for m in kinds(inversion, nn.LeakyReLU)] == [0.2, 0.2]
    with torch.device("meta"):
        assert nets.dcgan_generator()(torch.randn(2, 256)).shape == (2, 3, 128, 128)
        large = nets.inversion_generator((3, 64, 64))
        assert large.layers[:2](torch.randn(2, 256)).shape == (2, 128, 16, 16)  # starts from 16 pixels
        assert large(torch.randn(2, 256)).shape == (2, 3, 64, 64)
        generator, judge = nets.deconvolution_generator(), nets.dcgan_discriminator()
        assert judge(generator(torch.randn(2, 100))).shape == (2,)
    assert [m.negative_slope for m in kinds(judge, nn.LeakyReLU)] == [0.2] * 4
    assert len(kinds(generator, nn.BatchNorm2d)) == 4 and isinstance(generator.layers[-1], nn.Tanh)


def test_a_plain_module_does_not_say_how_long_its_noise_is() -> None:
    assert nets.latent_of(SMALL["dcgan"]()) == 8
    with pytest.raises(BadValue, match="Sequential does not say how long its noise is. Wrap it: nets.Generator"):
        sources.from_generator(nn.Sequential(nn.Linear(8, 4)))


def test_sizes_that_do_not_fit_are_refused() -> None:
    for build in (nets.upsampling_generator, nets.inversion_generator):
        for image in ((1, 30, 32), (1, 32, 2)):
            with pytest.raises(ShapeMismatch, match="multiples of 4"):
                build(image=image)
    with pytest.raises(ShapeMismatch, match="multiples of 16"):
        nets.dcgan_generator(image=(3, 40, 48))
    for build in (nets.deconvolution_generator, nets.dcgan_discriminator):
        for height, width in ((4, 4), (12, 12), (28, 28), (48, 48), (16, 32), (7, 7)):
            with pytest.raises(ShapeMismatch, match=f"8, 16, 32, 64 … pixels, not {height}x{width}.*Resize"):
                build((1, height, width))
    with pytest.raises(UnknownName, match="tanh"):
        nets.upsampling_generator(activation="tan")


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
    torch.manual_seed(0)
    assert_drawn(nets.dcgan_generator(image=(3, 32, 32)), norms=True)
    for build in (nets.deconvolution_generator, nets.dcgan_discriminator):
        assert_drawn(build((3, 32, 32), width=32), norms=False)


def test_reinitialise_draws_from_its_generator_alone() -> None:
    networks = [nets.inversion_generator((3, 16, 16)) for _ in range(2)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for network in networks:
        nets.reinitialise(network, torch.Generator().manual_seed(5))
    assert_drawn(networks[0], norms=True)
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(first, second)
    nets.reinitialise(networks[1], torch.Generator().manual_seed(6))
    assert not torch.equal(networks[0].layers[0].weight, networks[1].layers[0].weight)


def test_reinitialise_spares_running_statistics_and_the_storage_of_the_parameters() -> None:
    generator = SMALL["inversion"]()
    generator(torch.randn(16, 8))
    buffers = [buffer.clone() for buffer in generator.buffers()]
    parameters = [(parameter, parameter.data_ptr()) for parameter in generator.parameters()]
    nets.reinitialise(generator, torch.Generator().manual_seed(0))
    assert all(torch.equal(old, new) for old, new in zip(buffers, generator.buffers(), strict=True))
    assert all(a is p and a.data_ptr() == at for (a, at), p in zip(parameters, generator.parameters(), strict=True))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in generator.parameters())
    nets.reinitialise(SMALL["upsampling"](), torch.Generator())  # whose last batch norm has no weights
    with torch.device("meta"):
        nets.reinitialise(SMALL["inversion"](), None)


# --- DCGAN ------------------------------------------------------------------------------------------------------------


def test_the_players_fit_each_other_and_halving_the_size_drops_the_widest_layer() -> None:
    for size, widths in {8: [4], 16: [8, 4], 32: [16, 8, 4], 64: [32, 16, 8, 4]}.items():
        for channels in (1, 3):
            generator = nets.deconvolution_generator((channels, size, size), latent=5, width=4)
            judge = discriminator(size, channels)
            images = generator(10 * torch.randn(3, 5))
            assert images.shape == (3, channels, size, size) and images.abs().max() <= 1
            assert judge(images).shape == (3,) and generator.image == judge.image == (channels, size, size)
            assert [layer.out_channels for layer in kinds(generator, CONVOLUTION)] == [*widths, channels]
            assert [layer.in_channels for layer in kinds(judge, CONVOLUTION)] == [channels, *widths[::-1]]


@pytest.mark.parametrize("norm", NORMS)
def test_normalisations(norm: str | None) -> None:
    judge = discriminator(32, norm=norm)  # all but the first and the last layer
    found = kinds(judge, nn.BatchNorm2d | nn.GroupNorm)
    kind = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm}.get(norm)
    assert [isinstance(module, kind) for module in found] == ([True, True] if norm else [])
    assert all(module.num_groups == 2 for module in found if norm == "group")
    assert [type(module) for module in judge.layers[:2]] == [nn.Conv2d, nn.LeakyReLU]
    assert isinstance(judge.layers[-1], nn.Conv2d)
    judge = discriminator(norm=norm).double()  # only batch normalisation couples the images of a batch
    images = torch.randn(5, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge(images)[0], images)
    assert gradient[0].any() and gradient[1:].any() == (norm == "batch")
    judge, generator = discriminator(channels=3, norm=norm), SMALL["deconvolution"]()
    assert judge(torch.randn(1, 3, 16, 16)).shape == (1,)
    torch.manual_seed(0)
    judge(generator(torch.randn(4, 8))).square().sum().backward()
    assert_reached(generator, judge)


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
        pairs = zip(*(torch.autograd.grad(each, weights, slope) for each in (found, expected)), strict=True)
        for gradient, known in pairs:
            torch.testing.assert_close(gradient, known, rtol=1e-4, atol=1e-4)


def test_what_a_discriminator_refuses() -> None:
    for shape in ((2, 3, 16, 16), (2, 1, 32, 32), (1, 16, 16)):
        with pytest.raises(ShapeMismatch, match=r"shape \(1, 16, 16\), not .*Build it with"):
            discriminator()(torch.randn(shape))
    with pytest.raises(UnknownName, match="normalisation 'grup'. Did you mean 'group'"):
        discriminator(norm="grup")
    with pytest.raises(ShapeMismatch, match="32 groups do not divide 8 channels"):
        discriminator(groups=32)
