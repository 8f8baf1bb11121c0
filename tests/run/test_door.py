"""What is refused before anything starts: options, numbers, networks and their outputs that cannot be meant."""

from __future__ import annotations

import inspect
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName

CPU = torch.device("cpu")
WEIGHTS = [nn.Parameter(torch.ones(2))]


def driving(**options: Any) -> Callable[[], object]:
    """A run with one option that cannot be meant."""
    return lambda: run.run(players.make("dfad"), **{"updates": 2, "progress": False} | options)


NONSENSE: dict[str, tuple[Callable[[], object], str]] = {
    "updates": (driving(updates=2.5), "updates must be a whole number of at least 0, not 2.5"),
    "report_every": (driving(report_every=0), "report_every must be a whole number of at least 1, not 0"),
    "save_every": (driving(save_every=-1.0), "save_every must be a finite number of at least 0"),
    "evaluations": (driving(evaluations=0), "evaluations must be a whole number of at least 1, not 0"),
    "evaluate": (driving(evaluate={"accuracy": 1.0}), "evaluate must be a function"),
    "measured": (driving(evaluate=lambda: 0.5), "evaluate must return named numbers, not 0.5"),
    "generator": (lambda: run.generator(CPU, 2**64), "seed must be a whole number from 0 to"),
    "seeded": (lambda: run.seeded(-1).__enter__(), "seed must be"),
    "job": (lambda: run.Job(run.Settings(), -1), "seed must be"),
    "adam": (lambda: run.adam(WEIGHTS, CPU, lr=float("inf")), "lr must be a finite number"),
    "nothing": (lambda: run.sgd([], CPU, lr=1), "empty parameter list"),
    "nothing that learns": (lambda: run.sgd([torch.ones(2)], CPU, lr=1), "every parameter is frozen. Use network.req"),
    "milestones": (lambda: run.step_decay([5, 3]), r"must ascend, not \[5, 3\]"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_cannot_be_meant_is_refused(name: str) -> None:
    call, words = NONSENSE[name]
    with pytest.raises(BadValue, match=words):
        call()


def test_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_PRECISION", "bf61")
    with pytest.raises(UnknownName, match="REUSELIB_PRECISION 'bf61'. Did you mean 'bf16'"):
        run.precision(CPU)
    monkeypatch.setenv("REUSELIB_THREADS", "1.5")
    with pytest.raises(BadValue, match="REUSELIB_THREADS must be .*1.5"), run.threads():
        pass


def test_a_misspelt_option_is_named_with_the_nearest_one_and_a_signature_has_them_all() -> None:
    for name in ("dfad", "supervised", "inversion-cmi", "netgraft", "component", "gan-one-stage"):
        with pytest.raises(UnknownName, match=r"unknown option of \w+ 'bach'. Did you mean 'batch'"):
            players.make(name, bach=3)

    class Base(run.Method):
        def __init__(self, teacher: object, images: object, *, batch: int = 64, lr: float = 0.1) -> None: ...

    class Middle(Base):
        defaults = {"lr": 1.0}

        def __init__(self, *parties: object, steps: int, **options: object) -> None: ...

    class Outer(Middle):
        def __init__(self, teacher: object, batch: int = 8, **options: object) -> None: ...

    middle = inspect.signature(Middle)
    assert [*middle.parameters] == ["teacher", "images", "steps", "batch", "lr"]
    assert middle.bind("teacher", "images", steps=3, batch=2)
    outer = {name: each.default for name, each in inspect.signature(Outer).parameters.items()}
    assert outer == {"teacher": inspect.Parameter.empty, "batch": 8, "lr": 1.0}


class Counting(nn.Module):
    """A teacher that counts its calls in a buffer, whatever its mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)


def test_a_teacher_that_writes_a_buffer_is_refused_and_put_back(tmp_path: Any) -> None:
    cast = players.cast()
    cast.teacher = Counting(cast.teacher)
    method = players.MAKERS["dfad"](cast, precision="fp32")
    cast.teacher.calls.fill_(5)
    with pytest.raises(ReuseError, match="teacher.calls must not change, but a step writes it; buffers were put back"):
        players.drive(method, 2, checkpoint=tmp_path / "run.pt")
    assert cast.teacher.calls == 5 and not (tmp_path / "run.pt").exists()


class Giving(nn.Module):
    """A network that gives something else in training mode, or always."""

    def __init__(self, give: Callable[[Tensor], Any], training_only: bool = False) -> None:
        super().__init__()
        self.layer, self.give, self.training_only = nn.Linear(64, 4), give, training_only

    def forward(self, x: Tensor) -> Any:
        logits = self.layer(x.flatten(1))
        return self.give(logits) if self.training or not self.training_only else logits


Outputs = namedtuple("Outputs", ["aux", "logits"])
WRAPS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "torchvision segmentation": (lambda t: OrderedDict(out=t, aux=t), r"OrderedDict of out, aux.*\(x\)\['out'\]"),
    "Hugging Face": (lambda t: {"loss": t, "logits": t}, r"self.network\(x\)\['logits'\]"),
    "a dict": (lambda t: {"a": t, "b": t}, r"self.network\(x\)\['a'\]"),
    "GoogLeNet": (lambda t: Outputs(t, t), r"Outputs of aux, logits.*self.network\(x\).logits"),
    "a tuple": (lambda t: (t, t), r"tuple, not one tensor.*self.network\(x\)\[0\]"),
}


def test_outputs_that_are_not_one_tensor_name_the_wrap_to_write() -> None:
    cast = players.cast()
    for give, words in WRAPS.values():
        with pytest.raises(ReuseError, match=f"The teacher .Giving. gives .*{words}"):
            run.probe(torch.ones(2, *players.IMAGE), teacher=Giving(give))
        with pytest.raises(ReuseError, match=words):
            run.accuracy(Giving(give), cast.images)
    cast.student = Giving(lambda t: Outputs(t, t), training_only=True)
    with pytest.raises(ReuseError, match=r"Giving gives Outputs of aux, logits.*self.network\(x\).logits"):
        players.drive(players.MAKERS["kd-images"](cast, precision="fp32"), 1)


def test_a_probe_is_checked_and_leaves_no_trace() -> None:
    cast, x = players.cast(), torch.ones(2, *players.IMAGE)
    before = players.state(cast.student.train())
    outputs = run.probe(x, teacher=cast.teacher, student=cast.student)
    assert [tuple(each.shape) for each in outputs] == [(2, 4)] * 2 and not outputs[1].requires_grad
    assert cast.student.training and not list(players.differences(before, players.state(cast.student)))
    with pytest.raises(ShapeMismatch, match=r"shape \(2, 1, 8, 8\) do not fit the other .*build it for these"):
        run.probe(x, other=nn.Linear(3, 4))
