"""Generators: noise vectors in, images out."""

import torch
from torch import Tensor, nn

from reuselib.errors import ShapeMismatch, unknown

ACTIVATIONS: dict[str | None, type[nn.Module]] = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, None: nn.Identity}


class Generator(nn.Module):
    """A stack of layers from noise to images.

    Attributes:
        latent: length of the noise vector.
        image: shape (C, H, W) of one image.
    """

    def __init__(self, layers: nn.Sequential, latent: int, image: tuple[int, int, int]) -> None:
        """Keep the layers with the shapes of their two ends."""
        super().__init__()
        self.layers = layers
        self.latent = latent
        self.image = tuple(image)

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise (B, latent) to images (B, C, H, W).

        Raises:
            ShapeMismatch: the noise is not (B, latent).
        """
        if noise.ndim != 2 or noise.shape[1] != self.latent:
            raise ShapeMismatch(
                f"this generator takes noise of shape (batch, {self.latent}), not {tuple(noise.shape)}. "
                "Draw it with torch.randn(batch, generator.latent)."
            )
        return self.layers(noise)


def upsampling_generator(
    image: tuple[int, int, int] = (1, 32, 32),
    latent: int = 100,
    width: int = 64,
    activation: str | None = "tanh",
    affine: bool = False,
    batch_norm_eps: float = 1e-5,
) -> Generator:
    """Build a generator from nearest-neighbour upsampling and 3x3 convolutions.

    The last batch norm gives every batch zero mean and unit variance per channel, which is where normalised
    images live.

    Args:
        image: shape (C, H, W); H and W are multiples of 4.
        latent: length of the noise vector.
        width: channels before the last convolution; twice as many before that.
        activation: what follows the last convolution: "tanh", "sigmoid" or None (as in ZSKT).
        affine: let the last batch norm learn a scale and a shift (as in ZSKT).
        batch_norm_eps: epsilon of the two batch norms after convolutions; DAFL's code has 0.8 there.

    Returns:
        A Generator (1,049,985 parameters by default; 2,329,091 with image=(3, 32, 32) and latent=256).

    Raises:
        ShapeMismatch: H or W is no multiple of 4.
        UnknownName: the activation has no such name.

    Source: DFAD, official code, the generator of the 32x32 experiments.
    """
    if activation not in ACTIVATIONS:
        raise unknown("activation", str(activation), [str(name) for name in ACTIVATIONS])
    channels, height, side = _divided(image, 4)
    wide = 2 * width
    layers = nn.Sequential(
        nn.Linear(latent, wide * height * side),
        nn.Unflatten(1, (wide, height, side)),
        nn.BatchNorm2d(wide),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.BatchNorm2d(wide, eps=batch_norm_eps),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, width, 3, padding=1),
        nn.BatchNorm2d(width, eps=batch_norm_eps),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, channels, 3, padding=1),
        ACTIVATIONS[activation](),
        nn.BatchNorm2d(channels, affine=affine),
    )
    return Generator(layers, latent, image)


def dcgan_generator(image: tuple[int, int, int] = (3, 128, 128), latent: int = 256, width: int = 64) -> Generator:
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
    channels, height, side = _divided(image, 16)
    widths = (8 * width, 4 * width, 2 * width, width, width)
    layers: list[nn.Module] = [
        nn.Linear(latent, widths[0] * height * side),
        nn.Unflatten(1, (widths[0], height, side)),
        nn.BatchNorm2d(widths[0]),
    ]
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2),
        ]
    layers += [nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()]
    generator = Generator(nn.Sequential(*layers), latent, image)
    reinitialise(generator)
    return generator


def inversion_generator(
    image: tuple[int, int, int] = (3, 32, 32),
    latent: int = 256,
    width: int = 64,
    large: bool = False,
    slope: float = 0.2,
) -> Generator:
    """Build the generator of model inversion: pixels in [0, 1], to be normalised by whoever feeds a classifier.

    Args:
        image: shape (C, H, W); H and W are multiples of 4.
        latent: length of the noise vector.
        width: channels before the last convolution; twice as many before that.
        large: start from four times the width in place of twice, as CMI's code does for the other methods.
        slope: of the leaky ReLUs below zero.

    Returns:
        A Generator (2,328,899 parameters by default; 4,581,955 if large, 8,776,259 with latent=512 too). CMI draws
        its weights afresh for every batch, with :func:`reinitialise`.

    Raises:
        ShapeMismatch: H or W is no multiple of 4.

    Source: CMI, official code.
    """
    channels, height, side = _divided(image, 4)
    start, wide = (4 if large else 2) * width, 2 * width
    layers = nn.Sequential(
        nn.Linear(latent, start * height * side),
        nn.Unflatten(1, (start, height, side)),
        nn.BatchNorm2d(start),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(start, wide, 3, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.LeakyReLU(slope),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(slope),
        nn.Conv2d(width, channels, 3, padding=1),
        nn.Sigmoid(),
    )
    return Generator(layers, latent, image)


def reinitialise(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw all weights afresh: N(0, 0.02) for linear and convolutional layers, N(1, 0.02) for batch norms, biases 0.

    The running statistics of batch norms stay, as in CMI's code. Every other kind of layer stays too.

    Args:
        network: changed in place.
        generator: of the draws, on the network's device; None takes the global one.

    Source: DCGAN, Radford et al. 2016.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            if module.weight is not None:
                nn.init.normal_(module.weight, float(isinstance(module, nn.BatchNorm2d)), 0.02, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _divided(image: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    """Give (C, H / factor, W / factor), or raise ShapeMismatch where that leaves a remainder."""
    channels, height, width = image
    if height < factor or width < factor or height % factor or width % factor:
        raise ShapeMismatch(
            f"this generator makes images whose height and width are multiples of {factor}, "
            f"not {height}x{width}. Ask for such a size and resize the image set to it."
        )
    return channels, height // factor, width // factor
