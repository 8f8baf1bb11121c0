"""Generators, noise vectors in and images out, and the discriminator that DCGAN sets against one."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import BadValue, ShapeMismatch
from reuselib.nets.layers import Shape, architecture

ACTIVATIONS: dict[str | None, type[nn.Module]] = {"tanh": nn.Tanh, None: nn.Identity}
NORMALISATIONS: dict[str | None, Callable[[int, int], list[nn.Module]]] = {
    "batch": lambda channels, groups: [nn.BatchNorm2d(channels)],
    "group": lambda channels, groups: [GroupNorm(groups, channels)],
    None: lambda channels, groups: [],
}


class Generator(nn.Module):
    """A stack of layers from noise to images.

    Attributes:
        latent: length of the noise vector.
        image: shape (C, H, W) of one image.
    """

    def __init__(self, layers: nn.Sequential, latent: int, image: Shape) -> None:
        """Keep the layers with the shapes of their two ends."""
        super().__init__()
        self.layers, self.latent, self.image = layers, latent, tuple(image)

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise (B, latent) to images (B, C, H, W).

        Raises:
            ShapeMismatch: the noise is not (B, latent).
        """
        if noise.ndim != 2 or noise.shape[1] != self.latent:
            wanted = f"this generator takes noise of shape (batch, {self.latent}), not {tuple(noise.shape)}"
            raise ShapeMismatch(f"{wanted}. Draw it with torch.randn(batch, generator.latent).")
        return self.layers(noise)


def latent_of(generator: nn.Module) -> int:
    """The length of the noise that a generator takes; BadValue for a module that does not say it."""
    if not isinstance(latent := getattr(generator, "latent", None), int):
        wrap = "Wrap it: nets.Generator(nn.Sequential(generator), latent=100, image=(3, 32, 32))"
        raise BadValue(f"{type(generator).__name__} does not say how long its noise is. {wrap}.")
    return latent


@architecture
def upsampling_generator(
    image: Shape = (1, 32, 32),
    latent: int = 100,
    width: int = 64,
    activation: str | None = "tanh",
    affine: bool = False,
) -> Generator:
    """Build a generator from nearest-neighbour upsampling and 3x3 convolutions.

    The last batch norm gives every batch zero mean and unit variance per channel, which is where normalised
    images live.

    Args:
        image: shape (C, H, W); H and W are multiples of 4.
        latent: length of the noise vector.
        width: channels before the last convolution; twice as many before that.
        activation: what follows the last convolution: "tanh" or None (as in ZSKT).
        affine: let the last batch norm learn a scale and a shift (as in ZSKT).

    Returns:
        A Generator (1,049,985 parameters by default; 2,329,091 with image=(3, 32, 32) and latent=256).

    Raises:
        ShapeMismatch: H or W is no multiple of 4.
        UnknownName: the activation has no such name.

    Example:
        >>> import torch
        >>> from reuselib import nets
        >>> nets.upsampling_generator(image=(3, 32, 32), latent=64, width=8)(torch.randn(2, 64)).shape
        torch.Size([2, 3, 32, 32])

    Source: DFAD, official code, the generator of the 32x32 experiments.
    """
    checks.known("activation", ACTIVATIONS, activation)
    body = _upsampled(image, latent, (2 * width, 2 * width, width), bias=True)
    normalised = ACTIVATIONS[activation](), nn.BatchNorm2d(image[0], affine=affine)
    return Generator(nn.Sequential(*body, *normalised), latent, image)


@architecture
def dcgan_generator(image: Shape = (3, 128, 128), latent: int = 256, width: int = 64) -> Generator:
    """Build a generator from four transposed convolutions, with values in [-1, 1].

    Args:
        image: shape (C, H, W); H and W are multiples of 16.
        latent: length of the noise vector.
        width: channels before the last convolution; eight times as many at the start.

    Returns:
        A Generator (11,243,203 parameters by default). Weights start from N(0, 0.02), those of batch norms
        from N(1, 0.02), biases from 0.

    Raises:
        ShapeMismatch: H or W is no multiple of 16.

    Source: DFAD, official code, the generator of the 128x128 experiments.
    """
    layers = _projected(image, latent, 8 * width, 16)
    for inputs, outputs in pairwise((8 * width, 4 * width, 2 * width, width, width)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(width, image[0], 3, padding=1), nn.Tanh()]
    generator = Generator(nn.Sequential(*layers), latent, image)
    reinitialise(generator)
    return generator


