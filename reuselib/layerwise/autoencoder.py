"""Feature amalgamation: the features of several teachers compressed into one code, layer by layer.

An auto-encoder is one affine map there and one back, so that its optimum is known in closed form: the principal
components of the teachers' concatenated channels, every pixel of every image counting as one vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reuselib.data import ImageSet
from reuselib.layerwise.losses import principal_components, rows
from reuselib.layerwise.teachers import Teachers
from reuselib.run.method import Network

Pair = tuple[Tensor, Tensor]
"""What an auto-encoder was given, and what it gives back."""
Entering = Sequence[Sequence[int]]
"""The teachers that each auto-encoder takes in beside the code of the one before; see :func:`incremental`."""


# --- networks --------------------------------------------------------------------------------------------------------


def initialise(network: Network) -> Network:
    """Draw every convolution and linear layer anew: weights uniform with variance 1 / fan-in, biases zero.

    Returns:
        The network.

    Source: v0.1 of the official code, for all that is new: auto-encoders, adaptation layers and the student.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = (3 / module.weight[0].numel()) ** 0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def affine(inputs: int, outputs: int, spatial: bool) -> nn.Conv2d | nn.Linear:
    """An affine map of channels: a 1x1 convolution for maps, a linear layer for vectors; newly initialised."""
    return initialise(nn.Conv2d(inputs, outputs, 1) if spatial else nn.Linear(inputs, outputs))


