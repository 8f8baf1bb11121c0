"""Feature amalgamation against slow formulas and its closed-form optimum."""

from __future__ import annotations

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import ReuseError
from reuselib.layerwise import AutoEncoder, ClassSets, FeatureLearning, Stage, Teachers, initialise, make_encoders
from reuselib.layerwise.autoencoder import (
    Amalgam,
    Encoders,
    Moments,
    affine,
    direct,
    incremental,
    principal_components,
    reconstruction_loss,
    rows,
    solve,
    unexplained_variance,
)


def correlated(count: int, channels: int, rank: int | None = None) -> Tensor:
    """Vectors of uneven variance, with a mean."""
    mixing = torch.randn(rank or channels, channels)
    return torch.randn(count, rank or channels) @ mixing + 3 * torch.randn(channels)


def solved(features: Tensor, hidden: int) -> AutoEncoder:
    moments = Moments()
    for part in features.split(7):
        moments.add(part)
    autoencoder = AutoEncoder(features.shape[1], hidden, features.ndim == 4)
    autoencoder.solve(*moments.solution())
    return autoencoder


def test_moments_of_batches_are_those_of_the_whole() -> None:
    maps = torch.randn(20, 5, 3, 4).relu()
    moments = Moments()
    for part in maps.split(6):
        moments.add(part)
    mean, covariance = moments.solution()
    vectors = torch.stack([maps[n, :, i, j] for n in range(20) for i in range(3) for j in range(4)]).double()
    assert torch.equal(rows(maps), vectors.float())
    torch.testing.assert_close(mean, vectors.mean(0))
    torch.testing.assert_close(covariance, torch.cov(vectors.T, correction=0))
    with pytest.raises(ReuseError, match="at least one image"):
        Moments().solution()


def test_components_are_orthonormal_and_ordered() -> None:
    covariance = torch.cov(correlated(100, 6).double().T, correction=0)
    values, components = principal_components(covariance, 4)
    assert torch.equal(values, values.sort(descending=True).values) and values.shape == (6,)
    torch.testing.assert_close(components @ components.T, torch.eye(4).double())
    torch.testing.assert_close(components @ covariance @ components.T, values[:4].diag())
    assert not principal_components(covariance, 8)[1][6:].any()


@pytest.mark.parametrize("hidden", [1, 3, 6])
def test_the_optimum_is_the_sum_of_the_eigenvalues_left_out(hidden: int) -> None:
    features = correlated(300, 6)
    values, _ = principal_components(torch.cov(features.double().T, correction=0), hidden)
    _, returned = solved(features, hidden)(features)
    loss, least = reconstruction_loss(features, returned), values[hidden:].sum() / 6
    assert loss.item() == pytest.approx(least.item(), rel=1e-4, abs=1e-9)
    share = values[hidden:].sum() / values.sum()
    assert unexplained_variance(features, returned).item() == pytest.approx(share.item(), rel=1e-3, abs=1e-9)


def test_training_never_gets_below_the_optimum_and_comes_near() -> None:
    features = correlated(300, 6)
    least = reconstruction_loss(features, solved(features, 3)(features)[1]).item()
    autoencoder = AutoEncoder(6, 3, False)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=0.05)
    for _ in range(600):
        loss = reconstruction_loss(features, autoencoder(features)[1])
        assert loss.item() >= least * (1 - 1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.2 * least


def test_equal_teachers_are_compressed_without_loss() -> None:
    features = torch.randn(40, 5, 3, 3)
    both = torch.cat([features, features], 1)
    _, returned = solved(both, 5)(both)
    assert unexplained_variance(both, returned) < 1e-6


def test_a_code_may_be_wider_than_the_features() -> None:
    features = correlated(50, 4)
    code, returned = solved(features, 6)(features)
    assert code.shape == (50, 6) and unexplained_variance(features, returned) < 1e-6


@pytest.mark.parametrize("spatial", [True, False])
def test_encoder_and_decoder_are_affine(spatial: bool) -> None:
    autoencoder = AutoEncoder(6, 4, spatial)
    shape = (3, 6, 2, 2) if spatial else (3, 6)
    for layer, channels in ((autoencoder.encoder, 6), (autoencoder.decoder, 4)):
        nn.init.normal_(layer.bias)
        x, y = torch.randn(2, *shape)[:, :, :channels]
        origin = layer(torch.zeros_like(x))
        left = layer(0.3 * x - 2 * y) - origin
        torch.testing.assert_close(left, 0.3 * (layer(x) - origin) - 2 * (layer(y) - origin))
    code, returned = autoencoder(torch.randn(shape))
    assert code.shape == (3, 4, *shape[2:]) and returned.shape == shape


def test_a_new_layer_has_variance_one_over_fan_in_and_no_bias() -> None:
    for layer, fan_in in ((affine(400, 300, True), 400), (affine(400, 300, False), 400), (nn.Conv2d(60, 90, 3), 540)):
        initialise(layer)
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)
        assert layer.weight.abs().max() <= (3 / fan_in) ** 0.5 and not layer.bias.any()
    assert initialise(nn.Conv2d(2, 2, 1, bias=False)).bias is None


