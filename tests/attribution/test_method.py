"""Attribution methods against closed forms, slow rules and captum; networks come back as they were."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import players
import pytest
import torch
import torch.nn.functional as F
from captum import attr
from captum.attr._utils.lrp_rules import EpsilonRule as CaptumRule
from torch import Tensor, nn

from reuselib import nets
from reuselib.attribution import method as attribution
from reuselib.attribution.affinity import affinity_matrix
from reuselib.attribution.method import (
    METHODS,
    absolute_channel_mean,
    channel_mean,
    epsilon_lrp,
    explain,
    gradient_times_input,
    input_x_gradient,
    maps,
    pooled,
    saliency,
)
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName

EPS = 1e-4


def relu_net(bias: bool = True, norm: bool = False, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A convolutional chain that ends in a ReLU, in float64, with a batch norm that does something if asked."""
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3, padding=1, bias=bias)]
    layers += [nn.BatchNorm2d(6)] if norm else []
    layers += [nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=bias), nn.ReLU()]
    network = nn.Sequential(*layers).to(dtype).eval()
    for module in network:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network


def images(count: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, 8, 8, dtype=dtype) * 2 - 1


# --- the linear encoder (1) and positive homogeneity (3)


def test_a_linear_encoder_has_the_closed_forms() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7)).double()
    x, weight, bias = images(), encoder[1].weight, encoder[1].bias
    column = weight.sum(0).view(3, 8, 8)
    torch.testing.assert_close(saliency(encoder, x, ""), column.abs().expand_as(x))
    found = input_x_gradient(encoder, x, "")
    torch.testing.assert_close(found, x * column)
    torch.testing.assert_close(found.sum((1, 2, 3)), (encoder(x) - bias).sum(1))
    assert torch.equal(epsilon_lrp(encoder, x, ""), found)


def test_without_biases_the_attributions_sum_to_the_total() -> None:
    network = nets.task_network(3).double()
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)  # no shift: means and biases stay zero
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        total = network.eval().represent(x).sum((1, 2, 3))
    torch.testing.assert_close(input_x_gradient(network, x).sum((1, 2, 3)), total, rtol=1e-5, atol=0)


# --- epsilon-LRP (2)


def test_a_unit_is_scaled_by_z_over_z_plus_epsilon() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()).double()
    network[0].weight.data.fill_(1)
    x = torch.tensor([EPS, 3 * EPS, 1.0, -EPS, -2.0, 0.0], dtype=torch.float64).view(1, 1, 2, 3)
    found = epsilon_lrp(network, x, "", EPS)
    positive = x.clamp(min=0)
    torch.testing.assert_close(found, x * positive / (positive + EPS))
    assert found[0, 0, 0, 0] == pytest.approx(EPS / 2) and (found[x <= 0] == 0).all()


def test_epsilon_to_zero_gives_gradient_times_input() -> None:
    network, x = relu_net(norm=True), images()
    torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-14), input_x_gradient(network, x, ""))
    gaps = [(epsilon_lrp(network, x, "", e) - input_x_gradient(network, x, "")).abs().max() for e in (1e-2, 1e-3, 1e-4)]
    assert gaps[0] > gaps[1] > gaps[2] > 0


def classical(layers: list[nn.Linear], functions: list[Callable[[Tensor], Tensor]], x: Tensor, eps: float) -> Tensor:
    """The ε-rule, unit by unit, from the output (its own relevance) down to the pixels."""
    activations, sums = [x], []
    for layer, function in zip(layers, functions, strict=True):
        sums.append(layer.weight @ activations[-1] + layer.bias)
        activations.append(function(sums[-1]))
    relevance = activations[-1]
    for layer, z, below in zip(reversed(layers), reversed(sums), reversed(activations[:-1]), strict=True):
        lower = torch.zeros_like(below)
        for j, i in itertools.product(range(len(z)), range(len(below))):
            contribution = layer.weight[j, i] * below[i]
            total = sum(layer.weight[j, k] * below[k] for k in range(len(below))) + layer.bias[j]
            lower[i] += contribution / (total + (eps if total >= 0 else -eps)) * relevance[j]
        relevance = lower
    return relevance


