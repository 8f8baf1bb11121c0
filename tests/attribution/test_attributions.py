"""Attribution methods against closed forms, slow rules and captum; networks come back as they were."""

from __future__ import annotations

import itertools
import warnings

import players
import pytest
import torch
import torch.nn.functional as F
from captum import attr
from captum.attr._utils.lrp_rules import EpsilonRule as CaptumRule
from maps_toys import Odd
from torch import Tensor, nn

from reuselib import nets
from reuselib.attribution import METHODS, epsilon_lrp, gradient_times_input, input_x_gradient, maps, saliency
from reuselib.attribution.attributions import EpsilonRule
from reuselib.errors import ReuseError


def images(count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, 8, 8, dtype=dtype) * 2 - 1


def test_a_linear_encoder_has_the_closed_forms() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7)).double()
    x, column = images(), encoder[1].weight.sum(0).view(3, 8, 8)
    torch.testing.assert_close(saliency(encoder, x, ""), column.abs().expand_as(x))
    found = input_x_gradient(encoder, x, "")
    torch.testing.assert_close(found, x * column)
    torch.testing.assert_close(found.sum((1, 2, 3)), (encoder(x) - encoder[1].bias).sum(1))
    assert torch.equal(epsilon_lrp(encoder, x, ""), found)
    # Absolute before the mean over the channels.
    torch.testing.assert_close(maps(encoder, x, "saliency", where="")[0], column.abs().mean(0))


def test_our_ten_lines_are_captums() -> None:
    norm, x = nn.BatchNorm2d(6), images(dtype=torch.float32)
    norm.running_mean.uniform_(-0.2, 0.2)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).eval()
    with warnings.catch_warnings(), torch.no_grad():  # it works where gradients are off
        warnings.simplefilter("error")
        assert torch.equal(gradient_times_input(network, x, ""), input_x_gradient(network, x, ""))


def test_it_is_captums_layer_by_layer() -> None:
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 1, 3)]
    network, x = nn.Sequential(*layers).double().eval(), images()
    for layer in layers[::2]:
        layer.rule = CaptumRule(1e-2 if layer is not layers[-1] else 0.0)  # the paper has no ε at the output
    theirs = attr.LRP(network).attribute(x.clone().requires_grad_(), target=(0, 0, 0)).detach()
    found = epsilon_lrp(network, x, "", 1e-2)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(found, input_x_gradient(network, x, ""), rtol=1e-5, atol=1e-8)


def a_statement(z: Tensor) -> Tensor:
    F.relu(z, inplace=True)
    return z


RELUS = [torch.relu, Tensor.relu, lambda z: F.relu(z, True), F.relu_, Tensor.relu_, lambda z: F.relu(input=z)]
RELUS += [nn.ReLU(), nn.ReLU(inplace=True), a_statement]


def test_a_relu_is_met_however_it_is_written() -> None:
    x = images()
    kept = x.clone()
    hasty = nn.ReLU(inplace=True)  # on the images themselves
    for method in (*METHODS.values(), gradient_times_input):
        assert torch.equal(method(hasty, x, ""), method(nn.ReLU(), x, "")) and torch.equal(x, kept)
    for kind, relu in enumerate(RELUS):
        plain, written = Odd(nn.Conv2d(4, 2, 3)).double(), Odd(nn.Conv2d(4, 2, 3), relu).double()
        written.load_state_dict(plain.state_dict())
        assert torch.equal(epsilon_lrp(plain, x, "", 1e-2), epsilon_lrp(written, x, "", 1e-2)), kind
        assert torch.equal(input_x_gradient(plain, x, ""), input_x_gradient(written, x, "")), kind
        with torch.no_grad(), EpsilonRule():
            assert torch.equal(written(x), plain(x)) and torch.equal(x, kept)


def test_every_activation_function_has_its_secant() -> None:
    modules = [nn.ReLU6(), nn.ELU(), nn.CELU(), nn.SELU(), nn.LeakyReLU(0.2), nn.PReLU(), nn.GELU(), nn.SiLU()]
    modules += [nn.GELU(approximate="tanh"), nn.Mish(), nn.Hardtanh(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid()]
    modules += [nn.LogSigmoid(), nn.Tanh(), nn.Softplus(beta=2), nn.Softsign(), nn.ELU(inplace=True)]
    for function in [*modules, torch.tanh_, Tensor.sigmoid_, F.leaky_relu_]:
        network, x = Odd(lambda z: z, function).double().eval(), images()
        with torch.no_grad():
            z = network.norm(network.first(x))
            slope = function(z.clone()) / (z + torch.where(z >= 0, 1e-3, -1e-3))
        y = x.clone().requires_grad_()
        (network.norm(network.first(y)) * slope).sum().backward()
        torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-3), x * y.grad, rtol=1e-5, atol=1e-6)


NOT_LINEAR = [
    lambda z: z.softmax(1) * torch.arange(4.0).view(4, 1, 1),
    lambda z: z * z.mean((2, 3), keepdim=True).sigmoid(),
    lambda z: F.layer_norm(z, z.shape[1:]) * torch.arange(4.0).view(4, 1, 1),
    lambda z: z.flatten(2) @ z.flatten(2).mT,
    *(lambda z: z**2, lambda z: z / (1 + z), torch.ops.aten.relu.default, lambda z: z.clamp(min=0)),
]
LINEAR = [
    *(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.PixelShuffle(2)),
    *(nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.Dropout(0.5), nn.BatchNorm2d(4)),
    *(nn.ConvTranspose2d(4, 2, 3), lambda z: torch.cat([z[:, :2], z.flip(1)], 1), lambda z: z.amax(1)),
    *(lambda z: z + 0.5 * z.roll(1, 2) - 3, lambda z: z.permute(0, 2, 3, 1) @ torch.ones(4, 2)),
]


def test_what_has_no_rule_is_refused_and_what_is_linear_let_through() -> None:
    x = images(dtype=torch.float32)
    for number, then in enumerate(NOT_LINEAR):
        with pytest.raises(ReuseError, match=r"no rule for something in Odd.*method='input_x_gradient'"):
            pytest.fail(f"case {number}: {epsilon_lrp(Odd(then), x, '').shape}")
        assert input_x_gradient(Odd(then), x, "").isfinite().all()
    for then in LINEAR:  # and for a small ε it is gradient x input
        network = Odd(then)
        torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-30), input_x_gradient(network, x, ""))


def test_the_network_comes_back_as_it_was_also_after_an_exception() -> None:
    def looks() -> list[object]:
        modes = [module.training for module in network.modules()]
        return [players.state(network), modes, players.hooks(network), [p.requires_grad for p in parameters]]

    for method, fails in itertools.product(METHODS, (False, True)):
        network, x = nets.task_network(3).train(), torch.randn(3, 3, 32, 32)
        network.encoder[1].eval()
        parameters = list(network.parameters())
        for parameter, learns in zip(parameters, itertools.cycle([True, False])):
            parameter.requires_grad_(learns)
        parameters[0].grad = torch.ones_like(parameters[0])
        before, kept = looks(), x.clone()
        where = players.rigged(lambda network, x: network.represent(x), at=1 if fails else None)
        try:
            maps(network, x, method, where=where, batch=1)
            assert not fails
        except players.Explosion:
            assert fails
        assert not list(players.differences(looks(), before))
        assert (parameters[0].grad == 1).all() and parameters[1].grad is None
        assert torch.equal(x, kept) and not x.requires_grad
    assert F.relu(torch.ones(1, requires_grad=True)).grad_fn.name() == "ReluBackward0"  # the rule is gone