@architecture
def inversion_generator(
    image: Shape = (3, 32, 32), latent: int = 256, width: int = 64, large: bool = False
) -> Generator:
    """Build the generator of model inversion: pixels in [0, 1], to be normalised by whoever feeds a classifier.

    Args:
        image: shape (C, H, W); H and W are multiples of 4.
        latent: length of the noise vector.
        width: channels before the last convolution; twice as many before that.
        large: start from four times the width in place of twice, as CMI's code does for the other methods.

    Returns:
        A Generator (2,328,899 parameters by default; 4,581,955 if large, 8,776,259 with latent=512 too). CMI draws
        its weights afresh for every batch, with :func:`reinitialise`.

    Raises:
        ShapeMismatch: H or W is no multiple of 4.

    Source: CMI, official code.
    """
    body = _upsampled(image, latent, ((4 if large else 2) * width, 2 * width, width), bias=False)
    return Generator(nn.Sequential(*body, nn.Sigmoid()), latent, image)


def _upsampled(image: Shape, latent: int, widths: tuple[int, int, int], bias: bool) -> list[nn.Module]:
    """Noise to a quarter of the image's size, then twice nearest-neighbour upsampling and a 3x3 convolution."""
    layers = _projected(image, latent, widths[0], 4)
    for inputs, outputs in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)]
        layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return [*layers, nn.Conv2d(widths[-1], image[0], 3, padding=1)]


