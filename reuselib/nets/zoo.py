"""The zoo: trained networks and tables of numbers, each with its tensors, its card and the recipe that made it.

A piece ``<name>`` is a folder ``zoo/<name>/`` in the data room; slashes in the name make folders in folders::

    zoo/fashion16-conv3/   weights.safetensors  card.json  log.csv   a network with a recipe in ``RECIPES``
    zoo/rooms-0/depth/     weights.safetensors  card.json  log.csv   a network that a study made
    zoo/rooms-0/transfers/ losses.safetensors   card.json            a table that a study made

The card says what the piece is, how it was made, the SHA-256 of its tensors and of its log, and last a digest of all
that. It is written last: a piece that has a card is finished.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from reuselib import checks, data, home, nets, run
from reuselib.data import ImageSet, SegmentationSet, segmentation
from reuselib.errors import BadValue, DamagedFile, MissingFile, NonFinite, ReuseError, ShapeMismatch
from reuselib.nets import blank, pretrained
from reuselib.nets.recipes import RECIPES, Made, Published, Recipe
from reuselib.nets.segmentation import Segmenter, take_torchvision_encoder
from reuselib.nets.supervised import Supervised, lesson, scores_on
from reuselib.report.papers import duration
from reuselib.run import cost

__all__ = ["RECIPES", "Piece", "Published", "Recipe", "card", "images", "load", "names", "predict", "train", "verify"]

TRAINED_WITHIN = 600.0
"""Seconds: a machine without an accelerator trains what is to be fetched if it is predicted to take no longer."""
LOGGED = ("iteration", "loss", "test_accuracy", "test_mean_iou")


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with this process."""
    return tempfile.TemporaryDirectory(prefix="reuselib-")


