"""Networks with one trunk and a head for each task, whose blocks can be watched before their ReLU."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import ReuseError
from reuselib.nets.layers import ImageNetwork, architecture, averaged, convolution, initialise_convolutions, repeated
from reuselib.nets.pretrained import take
from reuselib.nets.resnet import BasicBlock
from reuselib.nets.taps import tap

RESNET18_WIDTHS = (64, 64, 128, 256, 512)


class MultiHead(ImageNetwork):
    """Stages that give maps before their activation, one pool, and a linear head for each task.

    Attributes:
        stages: first to last; the output of each is a map (B, width, H, W) before its activation.
        activations: one for each stage, applied to its output before the next stage sees it.
        pool: the average of the last activated maps over all places, one feature vector (B, D) per image.
        heads: task → linear map from the D features to the logits of that task.
        widths: channels of the stages' outputs.
        channels: channels of the images that the network takes.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        widths: Sequence[int],
        tasks: Mapping[str, int],
        activations: Sequence[nn.Module] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            stages: first to last; the first layer with weights is a convolution.
            widths: channels of their outputs, as many as there are stages.
            tasks: name of a task → its number of classes; at least one.
            activations: as many as there are stages; ReLUs if left out.

        Raises:
            ReuseError: there is no task, or a name cannot be that of a head.
        """
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.widths = tuple(widths)
        self.activations = nn.ModuleList(activations or [nn.ReLU() for _ in self.widths])
        if not len(self.stages) == len(self.widths) == len(self.activations):
            raise ReuseError(f"{len(self.stages)} stages need as many widths and activations.")
        self.pool = averaged()
        self.heads = _heads(self.widths[-1], tasks)

    @property
    def tasks(self) -> dict[str, int]:
        """Task → number of classes."""
        return {task: head.out_features for task, head in self.heads.items()}  # type: ignore[misc]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give the logits (B, classes) of each task, of images (B, channels, H, W)."""
        self.check(images)
        maps = images
        for stage, activation in zip(self.stages, self.activations, strict=True):
            maps = activation(stage(maps))
        features = self.pool(maps)
        return {task: head(features) for task, head in self.heads.items()}

    def both(self, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Give the maps of every stage before its activation, first to last, and the logits: one forward pass."""
        names = [f"stages.{index}" for index in range(len(self.stages))]
        with tap(self, *names) as seen:
            logits = self(images)
        return [seen[name] for name in names], logits


def _heads(features: int, tasks: Mapping[str, int]) -> nn.ModuleDict:
    if not tasks:
        raise ReuseError("a network needs at least one task. Give tasks={'name': classes}.")
    heads = nn.ModuleDict()
    for task, classes in tasks.items():
        try:
            heads[task] = nn.Linear(features, classes)
        except (KeyError, TypeError) as error:
            raise ReuseError(f"{task!r} cannot be the name of a task ({error.args[0]}). Choose another.") from error
    return heads


def first_classes(network: MultiHead, task: str, count: int, name: str) -> MultiHead:
    """Keep the first classes of one head, under a new name, and drop all other heads.

    A source that was trained with one softmax over main and auxiliary classes becomes a teacher of the main ones.

    Args:
        network: is left as it is; the new network shares its stages and holds a copy of the head's rows.
        task: the head to cut.
        count: classes to keep, the first ones.
        name: of the new head.

    Raises:
        UnknownName: the network has no such head.
        ReuseError: the head has fewer classes.

    Source: Shen et al. 2019 (ICCV), official code of the class experiment.
    """
    checks.known("task", network.tasks, task)
    head: nn.Linear = network.heads[task]  # type: ignore[assignment]
    checks.whole(count=count)
    if count > head.out_features:
        raise ReuseError(f"{task!r} has {head.out_features} classes: keep 1 to {head.out_features}, not {count}.")
    cut = MultiHead(network.stages, network.widths, {name: count}, list(network.activations))
    kept = {key: value[:count].clone() for key, value in head.state_dict().items()}
    cut.heads[name].to(head.weight.device).load_state_dict(kept)
    return cut.train(network.training)


@architecture
def multi_head_conv(tasks: Mapping[str, int], widths: Sequence[int] = (16, 32, 32), channels: int = 1) -> MultiHead:
    """Build plain 3x3 convolutions with batch norm; every one but the first is behind a 2x2 max pool.

    Args:
        tasks: task → number of classes.
        widths: channels of the stages.
        channels: channels of the images; their size is free from ``2**(stages - 1)`` pixels on.

    Returns:
        A network of ``len(widths)`` stages (14,260 parameters for two tasks of two classes).
    """
    stages = [nn.Sequential(*convolution(*ends)[:-1]) for ends in pairwise((channels, *widths))]
    for stage in stages[1:]:
        stage.insert(0, nn.MaxPool2d(2))
    return MultiHead(stages, widths, tasks)


def _residual_stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    """Residual blocks, the last without its ReLU, which the network applies outside."""
    blocks = repeated(BasicBlock, inputs, outputs, depth, stride)
    blocks[-1].relu = nn.Identity()
    return nn.Sequential(*blocks)


@architecture
def multi_head_residual(tasks: Mapping[str, int], widths: Sequence[int] = (16, 32, 32), channels: int = 1) -> MultiHead:
    """Build a small residual network: a convolution, then basic blocks that each halve height and width.

    Its maps have the height and width of those of :func:`multi_head_conv`, for images of even sizes.

    Args:
        tasks: task → number of classes.
        widths: channels of the stem and of the blocks.
        channels: channels of the images.
    """
    stages = [nn.Sequential(*convolution(channels, widths[0])[:-1])]
    stages += [_residual_stage(*ends, 1, stride=2) for ends in pairwise(widths)]
    return MultiHead(stages, widths, tasks)


@architecture
def multi_head_resnet18(
    tasks: Mapping[str, int], widths: Sequence[int] = RESNET18_WIDTHS, channels: int = 3
) -> MultiHead:
    """Build ResNet-18 for 224x224 images, watched at its first convolution and at its four layers before the ReLU.

    The first map is that of the convolution itself: its batch norm, ReLU and max pool make the first activation.

    Args:
        tasks: task → number of classes.
        widths: of the first convolution, which those of the first layer must equal, and of the four layers.
        channels: channels of the images.

    Returns:
        A network of five stages (11,177,538 parameters for one task of two classes), convolutions initialised as
        ``kaiming_normal_`` with ``fan_out`` does.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    stages: list[nn.Module] = [nn.Conv2d(channels, widths[0], 7, stride=2, padding=3, bias=False)]
    stages += [_residual_stage(*ends, 2, stride=2 if index else 1) for index, ends in enumerate(pairwise(widths))]
    entry = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    network = MultiHead(stages, widths, tasks, activations=[entry, *(nn.ReLU() for _ in widths[1:])])
    initialise_convolutions(network)
    return network


_BLOCK = {"conv1": "residual.0", "bn1": "residual.1", "conv2": "residual.3", "bn2": "residual.4"}
TORCHVISION = {"conv1": "stages.0", "bn1": "activations.0.0", "fc": "heads"} | {
    rf"layer(\d).(\d).{there}": rf"stages.\1.\2.{here}" for there, here in (_BLOCK | {"downsample": "shortcut"}).items()
}
"""Each layer of torchvision's ResNet-18, and the same layer here."""


def take_torchvision_resnet18(network: MultiHead, state: Mapping[str, Tensor]) -> None:
    """Put the weights of torchvision's ResNet-18, all but its head, into a :func:`multi_head_resnet18`.

    Args:
        network: of torchvision's widths and of three channels; its heads stay as they are.
        state: ``torchvision.models.resnet18(...).state_dict()``.

    Raises:
        ShapeMismatch: the network has other widths, or the state is that of another architecture.
    """
    take(network, state, TORCHVISION, ("heads.",), f"Build it with widths={RESNET18_WIDTHS} and channels=3")
