"""Attribution methods against closed forms, slow rules and captum; networks come back as they were."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import players
import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum import attr
from captum.attr._utils.lrp_rules import EpsilonRule as CaptumRule
from maps_toys import Odd
from torch import Tensor, nn

from reuselib import nets
from reuselib.attribution import METHODS, affinity_matrix, epsilon_lrp, gradient_times_input, input_x_gradient, maps
from reuselib.attribution import saliency as by_saliency
from reuselib.attribution.attributions import EpsilonRule
from reuselib.errors import ReuseError

EPS = 1e-4


def relu_net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A convolutional chain with a batch norm that does something, which ends in a ReLU."""
    first, norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
    for values in (norm.running_mean, norm.bias.data):
        values.uniform_(-0.2, 0.2)
    norm.running_var.uniform_(0.5, 2)
    rest = [nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(first, norm, *rest).to(dtype).eval()


def images(count: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, 8, 8, dtype=dtype) * 2 - 1


def test_a_linear_encoder_has_the_closed_forms() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7)).double()
    x, column = images(), encoder[1].weight.sum(0).view(3, 8, 8)
    torch.testing.assert_close(by_saliency(encoder, x, ""), column.abs().expand_as(x))
    found = input_x_gradient(encoder, x, "")
    torch.testing.assert_close(found, x * column)
    torch.testing.assert_close(found.sum((1, 2, 3)), (encoder(x) - encoder[1].bias).sum(1))
    assert torch.equal(epsilon_lrp(encoder, x, ""), found)
    # Absolute before the mean over the channels.
    torch.testing.assert_close(maps(encoder, x, "saliency", where="")[0], column.abs().mean(0))


def test_without_biases_the_attributions_sum_to_the_total() -> None:
    network = nets.task_network(3).double().eval()
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)  # no shift: means and biases stay zero
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1
    total = network.represent(x).sum((1, 2, 3)).detach()
    torch.testing.assert_close(input_x_gradient(network, x).sum((1, 2, 3)), total, rtol=1e-5, atol=0)


def test_our_ten_lines_are_captums() -> None:
    network, x = relu_net(torch.float32), images(dtype=torch.float32)
    theirs = [
        kind(lambda x: network(x).flatten(1).sum(1)).attribute(x.clone().requires_grad_()).detach()
        for kind in (attr.InputXGradient, attr.InputXGradient, attr.Saliency)
    ]
    ours = [method(network, x, "") for method in (input_x_gradient, gradient_times_input, by_saliency)]
    assert all(map(torch.equal, ours, theirs))


def test_the_units_cancel_in_saliency_but_the_signed_methods_are_means_over_units() -> None:
    network, x = relu_net(), images(2)
    for method in METHODS.values():
        units = range(network(x).flatten(1).shape[1])
        one_by_one = sum(method(network, x, lambda n, x, u=u: n(x).flatten(1)[:, u]) for u in units)
        assert torch.allclose(one_by_one, method(network, x, "")) == (method is not by_saliency)


def test_scale_and_order_of_units_leave_affinities_alone() -> None:
    network, other, x = relu_net(), relu_net(), images()
    scaled = {1: [lambda n, x: 3.7 * n(x), lambda n, x: n(x)[:, [2, 0, 3, 1]]], -1: [lambda n, x: -2 * n(x)]}
    for method in METHODS:
        fixed = maps(other, x, method, where="")
        plain = affinity_matrix([maps(network, x, method, where=""), fixed])[0, 1]
        for sign, where in ((sign, where) for sign, ways in scaled.items() for where in ways):
            found = affinity_matrix([maps(network, x, method, where=where), fixed])[0, 1]
            torch.testing.assert_close(found, plain if method == "saliency" else sign * plain, rtol=0, atol=1e-12)


# --- epsilon-LRP


def test_a_unit_is_scaled_by_z_over_z_plus_epsilon() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()).double()
    network[0].weight.data.fill_(1)
    x = torch.tensor([EPS, 3 * EPS, 1.0, -EPS, -2.0, 0.0], dtype=torch.float64).view(1, 1, 2, 3)
    positive = x.clamp(min=0)
    torch.testing.assert_close(epsilon_lrp(network, x, "", EPS), x * positive / (positive + EPS))


def test_epsilon_to_zero_gives_gradient_times_input() -> None:
    network, x = relu_net(), images()
    torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-14), input_x_gradient(network, x, ""))
    gaps = [(epsilon_lrp(network, x, "", e) - input_x_gradient(network, x, "")).abs().max() for e in (1e-2, 1e-3, 1e-4)]
    assert gaps[0] > gaps[1] > gaps[2] > 0