def _projected(image: Shape, latent: int, width: int, factor: int) -> list[nn.Module]:
    """Noise to maps (B, width, H / factor, W / factor), or ShapeMismatch where that leaves a remainder."""
    _, height, side = image
    if height < factor or side < factor or height % factor or side % factor:
        wanted = f"this generator makes images whose height and width are multiples of {factor}, not {height}x{side}"
        raise ShapeMismatch(f"{wanted}. Ask for such a size and resize the image set to it.")
    maps = (width, height // factor, side // factor)
    return [nn.Linear(latent, math.prod(maps)), nn.Unflatten(1, maps), nn.BatchNorm2d(width)]


def reinitialise(network: nn.Module, generator: torch.Generator | None = None, norms: bool = True) -> None:
    """Draw all weights afresh: N(0, 0.02) for linear and convolutional layers, N(1, 0.02) for batch norms, biases 0.

    The running statistics of batch norms stay, as in CMI's code. Every other kind of layer stays too.

    Args:
        network: changed in place.
        generator: of the draws, on the network's device; None takes the global one.
        norms: whether batch norms are drawn too.

    Source: DCGAN, Radford et al. 2016.
    """
    for module in network.modules():
        norm = isinstance(module, nn.BatchNorm2d)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d) and (norms or not norm):
            if module.weight is not None:
                nn.init.normal_(module.weight, float(norm), 0.02, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# --- DCGAN: for square images of 8, 16, 32, 64 … pixels, whose size decides how many layers there are -----------------


class GroupNorm(nn.GroupNorm):
    """Group normalisation in the kernel that is quick on CPUs: with few channels a group, channels last is slow."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps (B, C, H, W), whose memory format stays; small ones are not worth the copies."""
        last = maps.is_contiguous(memory_format=torch.channels_last)
        if maps.device.type != "cpu" or not last or maps[0, 0].numel() < 64:
            return super().forward(maps)
        return super().forward(maps.contiguous()).contiguous(memory_format=torch.channels_last)


class Projection(nn.ConvTranspose2d):
    """A transposed convolution of maps of one pixel, computed as the matrix product that it is."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, C, 1, 1) to (B, outputs, kernel, kernel), channels last."""
        height, width = self.kernel_size
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat(height * width)
        spread = nn.functional.linear(maps.flatten(1), weight, bias)
        return spread.unflatten(1, (height, width, self.out_channels)).permute(0, 3, 1, 2)


class Discriminator(nn.Module):
    """A stack of layers from images to one logit each.

    Attributes:
        image: shape (C, H, W) of one image.
    """

    def __init__(self, layers: nn.Sequential, image: Shape) -> None:
        """Keep the layers with the shape of their images."""
        super().__init__()
        self.layers, self.image = layers, tuple(image)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B,): large for real ones.

        Raises:
            ShapeMismatch: the images have another shape.
        """
        if (found := tuple(images.shape[1:])) != self.image:
            wanted = f"this discriminator takes images of shape {self.image}, not {found}"
            raise ShapeMismatch(f"{wanted}. Build it with image={found}, or load the images in its size.")
        return self.layers(images).flatten()


@architecture
def deconvolution_generator(image: Shape = (3, 64, 64), latent: int = 100, width: int = 128) -> Generator:
    """Build DCGAN's generator: transposed convolutions from 1x1 over 4x4, doubling up to the image, then tanh.

    For 64 pixels the channels are 8w, 4w, 2w, w and the image's; each halving of the size drops the widest layer.

    Args:
        image: shape (C, H, W); H = W is a power of two from 8 on.
        latent: length of the noise vector.
        width: channels before the last layer.

    Returns:
        A Generator with values in [-1, 1] (12,660,355 parameters by default). Weights of convolutions start from
        N(0, 0.02), biases from 0.

    Raises:
        ShapeMismatch: the image has no such size.

    Source: OSGAN, official code (width 128, latent 100); small: width 64 and latent 32 for 16 pixels.
    """
    stages = _doublings(image)
    widths = [width * 2**stage for stage in reversed(range(stages))]
    first = Projection if latent > 64 else nn.ConvTranspose2d  # a small one gains little, and rounds as recorded
    layers: list[nn.Module] = [nn.Unflatten(1, (latent, 1, 1)), first(latent, widths[0], 4)]
    for inputs, outputs in pairwise((*widths, image[0])):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
    generator = Generator(nn.Sequential(*layers, nn.Tanh()), latent, image)
    reinitialise(generator, norms=False)
    return generator


@architecture
def dcgan_discriminator(
    image: Shape = (3, 64, 64), width: int = 128, norm: str | None = "group", groups: int = 32
) -> Discriminator:
    """Build DCGAN's discriminator: convolutions that halve the image down to 4x4, then one logit.

    For 64 pixels the channels are w, 2w, 4w, 8w and 1; each halving of the size drops the widest layer.

    Args:
        image: shape (C, H, W); H = W is a power of two from 8 on.
        width: channels after the first layer.
        norm: what normalises all but the first and the last layer: "batch", "group" or None. Batch normalisation
            couples the images of a batch, which one-stage training of asymmetric losses does not bear.
        groups: of the group normalisation; divides twice the width.

    Returns:
        A Discriminator (11,038,081 parameters by default), initialised like the generator.

    Raises:
        ShapeMismatch: the image has no such size, or the groups do not divide the channels.
        UnknownName: there is no such normalisation.

    Source: OSGAN, official code (width 128, 32 groups); small: width 32 and 8 groups for 16 pixels.
    """
    checks.known("normalisation", NORMALISATIONS, norm)
    if norm == "group" and 2 * width % groups:
        raise ShapeMismatch(f"{groups} groups do not divide {2 * width} channels. Choose groups that divide them.")
    widths = [width * 2**stage for stage in range(_doublings(image))]
    layers: list[nn.Module] = [nn.Conv2d(image[0], width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *NORMALISATIONS[norm](outputs, groups)]
        layers += [nn.LeakyReLU(0.2)]
    discriminator = Discriminator(nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4)), image)
    reinitialise(discriminator, norms=False)
    return discriminator


def _doublings(image: Shape) -> int:
    """How often 4 pixels are doubled to give the image's side."""
    _, height, side = image
    doublings = side.bit_length() - 3
    if height != side or doublings < 1 or side != 4 * 2**doublings:
        wanted = f"these networks take square images of 8, 16, 32, 64 … pixels, not {height}x{side}"
        raise ShapeMismatch(f"{wanted}. Resize the image set to such a size.")
    return doublings