@pytest.mark.parametrize("function", [F.relu, F.elu, torch.sigmoid, torch.tanh, F.softplus])
def test_the_slow_classical_rule(function: Callable[[Tensor], Tensor]) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 5), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.second(function(self.first(x.flatten(1)))))

    network, x = Chain().double(), torch.randn(3, 3, 2, 2, dtype=torch.float64)
    found = epsilon_lrp(network, x, "", 1e-2).flatten(1)
    for row, attributions in zip(x.flatten(1), found, strict=True):
        with torch.no_grad():
            expected = classical([network.first, network.second], [function] * 2, row, 1e-2)
        torch.testing.assert_close(attributions, expected, rtol=1e-8, atol=1e-12)


def captum_lrp(network: nn.Sequential, x: Tensor, eps: float) -> Tensor:
    """captum's LRP of convolutions that end in one place, summed over the outputs, which it explains one at a time."""
    total = torch.zeros_like(x)
    for unit in range(network[-1].out_channels):
        for layer in network:
            if isinstance(layer, nn.Conv2d):  # captum takes its rules away again
                layer.rule = CaptumRule(eps if layer is not network[-1] else 0.0)  # the paper has no ε at the output
        total += attr.LRP(network).attribute(x.clone().requires_grad_(), target=(unit, 0, 0)).detach()
    return total


@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_captums_lrp_where_both_rules_coincide(eps: float) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 3, 3)
    )
    network, x = network.double().eval(), images()
    found = epsilon_lrp(network, x, "", eps)
    torch.testing.assert_close(found, captum_lrp(network, x, eps), rtol=1e-5, atol=1e-8)
    assert not torch.allclose(found, input_x_gradient(network, x, ""), rtol=1e-5, atol=1e-8)


def branches(z: Tensor, kind: str) -> Tensor:
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "F.relu": F.relu,
        "torch.relu": torch.relu,
        "method": lambda z: z.relu(),
        "in place": lambda z: F.relu(z, True),
        "F.relu_": lambda z: F.relu_(z),
        "method in place": lambda z: z.relu_(),
        "keyword": lambda z: F.relu(input=z),
        "module": nn.ReLU(),
        "module in place": nn.ReLU(inplace=True),
    }
    if kind == "a statement":
        F.relu(z, inplace=True)
        return z
    return ways[kind](z)


KINDS = ["F.relu", "torch.relu", "method", "in place", "F.relu_", "method in place", "keyword", "module"]
KINDS += ["module in place", "a statement"]


class Written(nn.Module):
    """One network, its ReLU written in many ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return branches(self.second(branches(self.norm(self.first(x)), self.kind)), self.kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_relu_is_met_however_it_is_written(kind: str, method: str) -> None:
    plain, written = Written("F.relu").double(), Written(kind).double()
    written.load_state_dict(plain.state_dict())
    x = images()
    kept = x.clone()
    options = {"epsilon": 1e-2} if method == "epsilon_lrp" else {}
    assert torch.equal(METHODS[method](plain, x, "", **options), METHODS[method](written, x, "", **options))
    assert torch.equal(x, kept)
    with torch.no_grad(), attribution.EpsilonRule():
        assert torch.equal(written(x), plain(x))


FUNCTIONS: dict[str, nn.Module] = {
    "relu6": nn.ReLU6(),
    "elu": nn.ELU(),
    "celu": nn.CELU(),
    "selu": nn.SELU(),
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "hardtanh": nn.Hardtanh(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "sigmoid": nn.Sigmoid(),
    "logsigmoid": nn.LogSigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(beta=2),
    "softsign": nn.Softsign(),
    "elu in place": nn.ELU(inplace=True),
    "relu6 in place": nn.ReLU6(inplace=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_activation_function_has_its_secant(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), FUNCTIONS[name]).double().eval()
    x = images()
    with torch.no_grad():
        z = network[0](x)
        slope = network[1](z.clone()) / (z + torch.where(z >= 0, 1e-3, -1e-3))
    y = x.clone().requires_grad_()
    (network[0](y) * slope).sum().backward()
    torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-3), x * y.grad)


@pytest.mark.parametrize(
    ("function", "in_place"),
    [
        (torch.tanh, torch.tanh_),
        (torch.tanh, Tensor.tanh_),
        (torch.sigmoid, Tensor.sigmoid_),
        (F.elu, F.elu_),
        (F.leaky_relu, F.leaky_relu_),
    ],
)
def test_functions_in_place_have_the_same_secant(function: Callable, in_place: Callable) -> None:
    x = images(dtype=torch.float32)
    network, other = Odd(function), Odd(in_place)
    other.load_state_dict(network.state_dict())
    network.first.bias.data -= 0.3
    other.first.bias.data -= 0.3
    network.rectify = other.rectify = False
    assert torch.equal(epsilon_lrp(network, x, "", 1e-2), epsilon_lrp(other, x, "", 1e-2))


@pytest.mark.parametrize("method", [*METHODS.values(), gradient_times_input])
def test_a_network_may_work_in_place_on_its_input(method: Callable) -> None:
    plain, hasty = (nn.Sequential(nn.ReLU(inplace=way), nn.Conv2d(3, 2, 3)).double() for way in (False, True))
    hasty.load_state_dict(plain.state_dict())
    x = images()
    kept = x.clone()
    assert torch.equal(method(hasty, x, ""), method(plain, x, "")) and torch.equal(x, kept)


def test_sign_zero_is_plus() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Sigmoid()).double()
    network[0].weight.data.fill_(2)
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    with attribution.EpsilonRule(0.25):
        y = x.clone().requires_grad_()
        network(y).sum().backward()
    assert (y.grad == 2 * 0.5 / 0.25).all()


class Odd(nn.Module):
    """A convolution, then something."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.then, self.rectify = nn.Conv2d(3, 4, 3), then, True

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.then(F.relu(z) if self.rectify else z)