def test_mean_and_sum_of_the_teachers_errors() -> None:
    """The sum of the teachers' mean squared errors is T times that of the concatenation, if they are as wide."""
    features, returned = [torch.randn(4, 5, 2, 2) for _ in range(3)], [torch.randn(4, 5, 2, 2) for _ in range(3)]
    each = sum(reconstruction_loss(f, r) for f, r in zip(features, returned, strict=True))
    torch.testing.assert_close(each, 3 * reconstruction_loss(torch.cat(features, 1), torch.cat(returned, 1)))
    half = reconstruction_loss(features[0].bfloat16(), returned[0].bfloat16())
    assert half.dtype == torch.float32


def test_unexplained_variance_is_one_for_the_mean_and_zero_for_the_target() -> None:
    target = torch.randn(30, 4, 3, 3) + torch.arange(4).view(1, 4, 1, 1)
    mean = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert unexplained_variance(target, mean).item() == pytest.approx(1, rel=1e-4)
    assert unexplained_variance(target, target) == 0 == unexplained_variance(torch.ones(3, 2), torch.ones(3, 2))
    deviation = ((target - mean) ** 2).sum()
    output = torch.randn_like(target)
    expected = ((output - target) ** 2).sum() / deviation
    torch.testing.assert_close(unexplained_variance(target, output), expected)


# --- several teachers ------------------------------------------------------------------------------------------------


def test_who_enters_when() -> None:
    assert direct(4) == ((0, 1, 2, 3),)
    assert incremental(range(4)) == ((0, 1), (2,), (3,)) and incremental([3, 1, 0]) == ((1, 3), (0,))
    assert incremental(range(2)) == direct(2) and incremental(range(1)) == direct(1)


def amalgam(entering: tuple, widths: tuple = (3, 4, 2), hidden: int = 4) -> Amalgam:
    with run.seeded(3):
        return Amalgam(widths, hidden, True, entering)


def test_the_incremental_way_has_one_auto_encoder_less_than_teachers_each_with_two_inputs() -> None:
    steps = amalgam(incremental(range(3))).autoencoders
    assert [step.encoder.in_channels for step in steps] == [3 + 4, 4 + 2]
    assert all(step.encoder.out_channels == 4 for step in steps)
    assert [step.encoder.in_channels for step in amalgam(direct(3)).autoencoders] == [9]
    assert len(Amalgam((2,) * 5, 2, False, incremental(range(5))).steps) == 4


def test_two_teachers_are_amalgamated_alike_in_both_ways() -> None:
    a, b = (amalgam(way, (3, 4)) for way in (direct(2), incremental(range(2))))
    features = [torch.randn(2, 3, 2, 2), torch.randn(2, 4, 2, 2)]
    assert torch.equal(a(features)[0], b(features)[0]) and not list(
        players.differences(players.state(a), players.state(b))
    )


