"""What holds for every method: teacher untouched, no host sync, any device, any precision."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Self

import players
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from reuselib import netgraft, nets, qfsl, run
from reuselib.adaptive import ComponentLearning, Lesson, TargetLearning
from reuselib.errors import BadValue
from reuselib.layerwise import ClassSets, JointLearning, LayerwiseAmalgamation, Stage, Teachers
from reuselib.netgraft.rivals import Layerwise

SYNCING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2")


def unusual(*teachers: nn.Module) -> list[nn.Module]:
    """Give teachers modes and gradients as no method would choose them: they too must come back."""
    for teacher in teachers:
        teacher.train()
        for module in list(teacher.modules())[2::4]:
            module.eval()
        for parameter, learns in zip(teacher.parameters(), itertools.cycle([True, False])):
            parameter.requires_grad_(learns)
    return list(teachers)


def look_at(teachers: list[nn.Module]) -> list[dict[str, Any]]:
    return [
        {
            "values": players.state(teacher),
            "modes": [module.training for module in teacher.modules()],
            "learning": [parameter.requires_grad for parameter in teacher.parameters()],
            "gradients": [players.state(parameter.grad) for parameter in teacher.parameters()],
        }
        for teacher in teachers
    ]


def assert_ready(method: run.Method) -> None:
    """Assert that no hook is left and that who learns can go on learning: all but blocks copied from the teacher."""
    copied = {part for block in players.copied(method) for part in [*block.modules(), *block.parameters()]}
    for name, network in method.networks().items():
        assert players.hooks(network) == 0
        if name not in method.fixed:
            assert all(parameter.requires_grad != (parameter in copied) for parameter in network.parameters())
            still = set(network.modules()) if isinstance(method, Layerwise) else copied  # it learns in evaluation mode
            assert all(module.training != (module in still) for module in network.modules())


@pytest.mark.parametrize("name", players.GRAFTING | players.AMALGAMATING | players.ADAPTIVE)
def test_teachers_are_read_in_evaluation_mode_and_labels_never(name: str) -> None:
    states = []
    for shift in (0, 1):
        method, modes = players.make(name), []
        method.images = replace(method.images, labels=(method.images.labels + shift) % players.CLASSES)
        for layer in itertools.chain.from_iterable(teacher.train().modules() for teacher in players.kept(method)):
            if not list(layer.children()):
                layer.register_forward_hook(lambda each, *_, modes=modes: modes.append(each.training))
        states.append([players.state(method.step()) for _ in range(2)] + [players.state(players.learner(method))])
        assert modes and not any(modes)
    assert not list(players.differences(*states))


def test_a_student_that_is_part_of_one_of_its_teachers_is_refused() -> None:
    cast = players.cast()
    teacher, images, source = cast.teachers[0], cast.images, players.pool(cast)["s1"]
    teachers, sharing = Teachers([teacher], ClassSets(((0, 1, 2),))), nets.MultiHead(source.stages, (4, 6), {"a": 3})
    cast.student = copy.deepcopy(cast.teacher)
    cast.student.blocks[0] = cast.teacher.blocks[0]
    for build in (
        *(partial(players.MAKERS[name], cast) for name in ("kd-images", "dfad", "dafl", "zskt", "few-kd", "fitnet")),
        lambda: JointLearning(teachers, teacher, images, Stage(1)),
        lambda: LayerwiseAmalgamation(teachers, teacher, images, Stage(1), Stage(1)),
        lambda: TargetLearning(sharing, {"a": source}, images),
        lambda: ComponentLearning(sharing, [Lesson(source, "a")], images, widths=players.WIDTHS),
    ):
        with pytest.raises(BadValue, match="which must not change: they share .*Give copies"):
            build()


def built(name: str) -> tuple[run.Method, list[dict[str, Any]]]:
    """A method whose teachers are in odd modes, which building it left as they were; and how those look."""
    cast = players.cast()
    everyone = unusual(cast.teacher, *cast.teachers)
    before = look_at(everyone)
    method = (players.MAKERS | players.STAGED)[name](cast, batch=players.BATCH, seed=0, precision="fp32")
    assert not list(players.differences(before, look_at(everyone)))
    assert_ready(method)
    return method, look_at(unusual(*players.kept(method)))


def places(method: run.Method) -> dict[str, tuple[Any, str]]:
    """Where a step can break: each update, and each network's forward pass, or its layers' where those are called."""
    result: dict[str, tuple[Any, str]] = {name: (network, "forward") for name, network in method.networks().items()}
    if isinstance(method, netgraft.FewShot | qfsl.SeenTraining):
        result = {
            f"{name}.{path}": (module, "forward")
            for name, network in method.networks().items()
            for path, module in network.named_modules()
            if not list(module.children())
        }
    if isinstance(method, netgraft.FSKD):
        return result
    held = {f" of {name}": value for name, value in vars(method).items() if isinstance(value, run.Method)}
    return result | {f"update{whose}": (each.precision, "minimise") for whose, each in ({"": method} | held).items()}


@pytest.mark.parametrize("name", players.METHODS)
def test_the_teacher_is_untouched_and_no_hook_stays_also_after_an_exception_anywhere_in_a_step(name: str) -> None:
    (normal, before), counters = built(name), {}
    assert bool(before) == (name in players.TAUGHT)
    normal.step()
    for place, (owner, attribute) in places(normal).items():
        counters[place] = players.rigged(getattr(owner, attribute))
        setattr(owner, attribute, counters[place])
    normal.step()
    assert not list(players.differences(before, look_at(players.kept(normal))))
    assert_ready(normal)
    networks = [{place.split(".")[0] for place in counters if counters[place].calls >= least} for least in (0, 1)]
    assert networks[0] == networks[1]
    for place, counter in counters.items():
        for call in range(counter.calls):
            method, before = built(name)
            owner, attribute = places(method)[place]
            setattr(owner, attribute, players.rigged(getattr(owner, attribute), at=call))
            with pytest.raises(players.Explosion):
                method.step()
            assert not list(players.differences(before, look_at(players.kept(method))))
            assert_ready(method)


class NoSync(TorchDispatchMode):
    """Fail on every operation whose result the host must wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        masks = [t for t in indices if isinstance(t, Tensor)]
        if name in SYNCING or any(mask.dtype in (torch.bool, torch.uint8) for mask in masks):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class OnlyMeta(TorchDispatchMode):
    """Fail on every operation that gives a tensor on another device than meta.

    Adam counts its steps in scalars on the CPU wherever its parameters are: scalars of an update are let through.
    """

    def __enter__(self) -> Self:
        self.updating = False
        self.hooks = [
            register_optimizer_step_pre_hook(lambda *_: setattr(self, "updating", True)),
            register_optimizer_step_post_hook(lambda *_: setattr(self, "updating", False)),
        ]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            counter = isinstance(value, Tensor) and value.ndim == 0 and self.updating
            if isinstance(value, Tensor) and value.device.type != "meta" and not counter:
                raise AssertionError(f"{func} made a tensor on {value.device}")
        return result


