"""What the rows of a study read that is not drawn: image sets and networks of the zoo, and how both are fetched."""

from __future__ import annotations

import io
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from reuselib import home
from reuselib.errors import ReuseError
from reuselib.run.cost import Prediction

STOCKS = {"images": "reuselib.data.fetching", "pieces": "reuselib.nets.zoo"}
"""What can be needed → the module that has it, with ``at_hand``, ``fetch`` and ``size`` of a name: data and nets know
this module, it knows neither until it is asked."""


@dataclass(frozen=True)
class Needs:
    """What rows read.

    Attributes:
        images: names of image sets.
        pieces: names of the zoo.
    """

    images: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()

    def _missing(self) -> list[tuple[str, Any]]:
        stocks = {kind: import_module(module) for kind, module in STOCKS.items()}
        found = [(name, stocks[kind]) for kind, names in vars(self).items() for name in names]
        return [(name, stock) for name, stock in found if not stock.at_hand(name)]

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of what is not on this machine, or not as it was published."""
        return tuple(name for name, _ in self._missing())

    def predict(self) -> Prediction:
        """What it would cost to train the networks that do not come with the book, whether they are there or not."""
        zoo = import_module(STOCKS["pieces"])
        return sum(map(zoo.predict, self.pieces), Prediction(0.0, 0.0))

    def fetch(self, progress: bool = True) -> None:
        """Fetch what is missing, images first, and compare it with its hashes; what is there is not touched.

        A network that can be had from nowhere is trained here: see :func:`reuselib.nets.zoo.fetch`.

        Args:
            progress: whether to say beforehand what is fetched or trained, how large it is or how long that takes, and
                where it is kept, and to show bars.

        Raises:
            ReuseError: something cannot be had, or what came is not what was published; all else was fetched.
            CannotWrite: there is no place for it.
        """
        missing, failed = self._missing(), []
        said = ", ".join(f"{name}{stock.size(name)}" for name, stock in missing)
        if progress and missing:
            print(f"To fetch: {said}. Kept in {home.root()}; REUSELIB_DATA names another folder, such as one of Drive.")
        elif progress:
            print(f"All is there: {', '.join(self.images + self.pieces) or 'nothing is read'}.")
        if missing:
            home.check_writable(home.path("downloads"))
        for name, stock in missing:
            try:
                with nullcontext() if progress else redirect_stderr(io.StringIO()):
                    stock.fetch(name)
            except ReuseError as error:
                failed.append(error)
        if progress and missing and not failed:
            print("All is there now.")
        if failed:
            raise failed[0] if len(failed) == 1 else ReuseError("\n".join(map(str, failed)))
