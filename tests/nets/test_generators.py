"""Every generator of noise alone: shapes, statistics of images and of initial weights, gradients, errors."""

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ShapeMismatch, UnknownName

SIZES = [8, 16, 28, 32]


@pytest.fixture(scope="module")
def dcgan() -> nets.Generator:
    """A generator B of full width, whose initial weights are many enough to measure."""
    torch.manual_seed(0)
    return nets.dcgan_generator(image=(3, 32, 32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_upsampling_generator_is_normalised_in_train_mode(size: int, channels: int) -> None:
    torch.manual_seed(0)
    generator = nets.upsampling_generator(image=(channels, size, size), latent=16, width=8).train()
    images = generator(torch.randn(16, 16))
    assert images.shape == (16, channels, size, size)
    assert images.mean((0, 2, 3)).abs().max() < 1e-3
    assert (images.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3


def test_upsampling_generator_at_the_papers_size() -> None:
    generator = nets.upsampling_generator(latent=100)
    assert (generator.latent, generator.image) == (100, (1, 32, 32))
    assert generator(torch.randn(2, 100)).shape == (2, 1, 32, 32)


def test_rectangular_images() -> None:
    generator = nets.upsampling_generator(image=(1, 8, 16), latent=4, width=2)
    assert generator(torch.randn(2, 4)).shape == (2, 1, 8, 16)


def test_zskt_variant_has_an_affine_end_and_no_tanh() -> None:
    generator = nets.upsampling_generator(image=(1, 8, 8), width=4, activation=None, affine=True)
    assert generator.layers[-1].affine
    assert not any(isinstance(module, nn.Tanh) for module in generator.modules())


def test_dafl_variant_changes_epsilon_after_convolutions_only() -> None:
    generator = nets.upsampling_generator(image=(1, 8, 8), width=4, batch_norm_eps=0.8)
    norms = [module.eps for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [1e-5, 0.8, 0.8, 1e-5]


def test_dcgan_generator_stays_in_its_range(dcgan: nets.Generator) -> None:
    images = dcgan(10 * torch.randn(4, 256))
    assert images.shape == (4, 3, 32, 32)
    assert images.abs().max() <= 1


def test_dcgan_generator_at_the_papers_size() -> None:
    with torch.device("meta"):
        generator = nets.dcgan_generator()
        images = generator(torch.randn(2, 256))
    assert images.shape == (2, 3, 128, 128)


def test_dcgan_initial_weights(dcgan: nets.Generator) -> None:
    for module in dcgan.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            count = module.weight.numel()
            centre = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            assert abs(module.weight.mean() - centre) < 6 * 0.02 / count**0.5
            assert abs(module.weight.std() - 0.02) < 6 * 0.02 / (2 * count) ** 0.5
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("large", [False, True])
def test_inversion_generator_gives_pixels(size: int, large: bool) -> None:
    generator = nets.inversion_generator((3, size, size), latent=16, width=8, large=large)
    images = generator(100 * torch.randn(4, 16))
    assert images.shape == (4, 3, size, size)
    assert 0 <= images.min() and images.max() <= 1
    assert generator.layers[0].out_features == (32 if large else 16) * (size // 4) ** 2


def test_inversion_generator_at_64_pixels_starts_from_16() -> None:
    with torch.device("meta"):
        generator = nets.inversion_generator((3, 64, 64))
        assert generator.layers[:2](torch.randn(2, 256)).shape == (2, 128, 16, 16)
        assert generator(torch.randn(2, 256)).shape == (2, 3, 64, 64)


def test_inversion_generator_has_the_slope_and_biases_asked_for() -> None:
    generator = nets.inversion_generator((1, 8, 8), latent=8, width=4, slope=0.1)
    assert [m.negative_slope for m in generator.modules() if isinstance(m, nn.LeakyReLU)] == [0.1, 0.1]
    biases = [m.bias is not None for m in generator.modules() if isinstance(m, nn.Conv2d)]
    assert biases == [False, False, True]


def test_reinitialise_draws_from_its_generator_alone() -> None:
    networks = [nets.inversion_generator((3, 16, 16), latent=64, width=32) for _ in range(2)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for network in networks:
        nets.reinitialise(network, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(first, second)
    nets.reinitialise(networks[1], torch.Generator().manual_seed(6))
    assert not torch.equal(networks[0].layers[0].weight, networks[1].layers[0].weight)


def test_reinitialise_draws_the_right_normal_distributions() -> None:
    generator = nets.inversion_generator((3, 16, 16))
    nets.reinitialise(generator, torch.Generator().manual_seed(0))
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            count = module.weight.numel()
            centre = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            assert abs(module.weight.mean() - centre) < 6 * 0.02 / count**0.5
            assert abs(module.weight.std() - 0.02) < 6 * 0.02 / (2 * count) ** 0.5
            assert module.bias is None or not module.bias.any()


def test_reinitialise_spares_running_statistics_and_the_storage_of_the_parameters() -> None:
    generator = nets.inversion_generator((1, 8, 8), latent=8, width=4)
    generator(torch.randn(16, 8))
    buffers = [buffer.clone() for buffer in generator.buffers()]
    parameters = [(parameter, parameter.data_ptr()) for parameter in generator.parameters()]
    nets.reinitialise(generator, torch.Generator().manual_seed(0))
    assert all(torch.equal(old, new) for old, new in zip(buffers, generator.buffers(), strict=True))
    assert all(a is p and a.data_ptr() == at for (a, at), p in zip(parameters, generator.parameters(), strict=True))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in generator.parameters())


def test_reinitialise_takes_batch_norms_without_weights_and_meta_tensors() -> None:
    nets.reinitialise(nets.upsampling_generator((1, 8, 8), latent=8, width=4), torch.Generator())
    with torch.device("meta"):
        nets.reinitialise(nets.inversion_generator((1, 8, 8), latent=8, width=4), None)


GENERATORS = {
    "upsampling": lambda: nets.upsampling_generator(image=(3, 8, 8), latent=8, width=4),
    "zskt": lambda: nets.upsampling_generator((1, 8, 8), latent=8, width=4, activation=None, affine=True),
    "dcgan": lambda: nets.dcgan_generator(image=(3, 32, 32), latent=8, width=4),
    "inversion": lambda: nets.inversion_generator(image=(3, 8, 8), latent=8, width=4),
}


@pytest.mark.parametrize("case", GENERATORS)
def test_gradient_reaches_every_parameter(case: str) -> None:
    torch.manual_seed(0)
    generator = GENERATORS[case]()
    generator(torch.randn(4, 8)).pow(3).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", GENERATORS)
def test_meta_device(case: str) -> None:
    with torch.device("meta"):
        generator = GENERATORS[case]()
        noise = torch.randn(4, 8)
    images = generator(noise)
    images.sum().backward()
    assert images.is_meta and images.shape == (4, *generator.image)


def test_same_seed_same_generator() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(GENERATORS["dcgan"]().layers[0].weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize("image", [(1, 30, 32), (1, 32, 2), (1, 0, 8)])
@pytest.mark.parametrize("build", [nets.upsampling_generator, nets.inversion_generator])
def test_upsampling_refuses_odd_sizes(build, image: tuple[int, int, int]) -> None:
    with pytest.raises(ShapeMismatch, match="multiples of 4"):
        build(image=image)


def test_dcgan_generator_refuses_odd_sizes() -> None:
    with pytest.raises(ShapeMismatch, match="multiples of 16"):
        nets.dcgan_generator(image=(3, 40, 48))


def test_wrong_noise_says_what_fits() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(batch, 8\), not \(4, 9\)"):
        GENERATORS["upsampling"]()(torch.randn(4, 9))


def test_unknown_activation() -> None:
    with pytest.raises(UnknownName, match="tanh"):
        nets.upsampling_generator(activation="tan")