@pytest.mark.parametrize("name", [*players.METHODS, *players.STAGED])
def test_a_step_of_every_stage_keeps_all_tensors_on_their_device_and_never_waits(name: str) -> None:
    reports: dict[str, list[Any]] = {}
    for where, guard in (("meta", OnlyMeta), ("cpu", NoSync)):
        method = players.make(name, where=where)
        with guard():
            for iteration in range(method.total if name in players.STAGED else 1):
                method.iteration = iteration
                report = method.step()
                assert all(value.device.type == where and value.shape == () for value in report.values())
                reports.setdefault(where, []).append(report.keys())
    assert reports["meta"] == reports["cpu"]


def test_the_guards_notice() -> None:
    for waits in (lambda t: t.sum().item(), lambda t: bool(t[0] > 0), lambda t: t[t > 0], lambda t: t.nonzero()):
        with NoSync(), pytest.raises(AssertionError, match="waits"):
            waits(torch.randn(3))
    with OnlyMeta(), pytest.raises(AssertionError, match="on cpu"):
        torch.zeros(())


@pytest.mark.parametrize("name", players.METHODS)
def test_in_every_precision_a_step_never_waits_gives_finite_numbers_and_moves_the_learner(name: str) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        method, seen = players.make(name, precision=precision), set()
        for module in players.learner(method).modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(lambda _, __, output, seen=seen: seen.add(output.dtype))
        before = players.state(players.learner(method))
        with nullcontext() if precision == "fp16" else NoSync():  # the scaler reads whether there was an overflow
            reports = list(itertools.islice(method.rounds(), 2))
        for report in reports:
            assert all(value.isfinite() and value.dtype == torch.float32 for value in report.values())
        assert list(players.differences(before, players.state(players.learner(method))))
        wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        assert seen == {torch.float32 if name == "fskd" else wanted}  # FSKD needs its digits
        for network in method.networks().values():
            assert all(value.isfinite().all() for value in network.state_dict().values())
            assert all(value.dtype == torch.float32 for value in network.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("name", players.METHODS)
def test_a_step_on_a_gpu_never_waits(name: str) -> None:
    method = players.make(name, where="cuda", precision=None)
    method.step()  # the first step may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        report = method.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.is_cuda and value.isfinite() for value in report.values())
