"""The equations of layer-wise amalgamation against slow formulas and closed forms."""

from __future__ import annotations

import players
import pytest
import torch
from torch import nn

from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.layerwise import AdaptedStudent, losses
from reuselib.layerwise.autoencoder import affine


def test_components_are_orthonormal_and_ordered() -> None:
    covariance = torch.cov(torch.randn(6, 100).double(), correction=0)
    values, components = losses.principal_components(covariance, 4)
    assert torch.equal(values, values.sort(descending=True).values) and values.shape == (6,)
    torch.testing.assert_close(components @ components.T, torch.eye(4).double())
    torch.testing.assert_close(components @ covariance @ components.T, values[:4].diag())
    assert not losses.principal_components(covariance, 8)[1][6:].any()


def test_unexplained_variance_is_one_for_the_mean_and_zero_for_the_target() -> None:
    target = torch.randn(30, 4, 3, 3) + torch.arange(4).view(1, 4, 1, 1)
    mean, output = target.mean((0, 2, 3), keepdim=True).expand_as(target), torch.randn_like(target)
    assert losses.unexplained_variance(target, mean).item() == pytest.approx(1, rel=1e-4)
    assert losses.unexplained_variance(torch.ones(3, 2), torch.ones(3, 2)) == 0
    expected = ((output - target) ** 2).sum() / ((target - mean) ** 2).sum()
    torch.testing.assert_close(losses.unexplained_variance(target, output), expected)


def test_losses_by_their_gradients_and_what_they_do_not_reach() -> None:
    scores, logits = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    for loss in (losses.layerwise_loss, losses.joint_loss):
        (gradient,) = torch.autograd.grad(loss(scores, logits), logits)
        torch.testing.assert_close(gradient, 2 * (logits - scores) / 30)
        with pytest.raises(ShapeMismatch):
            loss(scores, logits[:, :4])
    losses.layerwise_loss(scores, logits).backward()
    assert scores.grad is None, "the target learned"
    (gradient,) = torch.autograd.grad(losses.distillation_loss(scores, logits), logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - scores.softmax(1)) / 6)
    half = losses.reconstruction_loss(scores.bfloat16(), logits.bfloat16())
    assert half.dtype == losses.layerwise_loss(scores.half(), logits.half()).dtype == torch.float32


def test_the_ports_loss_by_hand() -> None:
    """A mean for each teacher, and no gradient reaches the code."""
    groups = []
    for widths in ((4, 4), (6, 2)):
        learning = [torch.randn(3, channels, 2, 2, requires_grad=True) for channels in (5, 8, 5)]
        groups.append(([torch.randn(3, channels, 2, 2) for channels in widths], *learning))
    scores, logits = torch.randn(3, 5), torch.randn(3, 5, requires_grad=True)
    found = losses.port_loss(scores, logits, groups)
    parts = [(f, back.split([each.shape[1] for each in f], 1)) for f, _, back, _ in groups]
    pairs = [pair for features, returned in parts for pair in zip(features, returned, strict=True)]
    expected = {
        "kd": losses.distillation_loss(scores, logits),
        "amalgamation": sum((adapted - code).square().mean() for _, code, _, adapted in groups),
        "reconstruction": sum((f - p).square().mean() for f, p in pairs),
    }
    torch.testing.assert_close(found, expected | {"loss": sum(expected.values())})
    found["loss"].backward()
    assert all(code.grad is None and back.grad is not None and own.grad is not None for _, code, back, own in groups)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 6, 5, 2, 2), nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.Linear(3, 6)], ids=str
)
def test_a_merged_layer_is_the_layer_and_its_adapter(layer: nn.Conv2d | nn.Linear) -> None:
    spatial = isinstance(layer, nn.Conv2d)
    adapter, before = affine(6, 6, spatial), players.state(layer)
    nn.init.normal_(adapter.bias)
    merged = losses.merge(adapter, layer)
    images = torch.randn(4, 3, 9, 9) if spatial else torch.randn(4, 3)
    torch.testing.assert_close(merged(images), adapter(layer(images)), atol=1e-5, rtol=1e-5)
    assert type(merged) is type(layer) and not list(players.differences(before, players.state(layer)))


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, bias=False)])
def test_what_cannot_be_merged_is_refused(layer: nn.Conv2d) -> None:
    with pytest.raises(ReuseError, match="several groups or no bias.*fam=False"):
        losses.merge(affine(4, 4, True), layer)
    network = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ReuseError, match="Layer '0' has several groups or no bias"):
        AdaptedStudent(network)
    assert len(AdaptedStudent(network, fam=False).links) == 2
    with pytest.raises(ShapeMismatch, match="5 channels does not fit 4"):
        losses.merge(affine(5, 5, False), nn.Linear(3, 4))