class Hidden(torch.autograd.Function):
    """A nonlinearity that PyTorch is not asked for by name."""

    @staticmethod
    def forward(context, z: Tensor) -> Tensor:
        context.save_for_backward(z)
        return z.sin()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient * context.saved_tensors[0].cos()


NOT_LINEAR = {
    "Softmax": lambda z: z.softmax(1),
    "Mul": lambda z: z * z.mean((2, 3), keepdim=True).sigmoid(),
    "NativeLayerNorm": lambda z: F.layer_norm(z, z.shape[1:]),
    "NativeGroupNorm": lambda z: F.group_norm(z, 2),
    "Bmm": lambda z: z.flatten(2) @ z.flatten(2).mT,
    "Exp": lambda z: z.exp(),
    "Pow": lambda z: z**2,
    "Abs": lambda z: z.abs(),
    "Div": lambda z: z / (1 + z),
    "norm by the statistics of the batch": lambda z: F.batch_norm(z, None, None, training=True),
    "Hidden": lambda z: Hidden.apply(z),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_has_no_rule_is_named(name: str) -> None:
    network = Odd(NOT_LINEAR[name])
    with pytest.raises(ReuseError, match=rf"{name}.*method='input_x_gradient'"):
        epsilon_lrp(network, images(dtype=torch.float32), "")
    assert input_x_gradient(network, images(dtype=torch.float32), "").isfinite().all()


LINEAR = {
    "max pool": nn.MaxPool2d(2),
    "average pool": nn.AvgPool2d(2),
    "adaptive": nn.AdaptiveAvgPool2d(2),
    "one place": nn.AdaptiveAvgPool2d(1),
    "upsample": nn.Upsample(scale_factor=2, mode="bilinear"),
    "nearest": nn.Upsample(scale_factor=2),
    "shuffle": nn.PixelShuffle(2),
    "pad": nn.ReflectionPad2d(1),
    "zero pad": nn.ZeroPad2d(1),
    "dropout": nn.Dropout(0.5),
    "norm": nn.BatchNorm2d(4),
    "flat": nn.Flatten(),
    "cat": lambda z: torch.cat([z[:, :2], z.flip(1)], 1),
    "sum": lambda z: z + 0.5 * z.roll(1, 2) - 3,
    "mean": lambda z: z.mean((2, 3)),
    "chunk": lambda z: torch.stack(z.chunk(2, 1)[::-1], 1),
    "einsum": lambda z: torch.einsum("nchw,cd->ndhw", z, torch.ones(4, 3)),
    "scale": lambda z: z * 3 / 2,
    "permute": lambda z: z.permute(0, 2, 3, 1) @ torch.ones(4, 2),
    "transposed": nn.ConvTranspose2d(4, 2, 3),
    "max": lambda z: z.amax(1),
    "expand": lambda z: z[:, :1].expand(-1, 5, -1, -1),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_is_let_through(name: str) -> None:
    network, x = Odd(LINEAR[name]), images(dtype=torch.float32)
    torch.testing.assert_close(epsilon_lrp(network, x, "", 1e-30), input_x_gradient(network, x, ""))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet121", "squeezenet1_1", "mobilenet_v2", "googlenet"])
def test_torchvisions_convolutional_networks_have_rules(name: str) -> None:
    network = meta_network(name)
    x = torch.randn(2, 3, 64, 64, device="meta")
    assert epsilon_lrp(network, x).shape == x.shape


@pytest.mark.parametrize("name", ["vit_b_32", "mobilenet_v3_small"])
def test_torchvisions_others_say_what_to_use(name: str) -> None:
    with pytest.raises(ReuseError, match="Mul|NativeLayerNorm"):
        epsilon_lrp(meta_network(name), torch.randn(1, 3, 224, 224, device="meta"))


def meta_network(name: str) -> nn.Module:
    """One of torchvision's networks without memory."""
    torchvision = pytest.importorskip("torchvision")
    more = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **more)


# --- captum and the ten visible lines


@pytest.mark.parametrize("norm", [False, True])
def test_gradient_times_input_in_plain_torch_is_captums(norm: bool) -> None:
    network, x = relu_net(norm=norm), images()
    forward = lambda x: network(x).flatten(1).sum(1)  # noqa: E731
    expected = attr.InputXGradient(forward).attribute(x.clone().requires_grad_()).detach()
    assert torch.equal(gradient_times_input(network, x, ""), expected)
    assert torch.equal(input_x_gradient(network, x, ""), expected)
    assert torch.equal(saliency(network, x, ""), attr.Saliency(forward).attribute(x.clone().requires_grad_()).detach())


def test_saliency_takes_the_absolute_value_of_each_channel() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7)).double()
    column = encoder[1].weight.sum(0).view(3, 8, 8)
    found = maps(encoder, images(), "saliency", represent="")
    torch.testing.assert_close(found[0], column.abs().mean(0))
    assert not torch.allclose(found[0], column.mean(0).abs())


