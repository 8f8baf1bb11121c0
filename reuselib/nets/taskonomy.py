"""Taskonomy's encoders: a ResNet-50 whose strides stand in the last block of a stage, narrowed to 8 maps of 16x16.

Source: Zamir et al. 2018; the layers and the weights' names as in Sax et al. 2018, `visualpriors` (MIT).
"""

from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from reuselib import run
from reuselib.data.image_set import GREY_WEIGHTS
from reuselib.data.taskonomy import encoder_file
from reuselib.errors import DamagedFile

SIDE = 256
"""Pixels a side of its images."""


def _stage(inputs: int, width: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Blocks of which the last takes the stride, by leaving out pixels of what it adds to."""
    widened = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
    first = Bottleneck(inputs, width, downsample=widened)
    inner = [Bottleneck(4 * width, width) for _ in range(blocks - 2)]
    skipped = None if stride == 1 else nn.Sequential(nn.MaxPool2d(1, stride))
    return nn.Sequential(first, *inner, Bottleneck(4 * width, width, stride, skipped))


class TaskonomyEncoder(nn.Module):
    """Images in [-1, 1], (n, 3, 256, 256) → (n, 8, 16, 16), without a classifier; other sizes give other maps.

    Args:
        channels: of its first layer; 1 for one that sees images in grey, as that of colorization does: it is given
            coloured ones all the same, and turns them grey.
    """

    grey: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 64, 7, 2, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1, self.layer2 = _stage(64, 64, 3, 2), _stage(256, 128, 4, 2)
        self.layer3, self.layer4 = _stage(512, 256, 6), _stage(1024, 512, 3)
        self.compress1, self.compress_bn = nn.Conv2d(2048, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.register_buffer("grey", torch.tensor(GREY_WEIGHTS).view(1, 3, 1, 1), persistent=False)

    def represent(self, images: Tensor) -> Tensor:
        """What is explained and compared: the output itself."""
        x = images if self.conv1.in_channels == 3 else (images * self.grey).sum(1, keepdim=True)
        x = self.maxpool(F.relu(self.bn1(self.conv1(F.pad(x, (3, 3, 3, 3))))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.relu(self.compress_bn(self.compress1(x)))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images."""
        return self.represent(images)


def encoder(task: str, device: torch.device | str | None = None, untrained: bool = False) -> TaskonomyEncoder:
    """The encoder of a task, frozen and in evaluation mode.

    Args:
        task: as the chapter's affinities name it, "rgb2sfnorm" for instance.
        device: chosen if left out; on ``meta`` no weights are read.
        untrained: whether it keeps its random weights, drawn from PyTorch's generator.

    Raises:
        UnknownName: there is no such task.
        MissingFile: its weights are not there.
        DamagedFile: they were altered, or are of another network.
    """
    where = run.device(device)
    if untrained or where.type == "meta":
        with torch.device("meta" if where.type == "meta" else "cpu"):
            return run.on_device(TaskonomyEncoder(), where).eval().requires_grad_(False)
    path = encoder_file(task)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        network = TaskonomyEncoder(state["conv1.weight"].shape[1])
        network.load_state_dict(state)
    except (RuntimeError, UnpicklingError, KeyError) as error:
        raise DamagedFile(path, f"it holds no encoder ({error})", "look at what the address gives") from error
    return run.on_device(network, where).eval().requires_grad_(False)
