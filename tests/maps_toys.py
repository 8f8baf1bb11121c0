"""Small networks and probe images for the tests of attribution and of its graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.attribution import study
from reuselib.attribution.rooms_zoo import Zoo


def network(seed: int = 0, encoder: str = "plain") -> nn.Module:
    """A small network with a representation of its own."""
    with run.seeded(seed):
        body = nets.room_encoder((4, 6), (2, 1)) if encoder == "plain" else nets.residual_room_encoder(2, 6)
        return nets.TaskNetwork(body, nn.Flatten())


def networks(count: int = 4) -> dict[str, nn.Module]:
    return {f"net {i}": network(i, "residual" if i == 2 else "plain") for i in range(count)}


def probes(count: int = 9) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def classifier(seed: int = 0, classes: int = 4) -> nets.Classifier:
    """Three blocks of convolution, batch norm with statistics, in-place ReLU; a linear head."""
    with run.seeded(seed):
        net = nets.conv3(width=4, classes=classes, channels=3, batch_norm=True)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
            elif isinstance(module, nn.ReLU):
                module.inplace = True
    return net


class Odd(nn.Module):
    """A convolution and a norm, a ReLU unless told otherwise, then something."""

    def __init__(self, then: Callable[[Tensor], Tensor], relu: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.first, self.norm, self.then, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), then, relu

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.relu(self.norm(self.first(x))))


class TimmLike(nn.Module):
    """The methods of timm's networks; the classifier may be gone."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, classes) if classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.stem(x)).relu()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@cache
def zoo() -> Zoo:
    """The smoke scale's zoo, made once for all tests: it is kept in a folder that goes with the process."""
    made = Zoo(study.SMOKE, 0)
    made.ready()
    return made