@pytest.mark.parametrize("entering", [direct(3), incremental(range(3)), incremental([2, 0, 1])])
def test_the_chain_of_auto_encoders_by_hand(entering: tuple) -> None:
    network, features = amalgam(entering), [torch.randn(2, width, 2, 2) for width in (3, 4, 2)]
    code, pairs = network(features, reconstruct=True)
    assert network(features)[1] == [] and torch.equal(network(features)[0], code)
    held, expected = None, []
    for teachers, autoencoder in zip(entering, network.autoencoders, strict=True):
        given = torch.cat(([] if held is None else [held]) + [features[t] for t in teachers], 1)
        held = autoencoder.encoder(given)
        expected.append((given, autoencoder.decoder(held)))
    assert torch.equal(code, held)
    for (given, returned), (wanted, wanted_back) in zip(pairs, expected, strict=True):
        assert torch.equal(given, wanted) and torch.equal(returned, wanted_back)
    decoded = network.decode(code)
    assert [each.shape for each in decoded] == [each.shape for each in features]
    part = network.autoencoders[-1].decoder(code)
    assert torch.equal(decoded[entering[-1][-1]], part[:, -features[entering[-1][-1]].shape[1] :])


def test_an_auto_encoder_learns_nothing_from_those_after_it() -> None:
    network, features = amalgam(incremental(range(3))), [torch.randn(2, width, 2, 2) for width in (3, 4, 2)]
    _, pairs = network(features, reconstruct=True)
    reconstruction_loss(*pairs[1]).backward()
    first, second = network.autoencoders
    assert all(p.grad is None for p in first.parameters()) and all(p.grad is not None for p in second.parameters())


# --- encoders of real teachers ---------------------------------------------------------------------------------------


def encoders(incremental: bool = False) -> tuple[players.Cast, Teachers, Encoders]:
    cast = players.cast()
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    return cast, teachers, make_encoders(teachers, cast.plain, cast.images, incremental=incremental)


def lost(teachers: Teachers, network: Encoders, images: Tensor) -> list[float]:
    features, _ = teachers(images, network.layers)
    with torch.no_grad():
        returned = network.decode(network(features)[0])
    return [
        unexplained_variance(torch.cat(f, 1), torch.cat(r, 1)).item() for f, r in zip(features, returned, strict=True)
    ]


def test_encoders_fit_the_layers() -> None:
    _, _, network = encoders()
    assert network.layers == [(f"blocks.{k}.0",) * 2 for k in range(3)]
    assert [each.widths for each in network.amalgams] == [(4, 5), (8, 10), (16, 20)]
    assert [each.hidden for each in network.amalgams] == [6, 12, 24]


def test_solving_gives_the_least_loss() -> None:
    cast, teachers, network = encoders()
    images = cast.images.normalised(cast.images.images)
    solve(network, teachers, cast.images, batch=7)
    best = lost(teachers, network, images)
    features, _ = teachers(images, network.layers)
    for amalgamated, each, found in zip(network.amalgams, features, best, strict=True):
        covariance = torch.cov(rows(torch.cat(each, 1)).double().T, correction=0)
        values, _ = principal_components(covariance, amalgamated.hidden)
        share = (values[amalgamated.hidden :].sum() / values.sum()).item()
        assert found == pytest.approx(share, rel=1e-2, abs=1e-7)
    method = FeatureLearning(teachers, network, cast.images, stage=Stage(20, 1e-3), batch=20, precision="fp32")
    for _ in range(20):
        method.step()
    assert all(after >= before - 1e-7 for before, after in zip(best, lost(teachers, network, images), strict=True))


def test_all_at_once_loses_no_more_than_one_after_the_other() -> None:
    cast = players.cast()
    with run.seeded(5):
        networks = [players.models.conv3(width=4, classes=2) for _ in range(4)]
    teachers, images = Teachers(networks), cast.images.normalised(cast.images.images)
    with run.seeded(6):
        student = players.models.conv3(width=5, classes=8)
    results = []
    for options in ({}, {"incremental": True}, {"incremental": True, "order": [3, 2, 1, 0]}):
        network = make_encoders(teachers, student, cast.images, **options)
        solve(network, teachers, cast.images)
        results.append(lost(teachers, network, images))
    for way in results[1:]:
        assert all(once <= turn + 1e-6 for once, turn in zip(results[0], way, strict=True))
    assert results[1] != results[2]


@pytest.mark.parametrize("order", [[0], [0, 0], [1, 2], [0, 1, 2]])
def test_an_order_must_name_each_teacher_once(order: list[int]) -> None:
    cast = players.cast()
    with pytest.raises(ReuseError, match="must name 0 to 1 once each"):
        make_encoders(Teachers(cast.teachers), cast.plain, cast.images, incremental=True, order=order)
