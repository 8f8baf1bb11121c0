"""What the methods of layer-wise amalgamation share: teachers read as one, and how long and how fast to learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from reuselib import run
from reuselib.data import ImageSet
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch
from reuselib.layerwise.scores import ClassSets, amalgamated_scores
from reuselib.nets import tap, works_in_place


class Teachers(nn.Module):
    """Frozen teachers read as one: the features of chosen layers, and their scores in the student's order.

    The networks are left as they were, bit for bit, and always read in evaluation mode.

    Attributes:
        networks: the teachers.
        classes: which classes each knows.
        log_softmax: see :func:`~reuselib.layerwise.scores.amalgamated_scores`.
    """

    columns: Tensor
    counts: Tensor

    def __init__(
        self, networks: Sequence[nn.Module], classes: ClassSets | None = None, log_softmax: bool = False
    ) -> None:
        """Put the teachers together.

        Args:
            networks: at least one, on one device; each gives logits.
            classes: disjoint and in turn, if left out: as many for each teacher as its last linear layer has outputs.
            log_softmax: whether the scores are those of the softmax, not the raw logits.

        Raises:
            ReuseError: there is no teacher, or its number of classes cannot be told.
            ShapeMismatch: there are not as many class sets as teachers.
            DeviceError: the teachers are on different devices.
        """
        super().__init__()
        if not networks:
            raise ReuseError("There is no teacher. Give at least one.")
        where = device_of(**{f"teacher {number}": network for number, network in enumerate(networks, 1)})
        self.networks = nn.ModuleList(networks)
        self.classes = ClassSets.consecutive(map(_outputs, networks)) if classes is None else classes
        if len(self.classes) != len(networks):
            raise ShapeMismatch(f"{len(networks)} teachers need as many class sets, not {len(self.classes)}.")
        self.log_softmax = log_softmax
        columns = list(chain.from_iterable(self.classes.columns))
        self.register_buffer("columns", torch.tensor(columns, device=where), persistent=False)
        self.register_buffer("counts", torch.tensor(self.classes.counts, device=where).float(), persistent=False)

    def forward(self, images: Tensor, layers: Sequence[Sequence[str]] = ()) -> tuple[list[list[Tensor]], Tensor]:
        """Read the teachers, without gradient.

        Args:
            images: normalised, (N, C, H, W).
            layers: names of modules to read: for each layer, one name for each teacher.

        Returns:
            The outputs of the modules, for each layer a list over the teachers, and the amalgamated scores (N, K).

        Raises:
            ShapeMismatch: a teacher does not give as many logits as it has classes, or does not take such images.
        """
        with run.frozen(self), torch.no_grad():
            read = [
                read_layers(network, [names[number] for names in layers], images)
                for number, network in enumerate(self.networks)
            ]
        scores = [logits for _, logits in read]
        for number, (logits, known) in enumerate(zip(scores, self.classes.sets, strict=True), 1):
            if logits.shape != (len(images), len(known)):
                raise ShapeMismatch(
                    f"Teacher {number} gives outputs of shape {tuple(logits.shape)} for {len(known)} classes. "
                    "Give classes=ClassSets(...) that names the class of each of its logits."
                )
        features = [list(each) for each in zip(*(seen for seen, _ in read), strict=True)]
        return features, amalgamated_scores(scores, self.columns, self.counts, self.log_softmax)


def read_layers(network: nn.Module, names: Sequence[str], images: Tensor) -> tuple[list[Tensor], Tensor]:
    """The outputs of some modules as the network gives them, whatever it does with them later, and its own output.

    Raises:
        UnknownName: the network has no such module.
        ShapeMismatch: it does not take such images.
    """
    try:
        with tap(network, *names) as seen, _protected(network, names):
            output = network(images)
    except RuntimeError as error:
        raise ShapeMismatch(
            f"Images of shape {tuple(images.shape)} do not fit {type(network).__name__} ({error}). "
            "Load them in the size and the channels that the network takes."
        ) from error
    return [seen[name] for name in names], output


@contextmanager
def _protected(network: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Hand on copies of the modules' outputs, if the network works in place: those recorded before stay as they are."""
    modules = dict(network.named_modules()) if works_in_place(network) else {}
    with ExitStack() as hooks:
        for name in set(names) & modules.keys():
            hooks.callback(modules[name].register_forward_hook(lambda _, __, output: output.clone()).remove)
        yield


