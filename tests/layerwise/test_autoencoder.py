"""Feature amalgamation: its networks, and its closed-form optimum."""

from __future__ import annotations

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import ReuseError
from reuselib.layerwise import AutoEncoder, ClassSets, Teachers, initialise, losses, make_encoders
from reuselib.layerwise.autoencoder import Amalgam, Entering, Moments, affine, direct, incremental, solve


def least_share(features: Tensor, hidden: int) -> tuple[float, float]:
    """What a code of this length cannot give back: the mean of the eigenvalues left out, and their share of all."""
    vectors = features.movedim(1, -1).flatten(0, -2).double()
    values, _ = losses.principal_components(torch.cov(vectors.T, correction=0), hidden)
    return values[hidden:].sum().item() / len(values), values[hidden:].sum().item() / values.sum().item()


def test_moments_of_batches_are_those_of_the_whole() -> None:
    maps, moments = torch.randn(20, 5, 3, 4).relu(), Moments()
    for part in maps.split(6):
        moments.add(part)
    vectors = torch.stack([maps[n, :, i, j] for n in range(20) for i in range(3) for j in range(4)]).double()
    assert torch.equal(losses.rows(maps), vectors.float())
    torch.testing.assert_close(moments.solution(), (vectors.mean(0), torch.cov(vectors.T, correction=0)))


@pytest.mark.parametrize("hidden", [1, 3, 6, 8])
def test_the_optimum_is_the_sum_of_the_eigenvalues_left_out(hidden: int) -> None:
    features, moments = torch.randn(300, 6) @ torch.randn(6, 6) + 3 * torch.randn(6), Moments()
    moments.add(features)
    autoencoder = AutoEncoder(6, hidden, False)
    autoencoder.solve(*moments.solution())
    _, returned = autoencoder(features)
    least, share = least_share(features, hidden)
    assert losses.reconstruction_loss(features, returned).item() == pytest.approx(least, rel=1e-4, abs=1e-9)
    assert losses.unexplained_variance(features, returned).item() == pytest.approx(share, rel=1e-3, abs=1e-6)


def test_a_new_layer_has_variance_one_over_fan_in_and_no_bias() -> None:
    for layer, fan_in in ((affine(400, 300, True), 400), (affine(400, 300, False), 400), (nn.Conv2d(60, 90, 3), 540)):
        initialise(layer)
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)
        assert layer.weight.abs().max() <= (3 / fan_in) ** 0.5 and not layer.bias.any()
    assert initialise(nn.Conv2d(2, 2, 1, bias=False)).bias is None


# --- several teachers ------------------------------------------------------------------------------------------------


def test_who_enters_when() -> None:
    assert direct(4) == ((0, 1, 2, 3),)
    assert incremental(range(4)) == ((0, 1), (2,), (3,)) and incremental([3, 1, 0]) == ((1, 3), (0,))
    assert incremental(range(2)) == incremental([1, 0]) == direct(2) and incremental(range(1)) == direct(1)
    cast = players.cast()
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    for entering in (((0,),), ((0, 1), (1,)), ((1, 2),)):
        with pytest.raises(ReuseError, match="Each of 2 teachers, counted from 0, must enter once"):
            make_encoders(teachers, cast.plain, cast.images, entering)


@pytest.mark.parametrize("entering", [direct(3), incremental(range(3)), incremental([2, 0, 1])])
def test_the_chain_of_auto_encoders_by_hand(entering: Entering) -> None:
    features = [torch.randn(2, width, 2, 2) for width in (3, 4, 2)]
    with run.seeded(3):
        network = Amalgam((3, 4, 2), 4, True, entering)
    code, pairs = network(features, reconstruct=True)
    assert network(features)[1] == [] and torch.equal(network(features)[0], code)
    held, expected = None, []
    for teachers, autoencoder in zip(entering, network.autoencoders, strict=True):
        given = torch.cat(([] if held is None else [held]) + [features[t] for t in teachers], 1)
        held = autoencoder.encoder(given)
        expected.append((given, autoencoder.decoder(held)))
    torch.testing.assert_close((code, pairs), (held, expected), rtol=0, atol=0)
    decoded = network.decode(code)
    assert [each.shape for each in decoded] == [each.shape for each in features]
    part = network.autoencoders[-1].decoder(code)
    assert torch.equal(decoded[entering[-1][-1]], part[:, -features[entering[-1][-1]].shape[1] :])
    losses.reconstruction_loss(*pairs[-1]).backward()  # no auto-encoder learns from those after it
    assert [step.encoder.weight.grad is None for step in network.autoencoders] == [True] * (len(entering) - 1) + [False]


def test_solving_gives_the_least_loss_of_encoders_that_fit_the_layers() -> None:
    cast = players.cast()
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    network = make_encoders(teachers, cast.plain, cast.images)
    assert network.layers == [(f"blocks.{k}.0",) * 2 for k in range(3)]
    assert [(each.widths, each.hidden) for each in network.amalgams] == [((4, 5), 6), ((8, 10), 12), ((16, 20), 24)]
    solve(network, teachers, cast.images, batch=7)
    features, _ = teachers(cast.images.normalised(cast.images.images), network.layers)
    returned = network.decode(network(features)[0])
    for amalgam, given, back in zip(network.amalgams, features, returned, strict=True):
        found = losses.unexplained_variance(torch.cat(given, 1), torch.cat(back, 1)).item()
        assert found == pytest.approx(least_share(torch.cat(given, 1), amalgam.hidden)[1], rel=1e-2, abs=1e-7)