def classical(layers: list[nn.Linear], function: Callable[[Tensor], Tensor], x: Tensor, eps: float) -> Tensor:
    """The ε-rule, unit by unit, from the output (its own relevance) down to the pixels."""
    activations, sums = [x], []
    for layer in layers:
        sums.append(layer.weight @ activations[-1] + layer.bias)
        activations.append(function(sums[-1]))
    relevance = activations[-1]
    for layer, z, below in zip(reversed(layers), reversed(sums), reversed(activations[:-1]), strict=True):
        lower = torch.zeros_like(below)
        for j, i in itertools.product(range(len(z)), range(len(below))):
            lower[i] += layer.weight[j, i] * below[i] / (z[j] + (eps if z[j] >= 0 else -eps)) * relevance[j]
        relevance = lower
    return relevance


class Chain(nn.Module):
    """Two linear layers, a function behind each."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(12, 5), nn.Linear(5, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.second(self.function(self.first(x.flatten(1)))))


def test_the_slow_classical_rule_and_captums() -> None:
    for function in (F.relu, F.elu, torch.sigmoid):
        network, x = Chain(function).double().requires_grad_(False), torch.randn(3, 3, 2, 2, dtype=torch.float64)
        for row, found in zip(x.flatten(1), epsilon_lrp(network, x, "", 1e-2).flatten(1), strict=True):
            expected = classical([network.first, network.second], function, row, 1e-2)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
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


class Hidden(torch.autograd.Function):
    """A nonlinearity that PyTorch is not asked for by name."""

    @staticmethod
    def forward(context, z: Tensor) -> Tensor:
        context.save_for_backward(z)
        return z.sin()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient * context.saved_tensors[0].cos()


NOT_LINEAR = [
    lambda z: z.softmax(1) * torch.arange(4.0).view(4, 1, 1),
    lambda z: z * z.mean((2, 3), keepdim=True).sigmoid(),
    lambda z: F.layer_norm(z, z.shape[1:]) * torch.arange(4.0).view(4, 1, 1),
    lambda z: z.flatten(2) @ z.flatten(2).mT,
    *(lambda z: z**2, lambda z: z / (1 + z), Hidden.apply, torch.ops.aten.relu.default, lambda z: z.clamp(min=0)),
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
    for then in LINEAR:
        network = Odd(then)
        torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-30), input_x_gradient(network, x, ""))


def test_torchvisions_convolutional_networks_have_rules_and_transformers_have_not() -> None:
    for name in ("resnet18", "squeezenet1_1", "mobilenet_v2"):
        assert epsilon_lrp(torchvision.models.get_model(name, weights=None), torch.randn(2, 3, 64, 64)).isfinite().all()
    transformer = torchvision.models.VisionTransformer(64, 16, 1, 2, 16, 32)
    nn.init.normal_(transformer.heads.head.weight)
    for network in (transformer, torchvision.models.mobilenet_v3_small(weights=None)):
        with pytest.raises(ReuseError, match="no rule"):
            epsilon_lrp(network, torch.randn(1, 3, 64, 64))


# --- networks untouched


def test_a_network_may_work_in_place_on_its_input() -> None:
    plain, hasty = (nn.Sequential(nn.ReLU(inplace=way), nn.Conv2d(3, 2, 3)).double() for way in (False, True))
    hasty.load_state_dict(plain.state_dict())
    x = images()
    kept = x.clone()
    for method in (*METHODS.values(), gradient_times_input):
        assert torch.equal(method(hasty, x, ""), method(plain, x, "")) and torch.equal(x, kept)


def looks(network: nn.Module) -> list[object]:
    parameters = [(p.requires_grad, p.grad is None) for p in network.parameters()]
    return [parameters, [m.training for m in network.modules()], players.hooks(network)]


def test_the_network_comes_back_as_it_was_also_after_an_exception() -> None:
    for method, fails in itertools.product(METHODS, (False, True)):
        network, x = nets.task_network(3).train(), torch.randn(3, 3, 32, 32)
        network.encoder[1].eval()
        parameters = list(network.parameters())
        for parameter, learns in zip(parameters, itertools.cycle([True, False])):
            parameter.requires_grad_(learns)
        parameters[0].grad = torch.ones_like(parameters[0])
        state, before, kept = players.state(network), looks(network), x.clone()
        where = players.rigged(lambda network, x: network.represent(x), at=1 if fails else None)
        try:
            maps(network, x, method, where=where, batch=1)
            assert not fails
        except players.Explosion:
            assert fails
        assert looks(network) == before and not list(players.differences(players.state(network), state))
        assert (parameters[0].grad == 1).all() and torch.equal(x, kept) and not x.requires_grad
    assert F.relu(torch.ones(1, requires_grad=True)).grad_fn.name() == "ReluBackward0"  # the rule is gone


def test_no_warning_and_works_where_gradients_are_off() -> None:
    network, x = nets.task_network(3), torch.randn(2, 3, 32, 32)
    expected = maps(network, x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for method in (*METHODS, gradient_times_input):
            found = maps(network, x, method)
            assert method in ("saliency", "epsilon_lrp") or torch.equal(found, expected)
