"""The paper's own experiment, with random weights and tiny images: encoders, photographs, the whole path to a score."""

from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from reuselib import chapters, home
from reuselib.attribution import found, larger
from reuselib.attribution.evaluation import Truth
from reuselib.data import taskonomy
from reuselib.errors import DamagedFile, MissingFile, UnknownName
from reuselib.nets import efficientnet
from reuselib.nets.taskonomy import TaskonomyEncoder, encoder


@pytest.fixture
def own(room: Path) -> None:
    """Photographs of a user's own."""
    folder = room / "downloads" / "probes" / "own"
    folder.mkdir(parents=True)
    for number in range(3):
        pixels = torch.randint(256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")


@torch.no_grad()
def test_an_encoder_is_the_published_architecture_and_read_from_its_file(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuple(taskonomy.encoders()) == larger.taskonomy().sources
    assert all(len(Path(file).stem.rpartition("-")[2]) == 64 for file in taskonomy.encoders().values())
    network, images = TaskonomyEncoder(1).eval(), torch.rand(2, 3, 64, 64)
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 8, 16, 16)
    names = {name for name in network.state_dict() if name.endswith("weight")}
    assert len(names) == 108
    assert {"layer1.2.conv2.weight", "layer4.0.downsample.0.weight", "compress1.weight"} < names
    assert network.layer1[2].conv2.stride == (2, 2) and network.layer1[0].conv2.stride == (1, 1)
    path = room / "downloads" / taskonomy.ENCODERS / "weights"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": network.state_dict()}, path)
    path = path.rename(path.with_name(f"colorization_encoder-{home.sha256(path)}.pth"))
    monkeypatch.setattr(taskonomy, "encoders", lambda: {"colorization": path.name})
    found = encoder("colorization", "cpu")  # what sees grey images is given coloured ones
    torch.testing.assert_close(found(images), network((images * found.grey).sum(1, keepdim=True).expand_as(images)))
    path.write_bytes(b"cut off")
    with pytest.raises(DamagedFile, match="expected sha256"):
        encoder("colorization", "cpu")
    with pytest.raises(UnknownName, match="colorization"):
        encoder("colourization", "cpu")


@pytest.mark.parametrize("paper, score", [("attribution", "epsilon-lrp"), ("depara", "graph-tuned")])
def test_the_whole_path_with_random_weights(paper: str, score: str, own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = larger.taskonomy()
    names = whole.sources[4:10]  # colorization, which is not clipped, is one of them
    monkeypatch.setattr(larger, "taskonomy", lambda: Truth(names, names, whole.affinity[:6, :6], top=2))
    monkeypatch.setattr(larger, "encoder", lambda task, where, untrained: encoder(task, where, untrained=True))
    seen, clipped = [], larger.clipped
    monkeypatch.setattr(larger, "clipped", lambda images: seen.append(len(images)) or clipped(images))
    row = f"taskonomy-{score}-coco"
    result = chapters.study(paper, "colab").run(row, progress=False, probes="own", size=32, batch=4)
    assert result.similarity.shape == (6, 6) and len(result.probes) == 3
    assert {"p_at_5", "spearman", "purity", "seconds"} < result.metrics.keys()
    assert seen == [3] * 5


def test_fourteen_encoders_see_clipped_photographs() -> None:
    """Intensities between a tenth and nine tenths, as the official code gives them to all but six."""
    assert len(set(larger.taskonomy().sources) - set(larger.UNCLIPPED)) == 14
    assert larger.clipped(torch.tensor([-1.0, 0.3, 1.0])).tolist() == pytest.approx([-0.8, 0.3, 0.8])


def test_photographs_that_must_be_brought_say_so(room: Path) -> None:
    needs = chapters.study("attribution", "colab").needs(["taskonomy-saliency-coco"])
    assert needs.images == ("coco_probes", taskonomy.ENCODERS)
    with pytest.raises(MissingFile, match="coco_probes"):
        taskonomy.photographs("coco_probes", 4, 32)
    for read in (taskonomy.fetch, partial(taskonomy.photographs, count=4, size=32)):
        with pytest.raises(MissingFile, match="put photographs of your own there"):
            read("own_probes")


def test_photographs_are_drawn_beside_their_maps(own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    photographs, load, network = taskonomy.photographs, efficientnet.load, found.FoundZoo._network
    monkeypatch.setattr(larger, "photographs", lambda _, count, size, *rest: photographs("own_probes", count, size))
    monkeypatch.setattr(efficientnet, "load", lambda number, where, **_: load(number, where, untrained=True))
    monkeypatch.setattr(found.FoundZoo, "_network", lambda zoo, name: network(zoo, "untrained-animals"))
    result = chapters.study("attribution", "colab").run("photographs-maps", progress=False, size=32)
    assert result.pictures.shape == (24, 3, 32, 32) and 0 <= result.pictures.min() <= result.pictures.max() <= 1
    torch.testing.assert_close(result.pictures[0], photographs("own_probes", 3, 32).images[0] / 255)
    assert result.metrics["affinity_lite0"] == pytest.approx(1) and len(result.metrics) == 7
