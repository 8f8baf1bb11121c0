"""Graphs of every layer, and cuts that freeze what is transferred."""

from __future__ import annotations

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.attribution.method import absolute_channel_mean, channel_mean
from reuselib.depara import Cut, Graph, cut, graph_similarity, layer_graphs, layer_names
from reuselib.depara.layers import finished
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName


def network(seed: int = 0, classes: int = 4) -> nets.Classifier:
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


LAYERS = ["blocks.0.0", "blocks.1.0", "blocks.2.0", "head"]


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def alone(net: nn.Module, name: str, reduce=absolute_channel_mean, centred: bool = False) -> Graph:
    """The graph of one layer, in plain PyTorch."""
    with run.frozen(net):
        x = images().requires_grad_()
        seen: list[Tensor] = []
        module = dict(net.named_modules())[name]
        hook = module.register_forward_hook(lambda *a: seen.append(a[2].clone()))
        net(x)
        hook.remove()
        seen[0].flatten(1).mean(1).sum().backward()
    return Graph.of(reduce(x.detach() * x.grad), seen[0].detach().flatten(1), centred)


def equal(a: Graph, b: Graph) -> bool:
    return torch.allclose(a.nodes, b.nodes, atol=1e-6) and torch.allclose(a.edges, b.edges, atol=1e-6)


# --- graphs (8)


def test_layers_are_found_in_the_order_in_which_they_run() -> None:
    assert layer_names(network(), images()) == LAYERS

    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).mean((2, 3)))

    assert layer_names(Reversed(), images()) == ["first", "last"]
    assert finished(Reversed(), images()) == ["first", "last", ""]


@pytest.mark.parametrize("memory", [1, 4 * 6 * (256 + 128), 2**30])
@pytest.mark.parametrize("batch", [2, 4, 100])
def test_every_layer_has_a_gradient_of_its_own(memory: int, batch: int) -> None:
    net = network()
    found = layer_graphs(net, images(), batch=batch, memory=memory)
    assert list(found) == LAYERS
    for name in LAYERS:
        assert equal(found[name], alone(net, name)), name
    assert equal(layer_graphs(net, images(), ["head"])["head"], found["head"])


def test_the_last_layer_of_the_target_is_the_target() -> None:
    net = network()
    found, target = layer_graphs(net, images()), layer_graphs(net, images(), [""])[""]
    for lambda_ in (1, 10):
        assert graph_similarity(found["head"], target, lambda_) == pytest.approx(1 + lambda_, abs=1e-6)
    assert graph_similarity(found["blocks.0.0"], target) < 1.9


def test_outputs_are_taken_before_a_relu_that_works_in_place() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu_(self.layer(x)).mean((2, 3)))

    net = Bare()
    found = layer_graphs(net, images())["layer"]
    with torch.no_grad():
        expected = Graph.of(torch.ones(6, 1), net.layer(images()).flatten(1), centred=False)
    torch.testing.assert_close(found.edges, expected.edges)


def test_signed_maps_and_centred_features_on_demand() -> None:
    net = network()
    found = layer_graphs(net, images(), reduce=channel_mean, centred=True)
    for name in LAYERS:
        assert equal(found[name], alone(net, name, channel_mean, True))
    assert (layer_graphs(net, images())["head"].nodes >= 0).all() and (found["head"].nodes < 0).any()


@pytest.mark.parametrize("memory", [1, 2**30])
def test_the_official_codes_running_sum_is_an_option(memory: int) -> None:
    net = network()
    found = layer_graphs(net, images(), cumulative=True, batch=4, memory=memory)
    x = images()
    total = torch.zeros_like(x)
    for name in LAYERS:
        with run.frozen(net):
            y = images().requires_grad_()
            with nets.tap(net, name) as seen:
                layer = dict(net.named_modules())[name]
                hook = layer.register_forward_hook(lambda *a: a[2].clone())
                net(y)
                hook.remove()
            total += torch.autograd.grad(seen[name].flatten(1).mean(1).sum(), y)[0]
        expected = Graph.of(absolute_channel_mean(x * total), torch.randn(6, 2))
        torch.testing.assert_close(found[name].nodes, expected.nodes, atol=1e-6, rtol=0)
    assert not equal(found["head"], alone(net, "head"))


def test_the_network_is_left_as_it_was_also_after_an_exception() -> None:
    net = network().train()
    state = players.state(net)
    layer_graphs(net, images(), batch=4)
    rigged = players.rigged(absolute_channel_mean, at=2)
    with pytest.raises(players.Explosion):
        layer_graphs(net, images(), reduce=rigged)
    with pytest.raises(UnknownName, match="blocks.1"):
        layer_graphs(net, images(), ["blocks.0", "block.1"])
    assert not list(players.differences(players.state(net), state))
    assert players.hooks(net) == 0 and all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_what_is_no_layer_is_named() -> None:
    net = network()
    net.spare = nn.Linear(2, 2)
    with pytest.raises(ReuseError, match="'spare' of Classifier does not run"):
        layer_graphs(net, images(), ["head", "spare"])
    with pytest.raises(ShapeMismatch, match="takes images of shape"):
        layer_graphs(net, torch.randn(4, 1, 8, 8))