class AutoEncoder(nn.Module):
    """One affine map to a code and one back, without a nonlinearity.

    Args:
        inputs: C, channels of the features.
        hidden: channels of the code.
        spatial: whether the features are maps.
    """

    def __init__(self, inputs: int, hidden: int, spatial: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = affine(inputs, hidden, spatial), affine(hidden, inputs, spatial)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Give the code and the reconstruction."""
        code = self.encoder(features)
        return code, self.decoder(code)

    @torch.no_grad()
    def solve(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the optimum for features of this mean (C,) and covariance (C, C): their principal components."""
        _, components = principal_components(covariance, len(self.encoder.weight))
        pairs = ((self.encoder, components, -components @ mean), (self.decoder, components.T, mean))
        for layer, weight, bias in pairs:
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(bias)  # type: ignore[union-attr]


class Amalgam(nn.Module):
    """The features of all teachers at one layer in one code: at once, or one teacher after the other.

    Args:
        widths: channels of each teacher's features.
        hidden: channels of the code, in every step.
        spatial: whether the features are maps.
        entering: the teachers that each auto-encoder takes in beside the code of the one before.
    """

    def __init__(self, widths: Sequence[int], hidden: int, spatial: bool, entering: Entering) -> None:
        super().__init__()
        self.widths, self.hidden, self.spatial = tuple(widths), hidden, spatial
        self.entering = tuple(tuple(teachers) for teachers in entering)
        self.autoencoders: Any = nn.ModuleList(
            AutoEncoder(sum(self._sizes(step)), hidden, spatial) for step in range(len(self.entering))
        )

    def forward(self, features: Sequence[Tensor], reconstruct: bool = False) -> tuple[Tensor, list[Pair]]:
        """Give the code and, if ``reconstruct``, each auto-encoder's input and output.

        Args:
            features: of each teacher, (N, C_t, H, W) or (N, C_t).
            reconstruct: whether the decoders run too. Each auto-encoder is independent: the code that one takes over
                from the one before carries no gradient.

        Equation: `layerwise-incremental`.
        """
        code, pairs = features[0], []  # the first step has no code to take over
        for step, autoencoder in enumerate(self.autoencoders):
            given = self.given(features, step, code.detach())
            if reconstruct:
                code, returned = autoencoder(given)
                pairs.append((given, returned))
            else:
                code = autoencoder.encoder(given)
        return code, pairs

    def given(self, features: Sequence[Tensor], step: int, code: Tensor) -> Tensor:
        """What an auto-encoder takes in: the code of the one before, if any, and its teachers' features."""
        entering = [features[teacher] for teacher in self.entering[step]]
        return torch.cat([code, *entering] if step else entering, 1)

    def decode(self, code: Tensor) -> list[Tensor]:
        """Give each teacher's features back, the auto-encoders run from the last to the first."""
        found: dict[int, Tensor] = {}
        for step, autoencoder in reversed(list(enumerate(self.autoencoders))):
            parts = list(autoencoder.decoder(code).split(self._sizes(step), 1))
            code = parts.pop(0) if step else code
            found |= zip(self.entering[step], parts, strict=True)
        return [found[teacher] for teacher in range(len(self.widths))]

    def _sizes(self, step: int) -> list[int]:
        before = [self.hidden] if step else []
        return before + [self.widths[teacher] for teacher in self.entering[step]]


def direct(teachers: int) -> Entering:
    """All teachers into one auto-encoder (DFA)."""
    return (tuple(range(teachers)),)


def incremental(order: Sequence[int]) -> Entering:
    """Two teachers first, then the result with the next one, and so on, in this order (IFA).

    A teacher can be added later without touching the earlier auto-encoders. One or two teachers: as :func:`direct`.
    """
    return (tuple(sorted(order[:2])), *((teacher,) for teacher in order[2:]))


class Encoders(nn.Module):
    """The amalgams of all layers but the last.

    Attributes:
        layers: for each of these layers, its name in each teacher.
        amalgams: one for each.
    """

    def __init__(self, layers: Sequence[Sequence[str]], amalgams: Sequence[Amalgam]) -> None:
        super().__init__()
        self.layers = [tuple(names) for names in layers]
        self.amalgams: Any = nn.ModuleList(amalgams)

    def forward(
        self, features: Sequence[Sequence[Tensor]], reconstruct: bool = False
    ) -> tuple[list[Tensor], list[list[Pair]]]:
        """Give the codes and the pairs of all layers, from the features of each layer of each teacher."""
        results = [amalgam(each, reconstruct) for amalgam, each in zip(self.amalgams, features, strict=True)]
        return [code for code, _ in results], [pairs for _, pairs in results]

    def decode(self, codes: Sequence[Tensor]) -> list[list[Tensor]]:
        """Give the features of each layer of each teacher back."""
        return [amalgam.decode(code) for amalgam, code in zip(self.amalgams, codes, strict=True)]


# --- the closed form -------------------------------------------------------------------------------------------------


class Moments:
    """Mean and covariance of vectors that come batch by batch, summed in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = self.products = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Count in maps (N, C, H, W), each pixel a vector, or vectors (N, C)."""
        vectors = rows(features)
        vectors = (vectors.cpu() if vectors.is_mps else vectors).double()  # Apple's GPUs have no double precision
        self.count += len(vectors)
        self.sums, self.products = self.sums + vectors.sum(0), self.products + vectors.T @ vectors

    def solution(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and biased covariance (C, C), in double precision."""
        mean = self.sums / self.count
        return mean, self.products / self.count - mean.outer(mean)


@torch.no_grad()
def solve(encoders: Encoders, teachers: Teachers, images: ImageSet, batch: int = 250) -> None:
    """Set all encoders to their optimum on these images, in closed form: principal components instead of training.

    Args:
        encoders: of the teachers' layers; changed in place.
        teachers: left as they were.
        images: unlabelled, on the device of the networks.
        batch: images at a time.
    """
    amalgams: list[Amalgam] = list(encoders.amalgams)
    for step in range(max((len(amalgam.autoencoders) for amalgam in amalgams), default=0)):
        moments = [Moments() for _ in amalgams]
        for x, _ in images.batches(batch):
            features, _ = teachers(x, encoders.layers)
            for amalgam, each, moment in zip(amalgams, features, moments, strict=True):
                code = each[0]
                for before, autoencoder in enumerate(amalgam.autoencoders[:step]):
                    code = autoencoder.encoder(amalgam.given(each, before, code))
                moment.add(amalgam.given(each, step, code))
        for amalgam, moment in zip(amalgams, moments, strict=True):
            amalgam.autoencoders[step].solve(*moment.solution())
