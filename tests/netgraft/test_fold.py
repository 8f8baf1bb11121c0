"""Folding adapters away: the plain student computes what the chain of scions computes."""

from __future__ import annotations

from collections.abc import Callable

import little
import players
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet

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


def grafted(pair: Pair, images: Tensor, bias: bool = False, shared: int = 0) -> tuple[nn.Module, list[Scion]]:
    """The student and its scions, with biases that are not zero."""
    teacher, student = (moved(network) for network in pair)
    scions = make_scions(teacher, student, images, shared=shared, bias=bias)
    for scion in scions:
        for adapter in (scion.into, scion.out_of):
            if getattr(adapter, "bias", None) is not None:
                nn.init.normal_(adapter.bias)
        scion.eval()
    return student, scions


def chain(scions: list[Scion], images: Tensor) -> Tensor:
    return nn.Sequential(*scions)(images)


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def vision(block: type, widths: tuple[int, int]) -> nn.Module:
    """Two of torchvision's stages and a classifier, all in a row."""
    grow = block.expansion

    def stage(inputs: int, width: int) -> nn.Module:
        beside = nn.Sequential(nn.Conv2d(inputs, width * grow, 1, 2, bias=False), nn.BatchNorm2d(width * grow))
        return nn.Sequential(block(inputs, width, 2, beside), block(width * grow, width))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[1] * grow, 4))
    return nn.Sequential(stage(1, widths[0]), stage(widths[0] * grow, widths[1]), head)


PAIRS: dict[str, Callable[[], Pair]] = {
    "plain VGG": lambda: (little.teacher(), little.student()),
    "convolutions with batch norm": lambda: (nets.conv3(5, 4, batch_norm=True), nets.conv3(3, 4, batch_norm=True)),
    "residual": lambda: (nets.small_resnet((1, 2, 1), 4, 4), nets.small_resnet((2, 1, 1), 3, 4)),
    "torchvision's basic blocks": lambda: (vision(resnet.BasicBlock, (4, 6)), vision(resnet.BasicBlock, (3, 4))),
    "torchvision's bottlenecks": lambda: (vision(resnet.Bottleneck, (3, 4)), vision(resnet.Bottleneck, (2, 2))),
    "linear layers": lambda: tuple(
        nn.Sequential(
            nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.ReLU()), nn.Sequential(nn.Dropout(), nn.Linear(w, 4))
        )
        for w in (7, 5)
    ),
    "average pool and identity first": lambda: tuple(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(1, w, 3, padding=1), nn.ReLU()),
            nn.Sequential(
                nn.Identity(), nn.AvgPool2d(2), nn.Dropout2d(), nn.Conv2d(w, w + 2, 3, 2, padding=1), nn.ReLU()
            ),
            nn.Sequential(nn.Sequential(nn.Flatten()), nn.Linear(4 * (w + 2), 4)),
        )
        for w in (6, 3)
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_without_biases_the_folded_student_is_exact_and_a_plain_copy(name: str) -> None:
    images = pixels(6, 1, 8, 8)
    student, scions = grafted(PAIRS[name](), images)
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
    assert not list(players.differences(before, players.state(student)))
    assert all(parameter.requires_grad for parameter in folded.parameters())
    student.float(), [scion.float() for scion in scions]  # in single precision the difference is rounding
    single, expected = fold(student, scions).eval()(images.float()), chain(scions, images.float())
    assert (single - expected).abs().max() < 1e-5 * expected.abs().max()


def test_with_biases_the_interior_of_a_convolution_is_exact_and_the_border_only_without_padding() -> None:
    for padding in (0, 1):

        def network(width: int, padding: int = padding) -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, width, 1), nn.Conv2d(width, 4, 3, padding=padding))

        images = pixels(3, 1, 8, 8)
        student, scions = grafted((network(5), network(3)), images, bias=True)
        difference = (fold(student, scions)(images) - chain(scions, images)).abs()
        interior = difference[..., 1:-1, 1:-1] if padding else difference
        assert interior.max() < 1e-12
        border = difference.flatten(2).amax((0, 1)).view(difference.shape[2:])
        assert not padding or min(border[0].min(), border[:, -1].min()) > 1e-3


