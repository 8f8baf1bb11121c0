"""What batch norms see: moments against torch's own, the statistics loss, features, hooks (properties 5 and 9)."""

from __future__ import annotations

import plain_inversion
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets
from reuselib.cmi import InstanceHead, instance
from reuselib.cmi.instance import instance_accuracy, watched_features
from reuselib.cmi.statistics import _PixelMean, batch_norms, channel_moments, watch
from reuselib.errors import ReuseError, UnknownName


def reference(maps: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(maps.flatten(2), (0, 2), correction=0)
    return mean, variance


def example(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    """Maps with another mean and spread in each channel."""
    maps = torch.randn(shape) * torch.linspace(0.2, 3, shape[1]).view(1, -1, 1, 1) + torch.randn(1, shape[1], 1, 1)
    layout = torch.channels_last if last else torch.contiguous_format
    return maps.to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("last", [False, True])
def test_moments_and_their_gradients_are_those_of_var_mean(last: bool) -> None:
    for shape in ((4, 3, 5, 6), (1, 2, 4, 4), (2, 8, 1, 1), (64, 16, 8, 8), (7, 1, 3, 2)):
        maps, weights = example(*shape, last=last), torch.randn(2, shape[1])
        results = []
        for moments in (channel_moments, reference):
            x = maps.clone().requires_grad_()
            found = torch.stack(moments(x))
            (weights * found).sum().backward()
            results.append((found, x.grad))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        assert results[0][1].stride() == maps.stride()
    for dtype in (torch.bfloat16, torch.float16):  # half precision is summed in single
        maps = example(64, 8, 16, 16, dtype=dtype, last=last).requires_grad_()
        wide = maps.detach().float().requires_grad_()
        found, expected = channel_moments(maps), reference(wide)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for values in (found, expected):
            (values[0].sum() + values[1].sum()).backward()
        assert maps.grad.dtype == dtype and (maps.grad.float() - wide.grad).norm() / wide.grad.norm() < 0.02


def test_gradcheck_of_moments_and_of_the_mean_over_pixels_in_double_precision() -> None:
    maps = example(3, 2, 3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(channel_moments, (maps,)) and torch.autograd.gradcheck(_PixelMean.apply, (maps,))


def test_moments_far_from_zero_and_of_constant_maps() -> None:
    maps = 1000 + example(32, 4, 8, 8)
    torch.testing.assert_close(channel_moments(maps), reference(maps.double()), rtol=1e-4, atol=0, check_dtype=False)
    constant = torch.full((4, 2, 3, 3), 7.5).requires_grad_()
    mean, variance = channel_moments(constant)
    assert mean.tolist() == [7.5, 7.5] and variance.abs().max() < 1e-12
    variance.sum().backward()
    assert constant.grad.abs().max() < 1e-5


# ---- the loss and the features that a watch reads


def loss_of(network: nn.Module, images: Tensor) -> Tensor:
    with watch(network) as seen:
        network(images)
        return seen.statistics_loss()


def test_property_5_and_pitfall_11_equal_statistics_have_loss_and_gradient_zero_whatever_scale_and_offset() -> None:
    network, images = nn.Sequential(nn.BatchNorm2d(3)).eval(), example(8, 3, 4, 4).requires_grad_()
    # Whatever the kernel computes is what is remembered, so that both norms are exactly 0.
    network[0].running_mean, network[0].running_var = channel_moments(images.detach())
    nn.init.normal_(network[0].weight, 5)
    nn.init.normal_(network[0].bias, -3)
    loss = loss_of(network, images)
    loss.backward()
    assert loss.item() == 0 and (images.grad == 0).all()
    shift = torch.tensor([2.0, -3, 6]).view(1, 3, 1, 1)  # of length 7
    assert loss_of(network, images + shift).item() == pytest.approx(7, rel=1e-4)


def test_a_watch_reads_the_latest_pass_and_changes_nothing() -> None:
    network, images = players.cast().teacher.eval(), torch.randn(5, 1, 8, 8)
    before, expected = players.state(network), network(images)
    with watch(network) as seen:
        for read in (seen.features, seen.statistics_loss):
            with pytest.raises(ReuseError, match="Run it inside the context first"):
                read()
        network(images[:4])
        assert torch.equal(network(images), expected)
        loss = seen.statistics_loss()
        assert torch.equal(loss, loss_of(network, images)) and seen.features().shape[0] == 5
    assert not list(players.differences(players.state(network), before)) and players.hooks(network) == 0


STAGES = ("blocks.0.3", "blocks.1", "blocks.2", "blocks.3")


@pytest.mark.parametrize(
    ("network", "layers", "width"), [("wrn40_2", None, 2704), ("vgg11_bn", None, 2752), ("resnet34_8x", STAGES, 512)]
)
def test_property_9_widths_of_the_papers_features(network: str, layers: tuple[str, ...] | None, width: int) -> None:
    with torch.device("meta"):
        teacher = getattr(nets, network)().eval()
        with watch(teacher, layers) as seen:
            teacher(torch.empty(2, 3, 32, 32))
            assert seen.features().shape == (2, width) and seen.statistics_loss().shape == ()


@pytest.mark.parametrize("batch_norm", [True, False])
def test_named_layers_give_the_mean_of_their_inputs_and_do_without_batch_norms(batch_norm: bool) -> None:
    network, images = players.cast(batch_norm=batch_norm).teacher.eval(), torch.randn(3, 1, 8, 8)
    with watch(network, ("blocks.2", "blocks.0")) as seen:
        network(images)
        features = seen.features()
        assert seen.batch_norms == batch_norms(network, needed=False) and bool(seen.batch_norms) == batch_norm
    second = network.blocks[:2](images).mean((2, 3))
    torch.testing.assert_close(features, torch.cat([second, images.mean((2, 3))], 1))


class Mixed(nn.Module):
    """Every kind of batch norm, one that is used twice, and one that runs only while training, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.synced, self.rows = nn.BatchNorm2d(3), nn.SyncBatchNorm(3), nn.BatchNorm1d(3)
        self.branch = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.branch(x) if self.training else x
        return self.rows(self.maps(self.synced(self.maps(x)) + 1).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_use_of_every_kind_of_batch_norm_counts_if_it_runs(dtype: torch.dtype) -> None:
    network, images = Mixed().eval().to(dtype), example(4, 3, 5, 5, dtype=dtype).requires_grad_()
    for norm in network.children():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    synced = network.maps(images)
    again = network.synced(synced) + 1
    given = [("maps", images), ("synced", synced), ("maps", again), ("rows", network.maps(again).mean((2, 3)))]
    expected = torch.zeros(())
    for name, maps in given:
        known, (mean, variance) = network.get_submodule(name), reference(maps.detach().double().reshape(4, 3, -1))
        expected = expected + (mean - known.running_mean).norm() + (variance - known.running_var).norm()
    with watch(network) as found:
        for _ in range(2):  # the second pass replaces the first
            network(images)
        loss, features = found.statistics_loss(), found.features()
        loss.backward()
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0, check_dtype=False)
    assert features.shape == (4, 12) and images.grad.any()


def test_what_cannot_be_watched_is_refused_with_a_way_out_and_hooks_go_after_an_exception() -> None:
    mixed = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2), nn.BatchNorm1d(2))
    assert batch_norms(mixed) == {"1": mixed[1], "2": mixed[2]}  # of any kind; those without memory do not count
    without, teacher = players.cast(batch_norm=False).teacher, players.cast().teacher
    for network, layers, error, words in (
        (without, None, ReuseError, r"Classifier has no batch norm.*'dafl', 'zskt' or 'dfad'"),
        (mixed[0], None, ReuseError, "has no batch norm"),
        (teacher, ("blocks.1", "blocks.7"), UnknownName, r"module 'blocks\.7'.*Did you mean 'blocks\.[0-2]'"),
        (teacher, None, players.Explosion, None),
    ):
        with pytest.raises(error, match=words), watch(network, layers):
            raise players.Explosion
        assert players.hooks(network) == 0


# ---- telling images apart: how often one is found again from another view


def views(count: int, width: int, noise: float) -> tuple[Tensor, Tensor]:
    """Features (5, count, width) of two kinds of views of images, each around its image's own place."""
    random = torch.Generator().manual_seed(0)
    places = torch.randn(count, width, generator=random)
    first, second = (places + noise * torch.randn(5, count, width, generator=random) for _ in range(2))
    return first, second


def test_instance_accuracy_goes_from_chance_to_one_with_how_distinct_the_images_are() -> None:
    state = torch.get_rng_state()
    with torch.no_grad():  # measuring code often switches gradients off
        values = [instance_accuracy(*views(200, 16, noise), steps=100) for noise in (0.05, 0.05, 0.6, 3.0)]
    assert torch.equal(torch.get_rng_state(), state)
    assert values[0] == values[1] > 0.9 and values[1] > values[2] + 0.1 > values[3] + 0.2
    same = torch.randn(1, 1, 16).expand(5, 300, 16)
    assert instance_accuracy(same, same, steps=5) == pytest.approx(1 / 300)


def test_instance_accuracy_is_measured_on_views_that_were_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Listening(InstanceHead):
        def forward(self, features: Tensor) -> Tensor:
            seen.append(features)
            return super().forward(features)

    monkeypatch.setattr(instance, "InstanceHead", Listening)
    first, second = views(20, 8, 0.1)
    instance_accuracy(first, second, steps=6, batch=10)
    learned, tested = seen[:-2], seen[-2:]
    assert torch.equal(tested[0], first[-1]) and torch.equal(tested[1], second[-1])
    for step, (a, b) in enumerate(zip(learned[::2], learned[1::2], strict=True)):
        places = [int((first[step % 4] == row).all(1).nonzero()) for row in a]
        assert len(set(places)) == 10 and torch.equal(b, second[step % 4, places])


def test_watched_features_are_the_contrasts_own() -> None:
    teacher, images = players.cast().teacher.train(), torch.randn(1100, *players.IMAGE)
    before = players.state(teacher)
    found = watched_features(teacher, images)
    assert teacher.training and not list(players.differences(before, players.state(teacher)))
    torch.testing.assert_close(found, plain_inversion.inspect(teacher.eval(), images)[2].detach())
    assert watched_features(teacher, images[:5], ("blocks.2",)).shape == (5, 8)