def test_the_units_cancel_in_saliency_but_the_signed_methods_are_means_over_units() -> None:
    network, x = relu_net(), images(2)
    units = network(x).flatten(1).shape[1]
    for method in METHODS.values():
        one_by_one = sum(method(network, x, lambda n, x, u=u: n(x).flatten(1)[:, u : u + 1]) for u in range(units))
        same = torch.allclose(one_by_one, method(network, x, ""))
        assert same == (method is not saliency)


# --- what does not matter (4)


def rescaled(factor: float) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda network, x: factor * network(x)


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_order_of_units_leave_affinities_alone(method: str) -> None:
    network, other, x = relu_net(), relu_net(), images()
    ways = ["", rescaled(3.7), lambda n, x: n(x).flatten(1).mean(1, keepdim=True), lambda n, x: n(x)[:, [2, 0, 3, 1]]]
    fixed = maps(other, x, method, represent="")
    found = [float(affinity_matrix([maps(network, x, method, represent=way), fixed])[0, 1]) for way in ways]
    assert found == pytest.approx([found[0]] * len(ways), abs=1e-12)
    minus = affinity_matrix([maps(network, x, method, represent=rescaled(-2)), fixed])[0, 1]
    assert float(minus) == pytest.approx(found[0] if method == "saliency" else -found[0], abs=1e-12)


# --- shapes, batches, networks untouched (7)


