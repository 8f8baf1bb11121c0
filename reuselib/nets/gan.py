"""The two players of DCGAN for square images of 8, 16, 32, 64 … pixels: the size decides how many layers they have."""

from __future__ import annotations

from torch import Tensor, nn

from reuselib.errors import ShapeMismatch, unknown
from reuselib.nets.generators import Generator

NORMALISATIONS = ("batch", "group", None)


class Discriminator(nn.Module):
    """A stack of layers from images to one logit each.

    Attributes:
        image: shape (C, H, W) of one image.
    """

    def __init__(self, layers: nn.Sequential, image: tuple[int, int, int]) -> None:
        """Keep the layers with the shape of their images."""
        super().__init__()
        self.layers = layers
        self.image = tuple(image)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B,): large for real ones.

        Raises:
            ShapeMismatch: the images have another shape.
        """
        if tuple(images.shape[1:]) != self.image:
            raise ShapeMismatch(
                f"this discriminator takes images of shape (batch, {', '.join(map(str, self.image))}), not "
                f"{tuple(images.shape)}. Build it with image={tuple(images.shape[1:])}, or load the images in its size."
            )
        return self.layers(images).flatten()


def deconvolution_generator(
    image: tuple[int, int, int] = (3, 64, 64), latent: int = 100, width: int = 128
) -> Generator:
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
    layers: list[nn.Module] = [nn.Unflatten(1, (latent, 1, 1)), nn.ConvTranspose2d(latent, widths[0], 4)]
    for inputs, outputs in zip(widths, [*widths[1:], image[0]], strict=True):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
    generator = Generator(nn.Sequential(*layers, nn.Tanh()), latent, image)
    generator.apply(_small_weights)
    return generator


def dcgan_discriminator(
    image: tuple[int, int, int] = (3, 64, 64), width: int = 128, norm: str | None = "group", groups: int = 32
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
    if norm not in NORMALISATIONS:
        raise unknown("normalisation", str(norm), map(str, NORMALISATIONS))
    if norm == "group" and 2 * width % groups:
        raise ShapeMismatch(f"{groups} groups do not divide {2 * width} channels. Choose groups that divide them.")
    widths = [width * 2**stage for stage in range(_doublings(image))]
    layers: list[nn.Module] = [nn.Conv2d(image[0], width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *_normalisation(norm, outputs, groups)]
        layers += [nn.LeakyReLU(0.2)]
    discriminator = Discriminator(nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4)), image)
    discriminator.apply(_small_weights)
    return discriminator


def _normalisation(norm: str | None, channels: int, groups: int) -> list[nn.Module]:
    if norm is None:
        return []
    return [nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(groups, channels)]


def _small_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _doublings(image: tuple[int, int, int]) -> int:
    """How often 4 pixels are doubled to give the image's side."""
    _, height, side = image
    doublings = side.bit_length() - 3
    if height != side or doublings < 1 or side != 4 * 2**doublings:
        raise ShapeMismatch(
            f"these networks take square images of 8, 16, 32, 64 … pixels, not {height}x{side}. "
            "Resize the image set to such a size."
        )
    return doublings
