"""The networks of the rooms: the published size, shapes, and what other tasks may reuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName

SIZES = {
    "room_encoder": ({}, 66_728),
    "residual_room_encoder": ({}, 66_214),
    "dense_decoder": ({"outputs": 3}, 12_071),
    "vector_head": ({"outputs": 9}, 67_081),
    "task_network": ({"outputs": 3}, 66_728 + 12_071),
    "task_network of a vector": ({"outputs": 9, "dense": False, "encoder": "residual"}, 66_214 + 67_081),
    "readout": ({"outputs": 1}, 19_997),
    "readout of a vector": ({"outputs": 6, "dense": False}, 135_766),
}


@pytest.mark.parametrize("case", SIZES)
def test_parameter_counts(case: str) -> None:
    arguments, count = SIZES[case]
    with torch.device("meta"):
        assert nets.parameter_count(nets.build(case.split()[0], **arguments)) == count


def test_both_encoders_are_about_as_large() -> None:
    plain, residual = SIZES["room_encoder"][1], SIZES["residual_room_encoder"][1]
    assert abs(plain - residual) / plain < 0.02


@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize(
    ("outputs", "dense", "shape"), [(3, True, (3, 32, 32)), (7, True, (7, 32, 32)), (9, False, (9,))]
)
def test_shapes_and_gradients(encoder: str, outputs: int, dense: bool, shape: tuple[int, ...]) -> None:
    network, images = nets.task_network(outputs, dense, encoder), torch.randn(4, 3, 32, 32)
    answer = network(images)
    assert answer.shape == (4, *shape)
    answer.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert nets.readout(outputs, dense)(network.represent(images)).shape == answer.shape


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_the_representation_is_after_a_relu_and_before_the_decoder(encoder: str) -> None:
    network, images = nets.task_network(2, encoder=encoder).eval(), torch.randn(3, 3, 32, 32)
    code = network.represent(images)
    assert code.shape == (3, 8, 8, 8) and code[0].numel() == 512 and code.min() == 0
    assert torch.equal(network(images), network.decoder(code))
    assert torch.equal(network.encoder(images), code)


@pytest.mark.parametrize("case", SIZES)
def test_meta_device(case: str) -> None:
    with torch.device("meta"):
        network = nets.build(case.split()[0], **SIZES[case][0])
        takes_code = case.split()[0] in ("dense_decoder", "vector_head", "readout")
        inputs = torch.randn(2, *((8, 8, 8) if takes_code else (3, 32, 32)))
    assert network(inputs).is_meta


def test_the_first_decoder_reads_a_grid_of_the_right_neighbours() -> None:
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