@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_batches(method: str) -> None:
    network, x = nets.task_network(3), torch.randn(7, 3, 32, 32)
    whole = explain(network, x, method)
    assert whole.maps.shape == (7, 32, 32) and whole.features.shape == (7, 512)
    single = torch.cat([maps(network, image[None], method) for image in x])
    torch.testing.assert_close(whole.maps, single, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole.maps, maps(network, x, method, batch=3), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(whole.features, network.eval().represent(x).flatten(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_comes_back_as_it_was(method: str, fails: bool) -> None:
    network = nets.task_network(3)
    network.train()
    network.encoder[1].eval()
    parameters = list(network.parameters())
    for parameter, learns in zip(parameters, itertools.cycle([True, False])):
        parameter.requires_grad_(learns)
    parameters[0].grad = torch.ones_like(parameters[0])
    state = players.state(network)
    looks = lambda: (  # noqa: E731
        [m.training for m in network.modules()],
        [p.requires_grad for p in parameters],
        [p.grad is None for p in parameters],
    )
    before, x = looks(), torch.randn(3, 3, 32, 32)
    kept = x.clone()
    where = players.rigged(lambda network, x: network.represent(x), at=1 if fails else None)
    try:
        maps(network, x, method, represent=where, batch=1)
    except players.Explosion:
        assert fails
    assert where.calls == (2 if fails else 3)
    assert looks() == before and not list(players.differences(players.state(network), state))
    assert (parameters[0].grad == 1).all() and players.hooks(network) == 0
    assert torch.equal(x, kept) and not x.requires_grad
    assert (
        torch.get_default_dtype() == torch.float32
        and F.relu(torch.ones(1, requires_grad=True)).grad_fn.name() == "ReluBackward0"
    )


def test_no_warning_and_works_where_gradients_are_off() -> None:
    network, x = nets.task_network(3), torch.randn(2, 3, 32, 32)
    expected = maps(network, x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for method in METHODS:
            maps(network, x, method)
        assert torch.equal(maps(network, x), expected) and torch.equal(maps(network, x, gradient_times_input), expected)


@pytest.mark.parametrize("method", METHODS)
def test_meta_device(method: str) -> None:
    with torch.device("meta"):
        network, x = nets.task_network(3), torch.randn(3, 3, 32, 32)
    found = explain(network, x, method)
    assert found.maps.is_meta and found.maps.shape == (3, 32, 32) and found.features.shape == (3, 512)


def test_image_sets_are_normalised_and_types_follow_the_network() -> None:
    pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    probes = ImageSet("probes", pixels, torch.zeros(6).long(), ("a",), (0.5,) * 3, (0.5,) * 3)
    network = nets.task_network(3)
    torch.testing.assert_close(maps(network, probes, batch=4), maps(network, pixels / 127.5 - 1), rtol=1e-4, atol=1e-7)
    assert maps(network.double(), probes).dtype == torch.float64


def test_ways_from_attributions_to_maps() -> None:
    a = torch.randn(2, 3, 6, 6)
    assert torch.equal(channel_mean(a), a.mean(1)) and torch.equal(absolute_channel_mean(a), a.abs().mean(1))
    small = pooled(2)(a)
    assert small.shape == (2, 3, 3) and float(small[1, 0, 2]) == pytest.approx(float(a[1, :, :2, 4:].mean()))
    torch.testing.assert_close(pooled(2, absolute_channel_mean)(a)[0, 0, 0], a[0, :, :2, :2].abs().mean())
    network, x = relu_net(), images()
    assert maps(network, x, reduce=pooled(4), represent="").shape == (5, 2, 2)


def test_a_method_may_be_a_function() -> None:
    network, x = relu_net(), images()
    ten = maps(network, x, lambda n, x, where: 10 * input_x_gradient(n, x, where), represent="")
    torch.testing.assert_close(ten, 10 * maps(network, x, represent=""))


# --- wrong input


def test_wrong_input_is_named() -> None:
    network, x = relu_net(dtype=torch.float32), images(dtype=torch.float32)
    with pytest.raises(UnknownName, match="input_x_gradient"):
        maps(network, x, "input_gradient")
    with pytest.raises(ShapeMismatch, match=r"float \(n, C, H, W\).*torch.uint8"):
        maps(network, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ShapeMismatch, match="not list"):
        maps(network, [1, 2])
    with pytest.raises(ShapeMismatch, match=r"Sequential does not take images of shape \(5, 1, 8, 8\).*prepare="):
        maps(network, x[:, :1])
    with pytest.raises(ReuseError, match="at least 1"):
        maps(network, x, batch=0)
    with pytest.raises(ReuseError, match="0 probe images"):
        maps(network, x[:0])
    with pytest.raises(ReuseError, match="No gradient reaches the images"):
        maps(network, x, represent=lambda n, x: n(x).detach())
    for epsilon in (0, -1e-4):
        with pytest.raises(ReuseError, match="above 0"):
            epsilon_lrp(network, x, "", epsilon)


def test_a_norm_of_the_batch_is_refused_for_more_than_one_image() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU())
    x = images(dtype=torch.float32)
    with pytest.raises(ReuseError, match="mix the images of a batch.*batch=1"):
        maps(network, x)
    assert maps(network, x, batch=1).shape == (5, 8, 8)