@dataclass(frozen=True)
class Piece:
    """A trained network or a table of numbers: its tensors, its card and, of what was trained here, its log.

    Attributes:
        name: below ``zoo/`` in the data room; may hold slashes.
        kept: whether it outlives this process.
        fix: the command that makes it, for messages; ``reuselib zoo train`` if left out.
    """

    name: str
    kept: bool = True
    fix: str = ""

    def __post_init__(self) -> None:
        """Fill in the command."""
        if not self.name or Path(self.name).is_absolute() or ".." in Path(self.name).parts:
            raise BadValue(f"{self.name!r} cannot be the name of a piece: it leads out of the zoo.")
        object.__setattr__(self, "fix", self.fix or f"reuselib zoo train {self.name}")

    @property
    def folder(self) -> Path:
        """Where it lies, or will."""
        return (home.root() if self.kept else Path(_scratch().name)).joinpath("zoo", self.name)

    @property
    def checkpoint(self) -> Path:
        """Where its training is kept until it is saved."""
        return self.folder / "training.pt"

    @property
    def shipped(self) -> bool:
        """Whether it comes with the repository, with its hash."""
        return self.kept and f"zoo/{self.name}/card.json" in home.registry()

    @property
    def _again(self) -> str:
        return f"delete {self.folder}, then {self.fix}"

    def has(self) -> bool:
        """Whether it is finished, here or where the repository's files are fetched from."""
        if (self.folder / "card.json").is_file():
            return True
        return self.shipped and (home.brought() / "zoo" / self.name / "card.json").is_file()

    @property
    def at_hand(self) -> bool:
        """Whether it is finished and its tensors are on this machine, so that none need be fetched."""
        return self.has() and (not self.shipped or home.at_hand(f"zoo/{self.name}/{self._tensors(self.card())}"))

    @staticmethod
    def _tensors(card: Mapping[str, Any]) -> str:
        """The name of its file of tensors: only a network has parameters."""
        return "weights.safetensors" if "parameters" in card else "losses.safetensors"

    def _file(self, file: str) -> Path:
        if self.shipped:
            return home.shipped(f"zoo/{self.name}/{file}")
        path = self.folder / file
        if not path.is_file():
            raise MissingFile(f"{path} is missing. Fix: {self.fix}")
        return path

    def card(self) -> dict[str, Any]:
        """What is known of it: its recipe, its SHA-256, how good it is.

        Raises:
            MissingFile: it is not finished.
            DamagedFile: the card was altered or cannot be read.
        """
        path = self._file("card.json")
        try:
            card = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise DamagedFile(path, f"not valid JSON ({error})", self._again) from error
        # What comes with the repository has been compared with the registry.
        if not self.shipped and path.read_bytes() != _sealed(card):
            raise DamagedFile(path, "its digest is not that of what it says", self._again)
        return card

    def verify(self) -> Path:
        """Check its tensors and its log against its card and return the path of the tensors.

        Raises:
            MissingFile: it is not finished.
            DamagedFile: card, log or tensors were altered.
        """
        card = self.card()
        if "log_sha256" in card:
            home.verify(self._file("log.csv"), card["log_sha256"], self._again)
        return home.verify(self._file(self._tensors(card)), card["sha256"], self._again)

    def tensors(self, recipe: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """Its tensors by name, on the CPU, verified.

        Args:
            recipe: that it must have been made by; any will do if left out.

        Raises:
            MissingFile: it is not finished.
            DamagedFile: card, log or tensors were altered.
            ReuseError: it was made by another recipe.
            NonFinite: they hold NaN or infinity.
        """
        if recipe is not None and self.card()["recipe"] != json.loads(json.dumps(recipe)):  # lists for tuples
            raise ReuseError(f"{self.folder} was made by another recipe. Delete it, then {self.fix}")
        return self._finite(safetensors.torch.load(self.verify().read_bytes()))

    def _finite(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if odd := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise NonFinite(f"{odd[0]} of {self.name} holds NaN or infinity: its training failed. {self._again}")
        return tensors

    def load(self, network: nn.Module, recipe: Mapping[str, Any] | None = None) -> nn.Module:
        """Put its tensors into a network of its architecture, and return that: frozen, evaluating, with ``.card``."""
        try:
            network.load_state_dict(self.tensors(recipe))
        except RuntimeError as error:
            raise ShapeMismatch(f"{self.name} is of another architecture than this network ({error}).") from error
        network.card = self.card()  # type: ignore[assignment]
        return network.eval().requires_grad_(False)

    def save(
        self, content: nn.Module | Mapping[str, Tensor], history: run.History | None = None, **facts: Any
    ) -> dict[str, Any]:
        """Write its log and its tensors and then its card, which makes it finished; its checkpoint goes.

        Args:
            content: a network, or tensors by name.
            history: of its training.
            facts: for the card, the recipe among them.

        Returns:
            The card.

        Raises:
            NonFinite: a tensor holds NaN or infinity; nothing is written.
        """
        card: dict[str, Any] = {"name": self.name}
        if isinstance(content, nn.Module):
            card["parameters"] = nets.parameter_count(content)
            content = content.state_dict()
        file = self._tensors(card)
        ready = self._finite({name: value.detach().cpu().contiguous() for name, value in content.items()})
        card |= facts | {"versions": {package: version(package) for package in ("torch", "torchvision")}}
        if history is not None:
            home.write_atomic(self.folder / "log.csv", _log(history).encode())
            card["log_sha256"] = home.sha256(self.folder / "log.csv")
        home.write_atomic(self.folder / file, safetensors.torch.save(ready))
        sealed = _sealed(card | {"sha256": home.sha256(self.folder / file)})
        home.write_atomic(self.folder / "card.json", sealed)
        self.checkpoint.unlink(missing_ok=True)
        # What comes with the book is decided by hand: python -m reuselib.home registers it.
        if self.shipped and home.in_clone() and home.root() == home.CLONE / "data":
            home.write_registry()
        return json.loads(sealed)

    def trained(
        self, network: nn.Module, recipe: Mapping[str, Any], teach: Callable[[], Supervised], **options: Any
    ) -> nn.Module:
        """Load it into a network where it is finished; else train it first, going on with what was cut off.

        Args:
            network: of its architecture.
            recipe: all that decides it.
            teach: makes the training, whose ``student`` it becomes.
            options: of :func:`reuselib.run.run`.
        """
        if not self.has():
            method = teach()
            history = run.run(method, checkpoint=self.checkpoint, settings=recipe, **options)
            self.save(method.student, history, recipe=recipe)
        return self.load(network, recipe)


def _sealed(card: Mapping[str, Any]) -> bytes:
    """A card as it is written, with the digest of its other entries as the last."""
    facts = {name: value for name, value in card.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return (json.dumps(facts | {"digest": digest}, indent=2) + "\n").encode()


def _log(history: run.History) -> str:
    import pandas  # takes a while, and only what is trained has a log

    rounds = pandas.DataFrame(history.rounds)
    return rounds[[name for name in LOGGED if name in rounds]].round(5).to_csv(index=False, lineterminator="\n")


# --- pieces by name ---------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The names of all pieces: those with a recipe, those that are shipped and those found in the data room."""
    room = home.path("zoo")
    found = {card.parent.relative_to(room).as_posix() for card in room.rglob("card.json")}
    shipped = {file.removeprefix("zoo/").removesuffix("/card.json") for file in home.registry() if "card.json" in file}
    return sorted(found | shipped | RECIPES.keys())


def _piece(name: str) -> Piece:
    checks.known("network", names(), name)
    return Piece(name)


def _recipe(name: str) -> Any:
    checks.known("recipe", RECIPES, name)
    return RECIPES[name]


def card(name: str) -> dict[str, Any]:
    """The card of a piece (see :meth:`Piece.card`); UnknownName, with the nearest, if there is no such name."""
    return _piece(name).card()


def verify(name: str) -> Path:
    """Check the tensors of a piece against its card (see :meth:`Piece.verify`); UnknownName if there is no such."""
    return _piece(name).verify()


def load(name: str, device: str | torch.device | None = None) -> nn.Module:
    """Load a trained network: verified, frozen, in evaluation mode, its card in ``.card``.

    Args:
        name: see :func:`names`.
        device: where to put it; chosen if left out. On "meta" it has no weights and needs none.

    Returns:
        The network.

    Raises:
        UnknownName: no network has this name.
        MissingFile: it has not been trained or fetched.
        DamagedFile: card, log or weights were altered.
        NonFinite: the weights hold NaN or infinity.
        ReuseError: the card names no architecture: only the study that made the piece can build its network.

    Example:
        >>> from reuselib.nets import zoo
        >>> zoo.load("digits8-conv3", "cpu").card["architecture"]
        'conv3'
        >>> zoo.load("digit8-conv3")
        Traceback (most recent call last):
            ...
        reuselib.errors.UnknownName: ...
    """
    where = run.device(device)
    if where.type == "meta":
        recipe = _recipe(name)
        space = blank.SPACES[recipe.dataset]
        with torch.device("meta"):
            size = {"classes": space.classes, "channels": space.channels}
            return nets.build(recipe.architecture, **recipe.arguments, **size).eval().requires_grad_(False)
    piece = _piece(name)
    facts = piece.card()
    if "architecture" not in facts:
        raise ReuseError(f"{name} was made by a study, which alone knows its architecture: let the study load it.")
    with run.seeded(0):  # spares the global random state
        network = nets.build(facts["architecture"], **facts["arguments"])
    return run.on_device(piece.load(network), where)


def images(name: str, split: str, device: str | torch.device | None = None) -> Any:
    """The images that a network was made for, in its size: ``"train"`` or ``"test"``.

    Returns:
        An ImageSet or, for a segmentation network, a SegmentationSet.
    """
    where = run.device(device)
    if where.type == "meta":
        recipe = _recipe(name)
        masked = recipe.dataset in segmentation.SETS
        return (blank.masked_images if masked else blank.images)(recipe.dataset, recipe.size)
    facts = card(name)
    return _images(facts["dataset"], split, facts["size"]).to(where)


def _images(dataset: str, split: str, size: int | None) -> ImageSet | SegmentationSet:
    if dataset in segmentation.SETS:
        return segmentation.load(dataset, split)
    return data.load(dataset, split, size=size)


def dataset(name: str) -> str:
    """The image set that a network of a recipe learned; UnknownName, with the nearest, if there is no such recipe."""
    return str(_recipe(name).dataset)


def at_hand(name: str) -> bool:
    """Whether a piece is finished and on this machine; UnknownName if there is no such piece."""
    return _piece(name).at_hand


def fetch(name: str) -> Path:
    """Have a piece on this machine, verified: from the repository, or from torchvision where that publishes it.

    A network that can be had from nowhere is trained by its recipe, once; called again after a cut, this goes on. An
    accelerator trains any; without one, only what is predicted to take no longer than ``TRAINED_WITHIN``.

    Raises:
        UnknownName: there is no piece of this name.
        MissingFile: it has to be trained, by the command of the message, or its images are missing.
        DamagedFile: card, log or tensors are not those that were made.
    """
    piece = _piece(name)
    if name in RECIPES and not piece.shipped and not piece.has() and _short(predict(name)):
        train(name)
    return verify(name)


def _short(training: run.Prediction) -> bool:
    """Whether to train a network here in place of fetching it."""
    return run.device().type != "cpu" or training.seconds("cpu") <= TRAINED_WITHIN


def size(name: str) -> str:
    """How much is fetched of a piece, in words, or how long it takes to train it; nothing where neither is known."""
    if Piece(name).has():
        parameters = Piece(name).card().get("parameters", 0)
        return f" (about {max(1, round(4e-6 * parameters))} MB)" if parameters else ""
    if not isinstance(RECIPES.get(name), Recipe):
        return ""
    training, kind = predict(name), run.device().type
    how, where = "trained here" if _short(training) else "to be trained", "this processor" if kind == "cpu" else "a T4"
    return f" ({how}, about {duration(training.seconds(kind))} on {where})"


def predict(name: str) -> run.Prediction:
    """What training a network by its recipe would cost; nothing, where it comes with the book or is published."""
    recipe = RECIPES.get(name)
    if not isinstance(recipe, Recipe) or Piece(name).shipped:
        return run.Prediction(0.0, 0.0)
    method, _ = lesson(recipe, images(name, "train", "meta"))
    return cost.predict([(method, recipe.iterations)])


# --- making networks --------------------------------------------------------------------------------------------------


def train(name: str, *, progress: bool = True, **options: Any) -> dict[str, Any]:
    """Train a network by its recipe, and save it; fetch it where the recipe is `Published`. Goes on if it was cut off.

    Args:
        name: one of ``RECIPES``.
        progress: whether to show a bar.
        options: of :func:`reuselib.run.run`.

    Returns:
        The card.

    Raises:
        UnknownName: there is no such recipe.
        DamagedFile: the published weights that are there are others.
        ReuseError: the network comes with the book and the data room is not the clone's, or cannot be fetched.
    """
    recipe, where, piece = _recipe(name), run.device(), Piece(name)
    if piece.shipped and home.root() != home.CLONE / "data":
        raise ReuseError(
            f"{name} comes with the book, with its hash; a second one in {home.root()} would be refused. "
            "Train it in a clone without REUSELIB_DATA, or load the one that is there."
        )
    if isinstance(recipe, Published):
        return _convert(piece, recipe, progress)
    training, test = (_images(recipe.dataset, split, recipe.size).to(where) for split in ("train", "test"))
    method, arguments = lesson(recipe, training)
    network = method.student
    if recipe.encoder and isinstance(network, Segmenter):
        take_torchvision_encoder(network, pretrained.torchvision_weights(recipe.encoder, progress=progress))
    with run.seeded(recipe.seed):  # for dropout
        history = run.run(
            method,
            updates=recipe.iterations,
            checkpoint=piece.checkpoint,
            progress=progress,
            title=name,
            evaluate=lambda: scores_on(network, test),
            settings=asdict(recipe),
            **{"report_every": 200, "evaluations": 10} | options,
        )
    facts = {"image": training.shape} | {key: getattr(training, key) for key in ("mean", "std", "classes")}
    facts |= {name: round(history.last(name), 4) for name in LOGGED[2:] if history.curve(name)[0]}
    return piece.save(
        network, history, **_facts(recipe, arguments), **facts, seconds=round(history.cost.wall_seconds, 1)
    )


def _facts(recipe: Made, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a card says that rebuilds network and images."""
    named = {key: getattr(recipe, key) for key in ("architecture", "dataset", "size")}
    return named | {"arguments": arguments, "recipe": asdict(recipe)}


def _convert(piece: Piece, recipe: Published, progress: bool) -> dict[str, Any]:
    """Fetch a network that torchvision publishes, and save it; the accuracy is the published one."""
    from torchvision import models as torchvision

    started, found = time.perf_counter(), pretrained.published(recipe.source, recipe.weights)
    classes, preprocessing = found.meta["categories"], found.transforms()
    arguments = {**recipe.arguments, "classes": len(classes), "channels": 3}
    with run.seeded(0):  # spares the global random state
        original = torchvision.get_model(recipe.source, weights=None, num_classes=len(classes))
        network = nets.build(recipe.architecture, **arguments)
    original.load_state_dict(pretrained.torchvision_weights(recipe.source, recipe.weights, progress))
    # The same layers in the same order, under other names.
    network.load_state_dict(dict(zip(network.state_dict(), original.state_dict().values(), strict=True)))
    facts = {"image": (3, *2 * preprocessing.crop_size), "mean": preprocessing.mean, "std": preprocessing.std}
    facts |= {"classes": classes, "origin": found.url, "seconds": round(time.perf_counter() - started, 1)}
    accuracy = round(found.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 4)
    return piece.save(network, **_facts(recipe, arguments), **facts, test_accuracy=accuracy)
