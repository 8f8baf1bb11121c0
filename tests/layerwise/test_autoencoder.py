"""Feature amalgamation: its networks, and its closed-form optimum."""

from __future__ import annotations

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.errors import ReuseError
from reuselib.layerwise import (
    AutoEncoder,
    ClassSets,
    Encoders,
    FeatureLearning,
    Stage,
    Teachers,
    initialise,
    losses,
    make_encoders,
)
from reuselib.layerwise.autoencoder import Amalgam, Entering, Moments, affine, direct, incremental, solve


def solved(features: Tensor, hidden: int) -> AutoEncoder:
    moments = Moments()
    for part in features.split(7):
        moments.add(part)
    autoencoder = AutoEncoder(features.shape[1], hidden, features.ndim == 4)
    autoencoder.solve(*moments.solution())
    return autoencoder


def test_moments_of_batches_are_those_of_the_whole() -> None:
    maps, moments = torch.randn(20, 5, 3, 4).relu(), Moments()
    for part in maps.split(6):
        moments.add(part)
    mean, covariance = moments.solution()
    vectors = torch.stack([maps[n, :, i, j] for n in range(20) for i in range(3) for j in range(4)]).double()
    assert torch.equal(losses.rows(maps), vectors.float())
    torch.testing.assert_close(mean, vectors.mean(0))
    torch.testing.assert_close(covariance, torch.cov(vectors.T, correction=0))


def test_the_optimum_is_the_sum_of_the_eigenvalues_left_out_and_training_never_gets_below_it() -> None:
    features = torch.randn(300, 6) @ torch.randn(6, 6) + 3 * torch.randn(6)
    for hidden in (1, 3, 6, 8):
        values, _ = losses.principal_components(torch.cov(features.double().T, correction=0), hidden)
        _, returned = solved(features, hidden)(features)
        least = values[hidden:].sum().item() / 6
        assert losses.reconstruction_loss(features, returned).item() == pytest.approx(least, rel=1e-4, abs=1e-9)
        share = values[hidden:].sum().item() / values.sum().item()
        assert losses.unexplained_variance(features, returned).item() == pytest.approx(share, rel=1e-3, abs=1e-6)
    least = losses.reconstruction_loss(features, solved(features, 3)(features)[1]).item()
    autoencoder = AutoEncoder(6, 3, False)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=0.05)
    for _ in range(600):
        loss = losses.reconstruction_loss(features, autoencoder(features)[1])
        assert loss.item() >= least * (1 - 1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.2 * least


def test_equal_teachers_are_compressed_without_loss() -> None:
    both = torch.randn(40, 5, 3, 3).repeat(1, 2, 1, 1)
    assert losses.unexplained_variance(both, solved(both, 5)(both)[1]) < 1e-6


def test_a_new_layer_has_variance_one_over_fan_in_and_no_bias() -> None:
    for layer, fan_in in ((affine(400, 300, True), 400), (affine(400, 300, False), 400), (nn.Conv2d(60, 90, 3), 540)):
        initialise(layer)
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)
        assert layer.weight.abs().max() <= (3 / fan_in) ** 0.5 and not layer.bias.any()
    assert initialise(nn.Conv2d(2, 2, 1, bias=False)).bias is None


# --- several teachers ------------------------------------------------------------------------------------------------


def amalgam(entering: Entering, widths: tuple = (3, 4, 2)) -> Amalgam:
    with run.seeded(3):
        return Amalgam(widths, 4, True, entering)


def test_who_enters_when() -> None:
    assert direct(4) == ((0, 1, 2, 3),)
    assert incremental(range(4)) == ((0, 1), (2,), (3,)) and incremental([3, 1, 0]) == ((1, 3), (0,))
    assert incremental(range(2)) == direct(2) and incremental(range(1)) == direct(1)
    steps = amalgam(incremental(range(3))).autoencoders
    assert [(step.encoder.in_channels, step.encoder.out_channels) for step in steps] == [(3 + 4, 4), (4 + 2, 4)]
    assert [step.encoder.in_channels for step in amalgam(direct(3)).autoencoders] == [9]


@pytest.mark.parametrize("entering", [direct(3), incremental(range(3)), incremental([2, 0, 1])])
def test_the_chain_of_auto_encoders_by_hand(entering: Entering) -> None:
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
    losses.reconstruction_loss(*pairs[-1]).backward()  # no auto-encoder learns from those after it
    assert [step.encoder.weight.grad is None for step in network.autoencoders] == [True] * (len(entering) - 1) + [False]


# --- encoders of real teachers ---------------------------------------------------------------------------------------


def lost(teachers: Teachers, network: Encoders, images: Tensor) -> list[float]:
    features, _ = teachers(images, network.layers)
    with torch.no_grad():
        returned = network.decode(network(features)[0])
    pairs = zip(features, returned, strict=True)
    return [losses.unexplained_variance(torch.cat(f, 1), torch.cat(r, 1)).item() for f, r in pairs]


def test_solving_gives_the_least_loss_of_encoders_that_fit_the_layers() -> None:
    cast = players.cast()
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    network = make_encoders(teachers, cast.plain, cast.images)
    assert network.layers == [(f"blocks.{k}.0",) * 2 for k in range(3)]
    assert [each.widths for each in network.amalgams] == [(4, 5), (8, 10), (16, 20)]
    assert [each.hidden for each in network.amalgams] == [6, 12, 24]
    images = cast.images.normalised(cast.images.images)
    solve(network, teachers, cast.images, batch=7)
    best = lost(teachers, network, images)
    features, _ = teachers(images, network.layers)
    for amalgamated, each, found in zip(network.amalgams, features, best, strict=True):
        covariance = torch.cov(losses.rows(torch.cat(each, 1)).double().T, correction=0)
        values, _ = losses.principal_components(covariance, amalgamated.hidden)
        share = (values[amalgamated.hidden :].sum() / values.sum()).item()
        assert found == pytest.approx(share, rel=1e-2, abs=1e-7)
    method = FeatureLearning(teachers, network, cast.images, Stage(20, 1e-3), batch=20, precision="fp32")
    for _ in range(20):
        method.step()
    assert all(after >= before - 1e-7 for before, after in zip(best, lost(teachers, network, images), strict=True))


def test_all_at_once_loses_no_more_than_one_after_the_other_and_each_enters_once() -> None:
    cast = players.cast()
    with run.seeded(5):
        networks = [nets.conv3(width=4, classes=2) for _ in range(4)]
        student = nets.conv3(width=5, classes=8)
    teachers, images = Teachers(networks, ClassSets.divide(range(8), 4)), cast.images.normalised(cast.images.images)
    results = []
    for entering in (None, incremental(range(4)), incremental([3, 2, 1, 0])):
        network = make_encoders(teachers, student, cast.images, entering)
        solve(network, teachers, cast.images)
        results.append(lost(teachers, network, images))
    for way in results[1:]:
        assert all(once <= turn + 1e-6 for once, turn in zip(results[0], way, strict=True))
    assert results[1] != results[2]
    for entering in (((0, 1), (2,)), ((0, 1), (1,), (2,), (3,)), incremental([1, 2, 3, 4])):
        with pytest.raises(ReuseError, match="Each of 4 teachers, counted from 0, must enter once"):
            make_encoders(teachers, student, cast.images, entering)