@dataclass(frozen=True)
class Stage:
    """How long and how fast a stage learns.

    Attributes:
        steps: updates.
        lr: learning rate, one for all layers or one for each.
        momentum: of SGD; Adam if left out.
        weight_decay: L2 penalty.
        cosine: whether the learning rate falls to zero along half a cosine, or stays.
    """

    steps: int
    lr: float | tuple[float, ...] = 1e-3
    momentum: float | None = None
    weight_decay: float = 0.0
    cosine: bool = True

    def optimizer(self, groups: Sequence[Sequence[nn.Parameter]], where: torch.device) -> Optimizer:
        """The optimizer of a stage.

        Args:
            groups: the parameters of each layer.
            where: their device.

        Raises:
            ShapeMismatch: there are neither one learning rate nor as many as layers.
        """
        rates = [self.lr] * len(groups) if isinstance(self.lr, float | int) else list(self.lr)
        if len(rates) != len(groups):
            raise ShapeMismatch(f"{len(groups)} layers need one learning rate or as many, not {len(rates)}.")
        settings = [{"params": list(group), "lr": rate} for group, rate in zip(groups, rates, strict=True)]
        if self.momentum is None:
            return run.adam(settings, where, weight_decay=self.weight_decay)  # type: ignore[arg-type]
        options = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        return run.sgd(settings, where, **options)  # type: ignore[arg-type]

    def scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """The course of the learning rates."""
        return LambdaLR(optimizer, run.cosine(self.steps) if self.cosine else run.constant)


class Learning(run.Method):
    """What the stages share: teachers, unlabelled images, precision and draws. Subclasses write ``step``.

    Args:
        teachers: left as they were, bit for bit; plain networks stand for :class:`Teachers` with disjoint classes.
        images: unlabelled, on the teachers' device: their labels are never read.
        batch: images per update.
        noise: standard deviation of Gaussian noise added to the normalised images.
        seed: of all that is drawn.
        precision: chosen by the engine if left out. Losses are computed in float32.

    Raises:
        DeviceError: teachers and images are on different devices.
    """

    fixed: tuple[str, ...] = ("teachers",)

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        images: ImageSet,
        *,
        batch: int = 64,
        noise: float = 0.0,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        self.teachers = as_teachers(teachers)
        self.device = device_of(teachers=self.teachers, images=images)
        self.images, self.batch, self.noise = images, batch, noise
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)

    def draw(self) -> Tensor:
        """Random images, normalised, with replacement: (batch, C, H, W)."""
        images, _ = self.images.sample(self.batch, self.random)
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, device=self.device, generator=self.random)
        return images

    def probe(self) -> Tensor:
        """Two images, to see what fits."""
        return self.images.normalised(self.images.images[:2])


def as_teachers(teachers: Teachers | Sequence[nn.Module]) -> Teachers:
    """Plain networks as teachers of disjoint classes; teachers as they are."""
    return teachers if isinstance(teachers, Teachers) else Teachers(list(teachers))


def device_of(**parts: nn.Module | ImageSet) -> torch.device:
    """The one device of networks and images.

    Raises:
        DeviceError: there are several.
    """
    devices = {
        name: part.device if isinstance(part, ImageSet) else next(part.parameters()).device
        for name, part in parts.items()
    }
    if len(set(devices.values())) > 1:
        raise DeviceError(f"Networks and images are on different devices: {devices}. Move them with .to(device).")
    return next(iter(devices.values()))


def check_classes(teachers: Teachers, logits: Tensor) -> None:
    """Raise ShapeMismatch unless a student gives a score for every class of its teachers."""
    classes = len(teachers.classes.union)
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ShapeMismatch(
            f"The student gives outputs of shape {tuple(logits.shape)}, its teachers know {classes} classes together. "
            f"Build it with classes={classes}."
        )


def _outputs(network: nn.Module) -> int:
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ReuseError(
            f"The number of classes of {type(network).__name__} cannot be told: it has no linear layer. "
            "Give classes=ClassSets(...)."
        )
    return linear[-1].out_features