# --- cuts (9)


def build(classes: int = 4):
    return lambda: nets.conv3(width=4, classes=classes, channels=3, batch_norm=True)


def train(net: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        net(images()).square().mean().backward()
        optimizer.step()


def parts(net: nn.Module, frozen: bool, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The state of the modules that are, or are not, among the names."""
    return {
        key: value.clone() for key, value in net.state_dict().items() if (key.rpartition(".")[0] in names) == frozen
    }


@pytest.mark.parametrize("layer", LAYERS[:3])
def test_what_is_cut_stays_bit_for_bit_and_the_rest_learns(layer: str) -> None:
    source = network(1)
    made = cut(source, build(), layer, images(), seed=3)
    frozen = parts(made.network, True, made.frozen)
    assert frozen and all(torch.equal(value, source.state_dict()[key]) for key, value in frozen.items())
    assert any("running_mean" in key for key in frozen)  # the batch norm goes with its convolution
    tail = parts(made.network, False, made.frozen)
    assert all(not torch.equal(tail[key], source.state_dict()[key]) for key in tail if key.endswith("0.weight"))
    before = players.state(source)
    train(made)
    assert all(torch.equal(value, frozen[key]) for key, value in parts(made.network, True, made.frozen).items())
    assert not any(torch.equal(value, tail[key]) for key, value in parts(made.network, False, made.frozen).items())
    assert not list(players.differences(players.state(source), before)) and players.hooks(source) == 0


def test_fresh_layers_start_alike_for_one_seed_wherever_the_cut_is() -> None:
    made = [cut(network(1), build(), layer, images(), seed=3) for layer in LAYERS]
    last = made[2]
    for other in made[:2]:
        for key, value in parts(last.network, False, last.frozen).items():
            assert torch.equal(value, other.network.state_dict()[key])
    assert not torch.equal(
        cut(network(1), build(), LAYERS[0], images(), seed=4).network.head.weight, last.network.head.weight
    )
    assert not list(players.differences(players.state(network(1)), players.state(made[3].network)))


def test_frozen_blocks_stay_in_evaluation_mode() -> None:
    made = cut(network(1), build(), "blocks.1.0", images())
    made.train()
    modes = {name: module.training for name, module in made.network.named_modules()}
    assert not modes["blocks.0.0"] and not modes["blocks.0.1"] and not modes["blocks.1.1"] and modes["blocks.2.1"]
    assert made.frozen[-1] == "blocks.1.1" and {"blocks.0", "blocks.1.0"} <= set(made.frozen)
    learning = [name for name, p in made.network.named_parameters() if p.requires_grad]
    assert learning == [name for name, _ in made.network.named_parameters() if name.startswith(("blocks.2", "head"))]
    assert not any(module.training for module in made.eval().modules())
    assert isinstance(made, Cut) and torch.equal(made(images()), made.network(images()))


def test_the_papers_cut_leaves_the_norm_behind() -> None:
    source = network(1)
    made = cut(source, build(), "blocks.0.0", images(), norm=False)
    assert made.frozen == ("blocks.0.0",)
    assert not torch.equal(made.network.blocks[0][1].running_mean, source.blocks[0][1].running_mean)


def test_a_whole_residual_stage_may_be_cut() -> None:
    source, make = nets.small_resnet(width=4, channels=3), lambda: nets.small_resnet(width=4, channels=3, classes=3)
    made = cut(source, make, "blocks.1", images())
    own = made.network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in source.blocks[:2].state_dict(prefix="blocks.").items())
    frozen = {name for name, p in made.network.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in source.named_parameters() if name.startswith(("blocks.0", "blocks.1"))}


def test_a_source_may_have_other_names_and_another_head() -> None:
    source = network(1, classes=9)
    made = cut(
        nn.Sequential(source),
        build(),
        "blocks.0.0",
        images(),
        names={f"blocks.0.{i}": f"0.blocks.0.{i}" for i in (0, 1)},
    )
    assert torch.equal(made.network.blocks[0][0].weight, source.blocks[0][0].weight)
    with pytest.raises(ShapeMismatch, match="no module 'head' with weights of the shapes of 'head'.*names="):
        cut(source, build(), "head", images())
    with pytest.raises(ShapeMismatch, match="'blocks.0.0'"):
        cut(nn.Sequential(source), build(), "head", images())
    with pytest.raises(UnknownName, match="blocks.0"):
        cut(source, build(), "block.0", images())
    with pytest.raises(ReuseError, match="does not run"):
        cut(source, lambda: spare(build()()), "spare", images())


def spare(net: nn.Module) -> nn.Module:
    net.spare = nn.Linear(2, 2)
    return net