def test_a_linear_layer_behind_a_flattening_takes_up_biases_exactly() -> None:
    for side in (1, 2):

        def network(width: int, side: int = side) -> nn.Module:
            return nn.Sequential(
                nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(side)),
                nn.Sequential(nn.Flatten(), nn.Linear(width * side**2, 6), nn.ReLU(), nn.Linear(6, 4)),
            )

        images = pixels(5, 1, 8, 8)
        student, scions = grafted((network(7), network(3)), images, bias=True)
        torch.testing.assert_close(fold(student, scions)(images), chain(scions, images), rtol=1e-10, atol=1e-12)


def test_one_adapter_alone_is_folded_too_and_none_changes_nothing() -> None:
    images = pixels(3, 1, 8, 8)
    student = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))).double()
    first, second = student
    for bias in (False, True):
        adapter = nn.Conv2d(3, 3, 1, bias=bias).double()
        for scions in ([Scion(first, out_of=adapter), Scion(second)], [Scion(first), Scion(second, into=adapter)]):
            torch.testing.assert_close(fold(student, scions)(images), chain(scions, images))
    plain = fold(student, [Scion(first), Scion(second)])
    assert not list(players.differences(players.state(student), players.state(plain)))


def test_entries_are_the_layers_that_see_the_input_and_what_has_none_is_refused() -> None:
    first, second, ours = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), BasicBlock(3, 4)
    assert entries(nn.Sequential(nn.Identity(), nn.Sequential(first, nn.ReLU()), second)) == [first]
    assert entries(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), second)) == [second]
    assert entries(nn.Flatten()) == [] and entries(ours) == [ours.residual[0], ours.shortcut[0]]
    for block, message in (
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)), r"begins with ReLU\(\); it must begin with a convolution"),
        (nn.MaxPool2d(2), "begins with MaxPool2d"),
        (nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)), "begins with BatchNorm2d"),
        (nets.wrn16_1().blocks[1], "begins with"),
        (nn.Conv2d(4, 4, 3, groups=2), "(?s)groups=2.*Keep the adapters, or take another student"),
        (BasicBlock(3, 3), "BasicBlock whose shortcut is an identity. Cut the network into blocks where the size"),
        (resnet.BasicBlock(3, 3), "BasicBlock whose shortcut is an identity"),
        (resnet.Bottleneck(8, 2), "Bottleneck whose shortcut is an identity"),
    ):
        with pytest.raises(ReuseError, match=message):
            entries(block)


def test_students_and_adapters_that_cannot_be_folded_are_refused() -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(36 * width, 4))

    first, second = plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3))
    odd = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    for student, scions, message in (
        (*grafted((network(5), network(3)), pixels(2, 1, 8, 8)), "block without weights, Flatten.*Join it to"),
        (plain, [Scion(first, out_of=odd), Scion(second)], "adapter is a 1x1 convolution, .*not a Sequential"),
        (
            *grafted(PAIRS["convolutions with batch norm"](), pixels(2, 1, 8, 8), bias=True),
            r"Conv2d.*, which has none\. Use bias=False",
        ),
    ):
        with pytest.raises(ReuseError, match=message):
            fold(student, scions)


def test_folding_needs_no_gradient_and_works_on_any_device() -> None:
    with torch.device("meta"):
        teacher, student = nets.resnet34_8x(), nets.resnet18_8x()
        folded = fold(student, make_scions(teacher, student, torch.empty(2, 3, 32, 32)))
    assert nets.parameter_count(folded) == nets.parameter_count(student)
    assert all(parameter.is_leaf and parameter.is_meta for parameter in folded.parameters())
