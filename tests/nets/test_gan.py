"""The two players of DCGAN: sizes, shapes, initial weights, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ShapeMismatch, UnknownName

SIZES = [8, 16, 32, 64]
NORMS = ["batch", "group", None]
BUILDERS: list[Callable[..., nn.Module]] = [nets.deconvolution_generator, nets.dcgan_discriminator]


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_players_fit_each_other_at_every_size(size: int, channels: int) -> None:
    image = (channels, size, size)
    generator = nets.deconvolution_generator(image, latent=5, width=4)
    discriminator = nets.dcgan_discriminator(image, width=4, groups=2)
    images = generator(10 * torch.randn(3, 5))
    assert images.shape == (3, *image) and images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    assert generator.image == discriminator.image == image and generator.latent == 5


@pytest.mark.parametrize(
    ("size", "channels"), [(8, [4, 1]), (16, [8, 4, 1]), (32, [16, 8, 4, 1]), (64, [32, 16, 8, 4, 1])]
)
def test_halving_the_size_drops_the_widest_layer(size: int, channels: list[int]) -> None:
    generator = nets.deconvolution_generator((1, size, size), latent=5, width=4)
    discriminator = nets.dcgan_discriminator((1, size, size), width=4, groups=2)
    assert [layer.out_channels for layer in convolutions(generator)] == channels
    assert [layer.in_channels for layer in convolutions(discriminator)] == channels[::-1]


def test_the_papers_size_has_the_papers_layers() -> None:
    with torch.device("meta"):
        generator, discriminator = nets.deconvolution_generator(), nets.dcgan_discriminator()
        images = generator(torch.randn(2, 100))
        assert images.shape == (2, 3, 64, 64) and discriminator(images).shape == (2,)
    assert nets.parameter_count(generator) == 12_660_355
    assert nets.parameter_count(discriminator) == 11_038_081
    made, judged = convolutions(generator), convolutions(discriminator)
    assert [(m.in_channels, m.out_channels) for m in made] == [
        (100, 1024),
        (1024, 512),
        (512, 256),
        (256, 128),
        (128, 3),
    ]
    assert [(m.in_channels, m.out_channels) for m in judged] == [
        (3, 128),
        (128, 256),
        (256, 512),
        (512, 1024),
        (1024, 1),
    ]
    for layers in (made[::-1], judged):
        assert [(m.kernel_size, m.stride, m.padding) for m in layers] == [((4, 4), (2, 2), (1, 1))] * 4 + [
            ((4, 4), (1, 1), (0, 0))
        ]
        assert all(m.bias is not None for m in layers)
    assert [m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 4
    assert [m.num_features for m in generator.modules() if isinstance(m, nn.BatchNorm2d)] == [1024, 512, 256, 128]
    assert isinstance(generator.layers[-1], nn.Tanh)


@pytest.mark.parametrize("norm", NORMS)
def test_all_but_the_first_and_the_last_layer_are_normalised(norm: str | None) -> None:
    discriminator = nets.dcgan_discriminator((1, 32, 32), width=4, norm=norm, groups=2)
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm}
    found = [module for module in discriminator.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    assert len(found) == (0 if norm is None else 2)
    assert all(type(module) is kinds[norm] for module in found)
    assert all(module.num_groups == 2 for module in found if isinstance(module, nn.GroupNorm))
    assert [type(module) for module in discriminator.layers[:2]] == [nn.Conv2d, nn.LeakyReLU]
    assert isinstance(discriminator.layers[-1], nn.Conv2d)


@pytest.mark.parametrize(("norm", "coupled"), [("batch", True), ("group", False), (None, False)])
def test_only_batch_normalisation_couples_the_images_of_a_batch(norm: str | None, coupled: bool) -> None:
    discriminator = nets.dcgan_discriminator((1, 16, 16), width=4, norm=norm, groups=2).double()
    images = torch.randn(5, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images)[0], images)
    assert gradient[0].any() and gradient[1:].any() == coupled


@pytest.mark.parametrize("norm", NORMS)
def test_one_image_gives_one_logit(norm: str | None) -> None:
    discriminator = nets.dcgan_discriminator((3, 16, 16), width=4, norm=norm, groups=2)
    assert discriminator(torch.randn(1, 3, 16, 16)).shape == (1,)


@pytest.mark.parametrize("build", BUILDERS)
def test_initial_weights(build: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    network = build((3, 32, 32), width=32)
    for module in convolutions(network):
        count = module.weight.numel()
        assert abs(module.weight.mean()) < 6 * 0.02 / count**0.5
        assert abs(module.weight.std() - 0.02) < 6 * 0.02 / (2 * count) ** 0.5
        assert not module.bias.any()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            assert (module.weight == 1).all() and not module.bias.any()


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_reaches_every_parameter(norm: str | None) -> None:
    torch.manual_seed(0)
    generator = nets.deconvolution_generator((1, 16, 16), latent=5, width=4)
    discriminator = nets.dcgan_discriminator((1, 16, 16), width=4, norm=norm, groups=2)
    discriminator(generator(torch.randn(4, 5))).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_both_are_found_by_name_and_repeat_with_a_seed() -> None:
    for name in ("deconvolution_generator", "dcgan_discriminator"):
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(nets.build(name, image=(1, 16, 16), width=16).state_dict())
        for first, second in zip(*(state.values() for state in states), strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("image", [(1, 4, 4), (1, 12, 12), (1, 28, 28), (3, 48, 48), (1, 16, 32), (1, 0, 0), (1, 7, 7)])
@pytest.mark.parametrize("build", BUILDERS)
def test_other_sizes_are_refused(build: Callable[..., nn.Module], image: tuple[int, int, int]) -> None:
    with pytest.raises(ShapeMismatch, match=f"8, 16, 32, 64 … pixels, not {image[1]}x{image[2]}.*Resize"):
        build(image)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 32, 32), (1, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    discriminator = nets.dcgan_discriminator((1, 16, 16), width=4, groups=2)
    with pytest.raises(ShapeMismatch, match=r"\(batch, 1, 16, 16\), not .*Build it with"):
        discriminator(torch.randn(shape))


def test_noise_of_another_length_is_refused() -> None:
    generator = nets.deconvolution_generator((1, 16, 16), latent=8, width=4)
    with pytest.raises(ShapeMismatch, match=r"\(batch, 8\), not \(4, 9\)"):
        generator(torch.randn(4, 9))


def test_unknown_normalisations_and_unfitting_groups_are_refused() -> None:
    with pytest.raises(UnknownName, match="normalisation 'grup'. Did you mean 'group'"):
        nets.dcgan_discriminator((1, 16, 16), width=4, norm="grup")
    with pytest.raises(ShapeMismatch, match="32 groups do not divide 8 channels"):
        nets.dcgan_discriminator((1, 16, 16), width=4, groups=32)
