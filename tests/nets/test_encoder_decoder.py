"""The networks of the rooms: shapes, and what other tasks may reuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_shapes_gradients_and_the_representation(encoder: str) -> None:
    for outputs, dense, shape in ((3, True, (3, 32, 32)), (7, True, (7, 32, 32)), (9, False, (9,))):
        network, images = nets.task_network(outputs, dense, encoder), torch.randn(4, 3, 32, 32)
        answer = network(images)
        assert answer.shape == (4, *shape)
        answer.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        code = network.eval().represent(images)  # after a ReLU and before the decoder
        assert code.shape == (4, 8, 8, 8) and code.min() == 0 and torch.equal(network.encoder(images), code)
        assert torch.equal(network(images), network.decoder(code))
        readout = nets.readout(outputs, dense)
        assert readout(code).shape == answer.shape
        meta = network.to("meta")(images.to("meta")), readout.to("meta")(code.to("meta"))
        assert [each.shape for each in meta] == [answer.shape] * 2


def test_the_decoder_reads_a_grid_of_the_right_neighbours() -> None:
    """Each quarter of the grid decodes into its quarter of the picture: nothing is transposed."""
    decoder = nets.dense_decoder(1).eval()
    code = torch.zeros(1, 8, 8, 8)
    before = decoder(code)
    code[:, :, 0, 7] = 5
    changed = (decoder(code) - before)[0, 0].abs() > 1e-6
    assert changed[:16, 16:].any() and not changed[16:].any() and not changed[:, :16].any()


def test_wrong_images_and_names() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(batch, 3, any, any\), not \(2, 1, 32, 32\).*channels=3"):
        nets.task_network(1)(torch.randn(2, 1, 32, 32))
    with pytest.raises(UnknownName, match="plain"):
        nets.task_network(1, encoder="plane")
    with pytest.raises(ReuseError, match="as many strides"):
        nets.room_encoder(widths=(4, 8))


def test_widths_are_free() -> None:
    encoder = nets.room_encoder((4, 6), (2, 2), channels=1)
    assert encoder(torch.randn(2, 1, 16, 16)).shape == (2, 6, 4, 4)
    network = nets.TaskNetwork(encoder, nn.Flatten())
    assert network.channels == 1 and network(torch.randn(2, 1, 16, 16)).shape == (2, 96)
