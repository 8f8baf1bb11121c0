"""Folding adapters away: the plain student computes what the chain of scions computes."""

from __future__ import annotations

from collections.abc import Callable

import little
import players
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock as VisionBlock

from reuselib import nets
from reuselib.errors import ReuseError
from reuselib.netgraft import Scion, entries, fold, make_scions
from reuselib.nets.resnet import BasicBlock

Pair = tuple[nn.Module, nn.Module]


def moved(network: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights as after training, biases that are not zero, and double precision."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for value, low in ((module.running_mean, -1), (module.running_var, 0.5), (module.weight.data, 0.5)):
                value.uniform_(low, low + 1)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.3)
    return network.double().eval()


def grafted(pair: Pair, images: Tensor, bias: bool = False) -> tuple[nn.Module, list[Scion]]:
    """The student and its scions, with biases that are not zero."""
    teacher, student = (moved(network) for network in pair)
    scions = make_scions(teacher, student, images, bias=bias)
    for parameter in (each for scion in scions for each in scion.adapters()):
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return student, [scion.eval() for scion in scions]


def chain(scions: list[Scion], images: Tensor) -> Tensor:
    return nn.Sequential(*scions)(images)


def pixels(count: int = 5) -> Tensor:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64)


def vision(width: int) -> nn.Module:
    """A block of torchvision's in the middle."""
    beside = nn.Sequential(nn.Conv2d(width, width + 1, 1, 2, bias=False), nn.BatchNorm2d(width + 1))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width + 1, 4))
    return nn.Sequential(nn.Conv2d(1, width, 3), VisionBlock(width, width + 1, 2, beside), last)


def linear(width: int) -> nn.Module:
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
    return nn.Sequential(first, nn.Sequential(nn.Dropout(), nn.Linear(width, 4)))


def pooling(width: int) -> nn.Module:
    """Blocks that begin with what adapters pass, and pad nothing."""
    first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
    second = nn.Sequential(nn.Identity(), nn.AvgPool2d(2), nn.Dropout2d(), nn.Conv2d(width, width + 2, 3), nn.ReLU())
    return nn.Sequential(first, second, nn.Sequential(nn.Sequential(nn.Flatten()), nn.Linear(4 * (width + 2), 4)))


PAIRS: dict[str, Callable[[], Pair]] = {
    "plain VGG": lambda: (little.teacher(), little.student()),
    "convolutions with batch norm": lambda: (nets.conv3(5, 4, batch_norm=True), nets.conv3(3, 4, batch_norm=True)),
    "residual": lambda: (nets.small_resnet((1, 2, 1), 4, 4), nets.small_resnet((2, 1, 1), 3, 4)),
    "torchvision's blocks": lambda: (vision(5), vision(3)),
    "linear layers": lambda: (linear(7), linear(5)),
    "pools, identities and flattening first": lambda: (pooling(6), pooling(3)),
}


@pytest.mark.parametrize(
    ("name", "bias"), [*((name, False) for name in PAIRS), *((name, True) for name in list(PAIRS)[-2:])]
)
def test_where_nothing_is_padded_or_without_biases_the_folded_student_is_exact_and_a_copy(
    name: str, bias: bool
) -> None:
    images = pixels()
    student, scions = grafted(PAIRS[name](), images, bias)
    before, expected = players.state(student), chain(scions, images)
    folded = fold(student, scions).eval()
    assert expected.std() > 1e-6
    torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-12)
    assert (folded(images) - student(images)).abs().max() > 1e-3 * expected.abs().max()
    assert {k: v.shape for k, v in folded.state_dict().items()} == {k: v.shape for k, v in student.state_dict().items()}
    assert [type(module) for module in folded.modules()] == [type(module) for module in student.modules()]
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert not list(players.differences(before, players.state(student))), "what is folded is a copy"
    assert all(parameter.requires_grad for parameter in folded.parameters())


def test_with_biases_the_interior_of_a_padded_convolution_is_exact_and_its_border_is_not() -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, width, 1), nn.Conv2d(width, 4, 3, padding=1))

    images = pixels()
    student, scions = grafted((network(5), network(3)), images, bias=True)
    difference = (fold(student, scions)(images) - chain(scions, images)).abs()
    border = difference.flatten(0, 1).amax(0)
    assert difference[..., 1:-1, 1:-1].max() < 1e-12 and min(border[0].min(), border[:, -1].min()) > 1e-3


def test_one_adapter_alone_is_folded_too() -> None:
    images, second = pixels(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    student = nn.Sequential(first := nn.Conv2d(1, 3, 1), second).double()
    adapter = nn.Conv2d(3, 3, 1).double()
    for scions in ([Scion(first, out_of=adapter), Scion(second)], [Scion(first), Scion(second, into=adapter)]):
        torch.testing.assert_close(fold(student, scions)(images), chain(scions, images))


def test_blocks_and_adapters_that_cannot_be_folded_are_refused() -> None:
    ours = BasicBlock(3, 4)
    assert entries(nn.Flatten()) == [] and entries(ours) == [ours.residual[0], ours.shortcut[0]]
    for block, message in (
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)), r"begins with ReLU\(\); it must begin with a convolution"),
        (nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)), "begins with BatchNorm2d"),
        (nn.Conv2d(4, 4, 3, groups=2), "(?s)groups=2.*Keep the adapters, or take another student"),
        (BasicBlock(3, 3), "BasicBlock whose shortcut is an identity. Cut the network into blocks where the size"),
    ):
        with pytest.raises(ReuseError, match=message):
            entries(block)
    first, second = plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3))
    odd, flat = Scion(first, out_of=nn.Sequential(nn.Conv2d(3, 3, 1))), nn.Sequential(first, nn.Flatten())
    for student, scions, message in (
        (plain, [odd, Scion(second)], "adapter is a 1x1 convolution, .*not a Sequential"),
        (flat, [Scion(first), Scion(flat[1])], "block without weights, Flatten.*Join it to"),
    ):
        with pytest.raises(ReuseError, match=message):
            fold(student, scions)
