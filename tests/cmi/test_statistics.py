"""What batch norms see: moments against torch's own, the statistics loss, features, hooks (properties 5 and 9)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets
from reuselib.cmi.statistics import _PixelMean, batch_norms, channel_moments, has_batch_norm, watch
from reuselib.errors import ReuseError, UnknownName


def reference(maps: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
    return mean, variance


def example(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    """Maps with another mean and spread in each channel."""
    maps = torch.randn(shape) * torch.linspace(0.2, 3, shape[1]).view(1, -1, 1, 1) + torch.randn(1, shape[1], 1, 1)
    layout = torch.channels_last if last else torch.contiguous_format
    return maps.to(dtype).contiguous(memory_format=layout)


SHAPES = [(4, 3, 5, 6), (1, 2, 4, 4), (2, 8, 1, 1), (64, 16, 8, 8), (7, 1, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_moments_are_those_of_var_mean(shape: tuple[int, ...], last: bool) -> None:
    maps = example(*shape, last=last)
    torch.testing.assert_close(channel_moments(maps), reference(maps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_moments_are_those_of_var_mean(shape: tuple[int, ...], last: bool) -> None:
    gradients, weights = [], [torch.randn(shape[1]), torch.randn(shape[1])]
    for moments in (channel_moments, reference):
        torch.manual_seed(0)
        maps = example(*shape, last=last).requires_grad_()
        sum((weight * value).sum() for weight, value in zip(weights, moments(maps), strict=True)).backward()
        gradients.append(maps.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert gradients[0].stride() == maps.stride()


@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
def test_gradcheck_of_moments_in_double_precision(used: tuple[bool, bool]) -> None:
    maps = example(3, 2, 3, 2, dtype=torch.float64).requires_grad_()
    assert all(value.dtype == torch.float64 for value in channel_moments(maps))

    def chosen(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value, wanted in zip(channel_moments(x), used, strict=True) if wanted)

    assert torch.autograd.gradcheck(chosen, (maps,))


def test_gradcheck_of_the_mean_over_pixels() -> None:
    assert torch.autograd.gradcheck(_PixelMean.apply, (example(3, 2, 3, 2, dtype=torch.float64).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_moments_of_half_precision_are_summed_in_single(dtype: torch.dtype, last: bool) -> None:
    maps = example(64, 8, 16, 16, dtype=dtype, last=last).requires_grad_()
    found, expected = channel_moments(maps), reference(maps.detach().float())
    assert all(value.dtype == torch.float32 for value in found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (found[0].sum() + found[1].sum()).backward()
    wide = maps.detach().float().requires_grad_()
    sum(value.sum() for value in reference(wide)).backward()
    assert maps.grad.dtype == dtype
    error = (maps.grad.float() - wide.grad).norm() / wide.grad.norm()
    assert error < 0.02


def test_moments_far_from_zero_and_of_constant_maps() -> None:
    maps = 1000 + example(32, 4, 8, 8)
    torch.testing.assert_close(channel_moments(maps), reference(maps.double()), rtol=1e-4, atol=0, check_dtype=False)
    constant = torch.full((4, 2, 3, 3), 7.5).requires_grad_()
    mean, variance = channel_moments(constant)
    assert mean.tolist() == [7.5, 7.5] and variance.abs().max() < 1e-12
    variance.sum().backward()
    assert constant.grad.abs().max() < 1e-5


# ---- the loss that a watch reads


def one_batch_norm(width: int = 3) -> nn.Sequential:
    network = nn.Sequential(nn.BatchNorm2d(width), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(2, width, 4, 4))
    return network.eval()


def loss_of(network: nn.Module, images: Tensor) -> Tensor:
    with watch(network) as seen:
        network(images)
        return seen.statistics_loss()


def matched(network: nn.Sequential, images: Tensor) -> None:
    mean, variance = reference(images)
    network[0].running_mean.copy_(mean)
    network[0].running_var.copy_(variance)


def test_property_5_zero_at_equal_statistics_and_no_nan_in_the_gradient() -> None:
    network, images = one_batch_norm(), example(8, 3, 4, 4).requires_grad_()
    # Whatever the kernel computes is what is remembered, so that both norms are exactly 0 (pitfall 11).
    mean, variance = channel_moments(images.detach())
    network[0].running_mean.copy_(mean)
    network[0].running_var.copy_(variance)
    loss = loss_of(network, images)
    loss.backward()
    assert loss.item() == 0 and (images.grad == 0).all()


def test_property_5_a_shift_of_the_means_counts_with_its_length() -> None:
    network, images = one_batch_norm(), example(8, 3, 4, 4)
    matched(network, images)
    shift = torch.tensor([2.0, -3, 6])
    assert loss_of(network, images + shift.view(1, 3, 1, 1)).item() == pytest.approx(7, rel=1e-4)
    network[0].running_var.add_(shift)
    assert loss_of(network, images).item() == pytest.approx(7, rel=1e-4)


def test_property_5_scale_and_offset_of_a_batch_norm_do_not_matter_to_its_own_part() -> None:
    network, images = one_batch_norm(), example(8, 3, 4, 4)
    before = loss_of(network, images).item()
    nn.init.normal_(network[0].weight, 5)
    nn.init.normal_(network[0].bias, -3)
    assert loss_of(network, images).item() == before > 0.1


def plain_statistics(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the features with hooks and torch's own functions."""
    total, features = torch.zeros(()), []

    def look(layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        nonlocal total
        x = inputs[0]
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        total = total + (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
        features.append(x.mean((2, 3)))

    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    network(images)
    for handle in handles:
        handle.remove()
    return total, torch.cat(features, 1)


@pytest.mark.parametrize("build", [lambda: players.cast().teacher, lambda: nets.small_resnet(width=4, channels=1)])
def test_loss_and_features_equal_a_plain_version_and_so_do_their_gradients(build: Callable[[], nn.Module]) -> None:
    network, images, results = build(), torch.randn(6, 1, 8, 8), []
    with torch.no_grad():
        network(2 * torch.randn(50, 1, 8, 8) + 1)
    network.eval()
    for plain in (False, True):
        x = images.clone().requires_grad_()
        if plain:
            loss, features = plain_statistics(network, x)
        else:
            with watch(network) as seen:
                network(x)
                loss, features = seen.statistics_loss(), seen.features()
        (loss + features.square().sum()).backward()
        results.append((loss, features, x.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_watch_holds_the_latest_pass() -> None:
    network, first, second = players.cast().teacher.eval(), torch.randn(4, 1, 8, 8), torch.randn(5, 1, 8, 8)
    with watch(network) as seen:
        network(first)
        loss, features = seen.statistics_loss(), seen.features()
        network(second)
        assert seen.features().shape[0] == 5
        assert not torch.equal(seen.statistics_loss(), loss)
    assert torch.equal(loss, loss_of(network, first)) and features.shape[0] == 4


@pytest.mark.parametrize(
    ("network", "layers", "width"),
    [
        (nets.wrn40_2, None, 2704),
        (nets.vgg11_bn, None, 2752),
        (nets.resnet34_8x, ("blocks.0.3", "blocks.1", "blocks.2", "blocks.3"), 512),
    ],
)
def test_property_9_widths_of_the_papers_features(
    network: Callable[[], nn.Module], layers: tuple[str, ...] | None, width: int
) -> None:
    with torch.device("meta"):
        teacher = network().eval()
        with watch(teacher, layers) as seen:
            teacher(torch.empty(2, 3, 32, 32))
            assert seen.features().shape == (2, width)
            assert seen.statistics_loss().shape == ()


def test_named_layers_give_the_mean_of_their_inputs() -> None:
    network = players.cast().teacher.eval()
    images = torch.randn(3, 1, 8, 8)
    with watch(network, ("blocks.2", "blocks.0")) as seen:
        network(images)
        features = seen.features()
        assert seen.batch_norms == batch_norms(network)
    second = network.blocks[:2](images).mean((2, 3))
    torch.testing.assert_close(features, torch.cat([second, images.mean((2, 3))], 1))


def test_named_layers_do_without_batch_norms() -> None:
    network = players.cast(batch_norm=False).teacher
    with watch(network, ("blocks.1",)) as seen:
        network(torch.randn(3, 1, 8, 8))
        assert seen.features().shape == (3, 4) and seen.batch_norms == []
    with watch(network, ()) as seen:
        network(torch.randn(3, 1, 8, 8))


def test_layers_that_do_not_run_are_left_out() -> None:
    """An auxiliary classifier, as Inception has, runs only while training."""

    class WithBranch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.branch = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.branch(x) if self.training else self.trunk(x)).mean((2, 3))

    network, images = WithBranch().eval(), example(4, 3, 5, 5)
    with watch(network) as seen:
        network(images)
        assert seen.features().shape == (4, 3)
        expected = sum((a - b).norm() for a, b in zip(reference(images), (torch.zeros(3), torch.ones(3)), strict=True))
        torch.testing.assert_close(seen.statistics_loss(), expected)


# ---- hooks and errors


def test_hooks_go_after_use_and_after_an_exception() -> None:
    network = players.cast().teacher
    with watch(network):
        assert players.hooks(network) == 3
    assert players.hooks(network) == 0
    with pytest.raises(players.Explosion), watch(network):
        raise players.Explosion
    assert players.hooks(network) == 0


def test_batch_norms_without_memory_do_not_count() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2), nn.BatchNorm1d(2))
    assert batch_norms(network) == [network[1]] and has_batch_norm(network)
    assert not has_batch_norm(network[0])


def test_a_network_without_batch_norm_is_refused_with_a_way_out() -> None:
    network = players.cast(batch_norm=False).teacher
    message = r"Classifier has no BatchNorm2d.*'dafl', 'zskt' or 'dfad'"
    with pytest.raises(ReuseError, match=message):
        batch_norms(network)
    with pytest.raises(ReuseError, match=message), watch(network):
        pass
    assert players.hooks(network) == 0


def test_an_unknown_layer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match=r"module 'blocks\.7'.*Did you mean 'blocks\.[0-2]'"):
        with watch(players.cast().teacher, ("blocks.1", "blocks.7")):
            pass


def test_reading_before_a_forward_pass_is_refused() -> None:
    with watch(players.cast().teacher) as seen:
        for read in (seen.features, seen.statistics_loss):
            with pytest.raises(ReuseError, match="Run it inside the context first"):
                read()


def test_watching_changes_nothing() -> None:
    network = players.cast().teacher.eval()
    before, images = copy.deepcopy(network.state_dict()), torch.randn(3, 1, 8, 8)
    expected = network(images)
    with watch(network) as seen:
        assert torch.equal(network(images), expected)
        seen.statistics_loss().backward()
    assert not list(players.differences(players.state(network), before))
