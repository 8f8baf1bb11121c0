"""Taking sequential networks apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError
from reuselib.nets import chain_of


def test_the_layers_one_after_the_other_are_the_network() -> None:
    relu, conv = nn.ReLU(), nn.Conv2d  # an activation may be used again
    plain = nets.plain_vgg(((4,), (5,)), hidden=6, classes=3, size=8, head_norm=False)
    inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.5)), conv(4, 5, 3, stride=2))
    nested = nn.Sequential(conv(1, 4, 3), inner, nn.Flatten(), nn.PReLU(), nn.Linear(5, 2))
    linear = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    for network, image, names, between in (
        (plain, (1, 8, 8), ["blocks.0.0", "blocks.1.0", "pool.1", "head"], [0, 2, 3, 0]),
        (nested, (1, 8, 8), ["0", "1.2", "4"], [0, 3, 2]),
        (linear, (4,), ["0", "2", "4"], [0, 1, 1]),
    ):
        links = chain_of(network.eval())
        assert [link.name for link in links] == names and [len(link.between) for link in links] == between
        assert all(link.layer is network.get_submodule(link.name) for link in links)
        values = images = torch.randn(3, *image)
        for link in links:
            values = link(values)
            assert values.shape[1] == link.width and (values.ndim == 4) == link.spatial
        assert torch.equal(values, network(images))


def test_a_link_leaves_its_input_as_it_is_also_where_the_relu_works_in_place() -> None:
    link = chain_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)))[1]
    link(inputs := -torch.ones(2, 3))
    assert torch.equal(inputs, -torch.ones(2, 3))


class Odd(nn.Sequential):
    """A sequence with a forward pass of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x


def test_other_networks_are_refused_with_what_stands_in_the_way() -> None:
    layer = nn.Linear(2, 2)
    for network, message in (
        (nets.conv3(2, batch_norm=True), "Classifier cannot be taken apart: 'blocks.0.1' is a BatchNorm2d"),
        (nets.small_resnet(), "cannot be taken apart: 'blocks.*Build a plain network .nets.plain_vgg"),
        (nets.multi_head_conv({"a": 2}, widths=(3, 4)), "MultiHead cannot be taken apart: 'it' is a MultiHead"),
        (nn.Sequential(layer, nn.Softmax(1)), "goes on behind its last layer '0' with Softmax"),
        (nn.Sequential(nn.Flatten()), "no convolution and no linear layer"),
        (nn.Sequential(layer, nn.ReLU(), layer), "'2' of Sequential is used twice"),
        (nn.Sequential(Odd(layer), nn.Linear(2, 2)), "'0' is a Odd"),
    ):
        with pytest.raises(ReuseError, match=message):
            chain_of(network)
