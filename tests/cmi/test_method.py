"""The inversion loop: against a plain version, property by property; the family's settings; ``invert`` in one call."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import plain_inversion
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets
from reuselib import run as engine
from reuselib.cmi import FAMILY, InstanceHead, Inversion, Studio, Views, instance, invert, losses
from reuselib.cmi.instance import instance_accuracy, watched_features
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.dfad.losses import kl_divergence, mean_absolute_error
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.nets import zoo

STUDIO = Studio(players.IMAGE, (0.5,), (0.25,), latent=5, width=2, lr=0.02)
KEPT = [name for name, member in FAMILY.items() if member.canvas != "lasting"]
LASTING = [name for name, member in FAMILY.items() if member.canvas == "lasting"]


def experienced(seed: int = 99) -> nn.Module:
    """A tiny teacher that remembers images, and is sure of some."""
    teacher = players.cast().teacher
    with engine.seeded(seed), torch.no_grad():
        nn.init.normal_(teacher.head.weight, 0, 3)
        for _ in range(30):
            teacher(torch.rand(40, *players.IMAGE) * 4 - 2)
    return teacher.eval()


def student(seed: int = 0) -> nn.Module:
    return players.cast(seed=seed).student


def make(name: str = "cmi", teacher: nn.Module | None = None, **options: Any) -> Inversion:
    """A method on a tiny teacher; nobody learns unless told otherwise, but an adversary is there."""
    options = {"batch": 6, "image_steps": 3, "embedding": 4, "bank": 12, "precision": "fp32", "capacity": 60} | options
    options.setdefault("student", student())
    pool = STUDIO.pool(options.pop("capacity"), torch.device("cpu"))
    return STUDIO.inversion(name, teacher or experienced(), pool, **options)


def steps(method: Inversion, count: int) -> list[dict[str, Tensor]]:
    reports = []
    for _ in range(count):
        reports.append(method.step())
        method.iteration += 1
    return reports


def recorded(method: Inversion) -> tuple[list[float], list[Tensor]]:
    """Record every loss that is minimised for the images, and every batch of images that is drawn."""
    seen: tuple[list[float], list[Tensor]] = [], []
    minimise, draw = method.precision.minimise, method.canvas.draw

    def listening(loss: Tensor, *rest: Any) -> None:
        seen[0].append(loss.item())
        minimise(loss, *rest)

    def watching(random: torch.Generator | None) -> Tensor:
        images = draw(random)
        seen[1].append(images.detach().clone())
        return images

    method.precision.minimise, method.canvas.draw = listening, watching  # type: ignore[method-assign]
    return seen


def eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).byte()


# ---- against the plain version


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("inversion", {}),
        ("cmi", {"changes": {"adversarial": 0.0}}),
        ("cmi", {"changes": {"adversarial": 0.0}, "negatives": 4, "bank": 6}),
        ("cmi", {"adversary": True}),
        ("cmi", {"adversary": True, "learns": True}),
        ("cmi", {"adversary": True, "learns": True, "early": 2}),
        ("inversion", {"learns": True}),
    ],
    ids=str,
)
def test_a_plain_version_makes_the_same_images(name: str, options: dict[str, Any]) -> None:
    batches, early = 4, options.get("early", 0)
    teaching = {"batch": 8, "lr": 0.05, "weight_decay": 1e-3}
    learns, adversary = options.pop("learns", False), options.pop("adversary", False)
    ours = student() if learns or adversary else None
    method = make(
        name,
        student=ours,
        seed=5,
        image_steps=5,
        student_steps=3 if learns else 0,
        student_options=teaching | {"schedule": engine.cosine(batches - early)},
        **{"bank": 12} | options,
    )
    head = copy.deepcopy(method.head) if name == "cmi" else None
    reports = steps(method, batches)
    theirs = student()
    plain = plain_inversion.cmi(
        experienced(),
        copy.deepcopy(method.generator),
        head,
        batches=batches,
        batch=6,
        image_steps=5,
        classes=players.CLASSES,
        mean=0.5,
        std=0.25,
        lr=0.02,
        padding=1,
        flip=True,
        seed=5,
        early=early,
        capacity=options.get("bank", 12),
        negatives=options.get("negatives", 1000),
        student=theirs if learns or adversary else None,
        adversarial=0.5 if adversary else 0,
        teaching=teaching | {"steps": 3} if learns else None,
    )
    found = method.pool.images()
    assert found.labels.tolist() == plain.targets
    errors = (found.images.float() - torch.stack(plain.images) * 255).abs()
    assert errors.max() < 0.51  # rounded, and hardly more
    assert [report["inversion"].item() for report in reports] == pytest.approx([*map(min, plain.losses)], rel=1e-4)
    assert len({min(log) for log in plain.losses}) == batches
    if name == "cmi":
        torch.testing.assert_close(method.bank.state_dict()["rows"], torch.stack(plain.bank), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(method.head.state_dict(), head.state_dict(), rtol=0, atol=2e-4)
    if learns:
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=2e-4)
        assert list(players.differences(players.state(ours), players.state(student())))


# ---- the contrast


def test_property_3_gradients_of_the_contrast() -> None:
    method = make()
    width = method.bank.state_dict()["rows"].shape[1] // 2
    for first in range(2):
        method.bank.add(torch.randn(6, 2 * width, generator=torch.Generator().manual_seed(first)))
    features, head = torch.randn(6, 2 * width).requires_grad_(), method.head
    drawn = method.contrast_random.get_state()
    method.contrast(features).backward()
    assert (features.grad[:, :width].norm(dim=1) > 1e-4).all()  # local views of the new images
    assert (features.grad[:, width:] == 0).all()  # their broad views are keys
    assert not method.bank.sample(12, torch.Generator()).requires_grad
    found = [parameter.grad for parameter in head.parameters()]
    # The same, the head's gradient through all anchors, new and remembered, and through no key.
    method.contrast_random.set_state(drawn)
    rows = torch.cat([features.detach(), method.bank.sample(method.negatives, method.contrast_random)])
    assert len(rows) == 18
    expected = torch.autograd.grad(plain_inversion.contrast(head, rows, 6), list(head.parameters()))
    new_only = torch.autograd.grad(plain_inversion.contrast(head, rows[:6], 6), list(head.parameters()))
    for gradient, plain, partly in zip(found, expected, new_only, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(gradient, partly, rtol=1e-2)


def ignored(anchors: Tensor, keys: Tensor, new: int, temperature: float) -> Tensor:
    """A contrast that is always 0, and so is its gradient."""
    return (0 * anchors).sum()


def test_property_4_without_weight_the_contrast_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head, bank, second view and their draws are there in one run and not in the other."""
    results = []
    for contrastive in (0.0, 0.8):
        method = make(changes={"contrastive": contrastive}, image_steps=4, seed=3)
        assert hasattr(method, "head") == hasattr(method, "bank") == bool(contrastive)
        monkeypatch.setattr(losses, "contrastive_loss", ignored)
        drawn = recorded(method)[1]
        reports = [report["inversion"] for report in steps(method, 4)]
        results.append([reports, drawn, *map(players.state, (method.pool, method.generator, method.random))])
    assert len(results[0][1]) == 16
    assert not list(players.differences(*results))


def test_the_contrast_leaves_classes_and_starts_of_all_batches_alone() -> None:
    results = []
    for contrastive in (0.0, 0.8):
        method = make(changes={"contrastive": contrastive})
        drawn = recorded(method)[1]
        steps(method, 4)
        results.append((method.pool.images().labels, drawn))
    (labels, without), (same_labels, with_contrast) = results
    assert torch.equal(labels, same_labels)
    for index, (a, b) in enumerate(zip(without, with_contrast, strict=True)):
        assert torch.equal(a, b) == (index % 3 == 0)  # the first of three updates


def test_property_8_the_bank_takes_part_as_far_as_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, contrastive_loss = [], losses.contrastive_loss

    def counting(anchors: Tensor, keys: Tensor, new: int, temperature: float) -> Tensor:
        sizes.append((len(anchors), len(keys), new, temperature))
        torch.testing.assert_close(keys.norm(dim=1), torch.ones(len(keys)))
        return contrastive_loss(anchors, keys, new, temperature)

    monkeypatch.setattr(losses, "contrastive_loss", counting)
    method = make(image_steps=1, bank=24, negatives=15, changes={"temperature": 0.2})
    for batch in range(6):
        assert len(method.bank) == min(6 * batch, 24)
        steps(method, 1)
    expected = [6 + min(6 * batch, 15) for batch in range(6)]
    assert sizes == [(count, count, 6, 0.2) for count in expected]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_property_9_the_head_gives_unit_vectors(precision: str) -> None:
    head = InstanceHead(20, 7)
    with engine.precision(torch.device("cpu"), precision).autocast():
        embedding = head(torch.randn(9, 20))
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(9))
    assert nets.parameter_count(InstanceHead(2704)) == 2704 * 2705 + 2705 * 256  # 8.0 million


def test_pitfall_9_the_local_view_does_not_touch_the_statistics_of_the_broad_one() -> None:
    values = []
    for contrastive in (0.0, 0.8):
        method, seen = make(changes={"contrastive": contrastive}, image_steps=1), []
        method.teacher.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].detach()))
        report = method.step()
        assert len(seen) == (2 if contrastive else 1)
        plain = plain_inversion.inspect(copy.deepcopy(method.teacher), seen[0])[1]
        assert report["batch_norm"].item() == pytest.approx(plain.item(), rel=1e-5)
        if contrastive:
            assert plain.item() != pytest.approx(plain_inversion.inspect(method.teacher, seen[1])[1].item(), rel=1e-3)
        values.append(report["batch_norm"])
    assert torch.equal(*values)


# ---- who moves


def test_property_6_making_images_moves_neither_teacher_nor_student() -> None:
    for name in FAMILY:
        method = make(name)
        before = players.state(method.teacher), players.state(method.adversary)
        steps(method, 2)
        after = players.state(method.teacher), players.state(method.adversary)
        assert not list(players.differences(list(before), list(after)))
        assert method.student is method.adversary and method.student.training
        assert all(parameter.grad is None for net in (method.teacher, method.student) for parameter in net.parameters())


def test_property_6_the_head_lasts_and_the_generator_does_not() -> None:
    method = make()
    optimizer, weights, heads = method.head_optimizer, [], []
    method.head.register_forward_pre_hook(lambda head, _: heads.append(players.state(head)))
    begin = method.canvas.begin

    def beginning(*arguments: Any) -> None:
        begin(*arguments)
        weights.append((players.state(method.generator), players.state(method.head)))

    method.canvas.begin = beginning  # type: ignore[method-assign]
    steps(method, 2)
    (first, _), (second, head) = weights
    assert list(players.differences(first, second)) and method.head_optimizer is optimizer
    # Two passes of the head in each of three updates: what the second batch starts with is what the first one left.
    assert not list(players.differences(head, heads[6])) and list(players.differences(head, heads[0]))
    assert next(iter(optimizer.state.values()))["step"] == 6


@pytest.mark.parametrize("name", KEPT)
def test_property_11_and_pitfall_8_the_best_iterate_is_saved_not_the_last(name: str) -> None:
    wild = replace(STUDIO, lr=1.5 if name in ("deepinversion", "adi") else 0.3)
    options = {"batch": 6, "bank": 60, "embedding": 4, "precision": "fp32", "student": student(), "seed": 2}
    method = wild.inversion(name, experienced(), wild.pool(60, torch.device("cpu")), image_steps=15, **options)
    features, contrast = [], method.contrast

    def listening(each: Tensor) -> Tensor:
        features.append(each.detach().clone())
        return contrast(each)

    method.contrast = listening  # type: ignore[method-assign]
    log, images = recorded(method)
    places = []
    for batch, report in enumerate(steps(method, 4)):
        own = log[15 * batch : 15 * (batch + 1)]
        place = min(range(15), key=own.__getitem__)
        places.append(place)
        assert report["inversion"].item() == own[place]
        saved = method.pool.images().images[6 * batch : 6 * (batch + 1)]
        assert torch.equal(saved, eight_bit(images[15 * batch + place]))
        if features:
            rows = method.bank.state_dict()["rows"][6 * batch : 6 * (batch + 1)]
            assert torch.equal(rows, features[15 * batch + place])
    assert min(places) < 14, "the last iterate was always the best: this test tells nothing"


def test_pixels_are_put_back_into_range_after_every_update() -> None:
    method = make("deepinversion", image_steps=4)
    _, drawn = recorded(method)
    steps(method, 2)
    for index, images in enumerate(drawn):
        within = images.min() >= -1e-6 and images.max() <= 1 + 1e-6
        assert within == (index % 4 != 0)  # noise, before the first update


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_generator_gives_new_images_in_evaluation_mode_to_pool_and_student(name: str) -> None:
    method, seen = make(name, student_steps=2, image_steps=2, student_options={"batch": 4}), []
    method.generator.register_forward_hook(lambda net, _, images: seen.append((net.training, images.detach().float())))
    steps(method, 1)
    # Twice: an update of the generator and two of the student. Then the images to keep.
    assert [training for training, _ in seen] == [True, False, False, True, False, False, False]
    assert [len(images) for _, images in seen] == [6, 4, 4, 6, 4, 4, 6]
    assert torch.equal(method.pool.images().images, eight_bit(seen[-1][1]))
    assert method.generator.training


@pytest.mark.parametrize(("name", "updates"), [("cmi", 4), ("adi", 4), ("dfq", 12)])
def test_updates_of_the_student(name: str, updates: int) -> None:
    method = make(name, student_steps=4, image_steps=3)
    counted: list[None] = []
    method.imitation.student_optimizer.register_step_post_hook(lambda *_: counted.append(None))
    reports = steps(method, 2)
    assert len(counted) == 2 * updates
    assert all({"imitation", "teacher_logits"} <= report.keys() for report in reports)
    assert method.student is method.imitation.student and method.adversary is None


def test_before_its_time_a_student_takes_no_part() -> None:
    schedule = engine.step_decay([1])
    options = {"lr": 0.4, "schedule": schedule}
    method = make(early=2, student_steps=2, image_steps=3, early_steps=1, student_options=options)
    before, (updates, _) = players.state(method.student), recorded(method)
    for batch in range(5):
        (report,), takes_part = steps(method, 1), batch >= 2
        assert ("adversarial" in report) == ("imitation" in report) == takes_part
        assert bool(list(players.differences(before, players.state(method.student)))) == takes_part
        rate = method.imitation.student_optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(0.04 if takes_part else 0.4)
    assert len(updates) == 2 * 1 + 3 * 3


def test_classes_are_drawn_evenly_and_sorted_or_those_that_were_asked_for() -> None:
    method = make("inversion", image_steps=1, batch=300, capacity=600)
    steps(method, 2)
    labels = method.pool.images().labels.view(2, 300)
    assert torch.equal(labels, labels.sort(1).values) and not torch.equal(*labels)
    assert ((torch.bincount(labels[0], minlength=players.CLASSES) - 75).abs() < 30).all()
    wanted = torch.tensor([3, 0, 0, 1, 2, 2])
    method = make(labels=wanted)
    steps(method, 2)
    assert method.pool.images().labels.tolist() == 2 * wanted.tolist()


def test_images_become_what_is_asked_of_them() -> None:
    """After more updates the statistics fit better, and the teacher names more of the classes."""
    for name in ("inversion", "cmi", "deepinversion"):
        teacher = experienced()
        short, long = (make(name, teacher, image_steps=count, batch=30, bank=30, seed=4) for count in (1, 80))
        before, after = (steps(method, 1)[0] for method in (short, long))
        assert after["batch_norm"] < 0.6 * before["batch_norm"]
        images = long.pool.images()
        assert engine.accuracy(teacher, images) > engine.accuracy(teacher, short.pool.images()) + 0.15


# ---- the family


def plain_objective(name: str, method: Inversion, x: Tensor, targets: Tensor) -> float:
    """The weighted sum of the official scripts, but for the contrast, of one view."""
    teacher, learner = copy.deepcopy(method.teacher).eval(), copy.deepcopy(method.student).eval()
    t, distance, _ = plain_inversion.inspect(teacher, x)
    s, own = learner(x), t.argmax(1)
    mean = t.softmax(1).mean(0)
    balance, activation = (mean * mean.log()).sum(), -teacher.features(x).abs().mean()
    kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1)
    cross_entropy = nn.functional.cross_entropy
    deep = 10 * distance + cross_entropy(t, targets) + 1e-3 * losses.total_variation(x)
    return {
        "dafl": cross_entropy(t, own) + 20 * balance + 1e-3 * activation,
        "zskt": -kl.mean(),
        "dfad": -(t - s).abs().mean(),
        "dfq": distance + cross_entropy(t, own) + 20 * balance - kl.mean(),
        "deepinversion": deep,
        "adi": deep - losses.jensen_shannon(t, s),
        "inversion": distance + 0.5 * cross_entropy(t, targets),
        "cmi": distance + 0.5 * cross_entropy(t, targets) - 0.5 * (kl * (own == s.argmax(1))).mean(),
    }[name].item()


@pytest.mark.parametrize("name", FAMILY)
def test_the_objective_of_every_method(name: str) -> None:
    method, seen = make(name, image_steps=1, batch=20, bank=20), []
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    updates, _ = recorded(method)
    report = method.step()
    expected = plain_objective(name, method, seen[0], method.pool.images().labels)
    contrast = 0.8 * report["contrastive"].item() if name == "cmi" else 0
    assert updates == pytest.approx([expected + contrast], rel=1e-4)
    terms = report.keys() - {"inversion"}
    total = sum(getattr(FAMILY[name].terms, term) * report[term].item() for term in terms)
    assert report["inversion"].item() == updates[0] == pytest.approx(total, rel=1e-4)
    assert terms == {term for term in vars(FAMILY[name].terms) if report.get(term) is not None}


def test_the_students_losses_of_the_family() -> None:
    t, s = torch.randn(6, 4), torch.randn(6, 4)
    for name, member in FAMILY.items():
        found = member.discrepancy(t, s)
        if name == "dfad":
            expected = mean_absolute_error(t, s)
        else:
            expected = kl_divergence(t, s, 20 if name in KEPT else 1)
        assert torch.equal(found, expected), name
        assert make(name, student_steps=1).imitation.discrepancy is member.discrepancy


def test_terms_without_weight_cost_nothing() -> None:
    method = make("inversion", changes={"batch_norm": 0.0}, image_steps=2)
    passes = []
    method.teacher.register_forward_hook(lambda *_: passes.append(len(method.teacher._forward_pre_hooks)))
    assert method.step().keys() == {"inversion", "one_hot"} and len(passes) == 2
    assert not hasattr(method, "head") and method.student is not None
    method.student.register_forward_hook(lambda *_: pytest.fail("the student was asked"))
    steps(method, 1)


def test_the_views_of_the_three_kinds_of_canvas() -> None:
    studio = Studio((3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    assert studio.views("fresh") == Views(padding=4, flip=True, scale=(0.25, 1.0))
    assert studio.views("pixels") == Views(roll=4, flip=True) and studio.views("lasting") == Views()
    assert replace(studio, padding=2, flip=False).views("fresh") == Views(padding=2)
    assert Studio((1, 16, 16), (0.5,), (0.25,)).shift == 2
    images = torch.rand(4, 3, 32, 32)
    assert studio.views("lasting").broad(images, None) is images
    rolled = studio.views("pixels").broad(images, torch.Generator().manual_seed(0))
    assert torch.equal(rolled.flatten(1).sort().values, images.flatten(1).sort().values)


def test_property_9_the_papers_generators() -> None:
    studio, where = Studio((3, 32, 32), (0.5,) * 3, (0.25,) * 3), torch.device("cpu")
    for kind, parameters in (("fresh", 2_328_899), ("lasting", 4_581_955)):
        canvas = studio.canvas(kind, where)
        assert nets.parameter_count(canvas.generator) == parameters
        canvas.begin(2, torch.Generator().manual_seed(0))
        images = canvas.draw(torch.Generator().manual_seed(0))
        assert images.shape == (2, 3, 32, 32) and 0 <= images.min() and images.max() <= 1


def test_a_seed_decides_the_weights_of_a_canvas_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    generators = [players.state(STUDIO.canvas("lasting", torch.device("cpu"), seed).generator) for seed in (1, 1, 2)]
    assert not list(players.differences(*generators[:2])) and list(players.differences(*generators[1:]))
    make("dfq", student_steps=1, student=student())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["cmi", "dfq", "adi"])
def test_resumed_equals_uninterrupted(tmp_path: Path, name: str) -> None:
    def run(rounds: int, checkpoint: Path | None, seed: int = 0) -> tuple[Any, list[dict[str, float]]]:
        options = {"lr": 0.05, "schedule": engine.cosine(3)}
        method = make(name, student=student(seed), seed=seed, student_steps=2, early=1, student_options=options)
        history = engine.run(method, rounds, checkpoint=checkpoint, progress=False)
        return players.state(method), history.rounds

    whole, rounds = run(5, None)
    for part in (1, 3):  # before the student takes part for the first time, and later
        run(part, tmp_path / f"{part}.pt")
        resumed, resumed_rounds = run(5, tmp_path / f"{part}.pt", seed=7)
        assert not list(players.differences(whole, resumed)) and resumed_rounds == rounds
    assert whole["iteration"] == 5 and len(whole["pool"]["images"]) == 30


def test_numbers_that_are_not_finite_stop_a_run() -> None:
    teacher = experienced()
    with torch.no_grad():
        teacher.head.bias.fill_(float("nan"))
    with pytest.raises(NonFinite, match="'inversion' became"):
        engine.run(make("inversion", teacher), 1, progress=False)


# ---- errors


def without_batch_norm() -> nn.Module:
    return players.cast(batch_norm=False).teacher


@pytest.mark.parametrize("name", ["dfq", "deepinversion", "adi", "inversion", "cmi"])
def test_a_teacher_without_batch_norm_is_refused(name: str) -> None:
    with pytest.raises(ReuseError, match="no BatchNorm2d.*'dafl', 'zskt' or 'dfad'"):
        make(name, without_batch_norm())


@pytest.mark.parametrize("name", ["dafl", "zskt", "dfad"])
def test_other_methods_do_without_batch_norm(name: str) -> None:
    assert all(value.isfinite() for value in make(name, without_batch_norm()).step().values())


def test_named_layers_serve_the_contrast_of_a_teacher_without_batch_norm() -> None:
    method = make("cmi", without_batch_norm(), changes={"batch_norm": 0.0}, layers=("blocks.1", "blocks.2"))
    assert method.head.layers[0].in_features == 4 + 8
    assert all(value.isfinite() for report in steps(method, 3) for value in report.values())


@pytest.mark.parametrize("name", ["cmi", "adi", "dfq", "zskt", "dfad"])
def test_an_adversary_needs_a_student(name: str) -> None:
    with pytest.raises(ReuseError, match=r"needs a student. Give one, or set Terms\(adversarial=0\)"):
        make(name, student=None)


def test_a_loss_without_terms_is_refused() -> None:
    with pytest.raises(ReuseError, match="No term has a weight before the student takes part"):
        make("zskt", early=1).step()


@pytest.mark.parametrize("image", [(3, 8, 8), (1, 12, 12)])
def test_images_that_the_teacher_does_not_take_are_refused(image: tuple[int, int, int]) -> None:
    teacher = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 4))
    studio = Studio(image, (0.5,) * image[0], (0.25,) * image[0], width=2)
    with pytest.raises(ShapeMismatch, match=rf"does not take images of shape \({image[0]}, {image[1]}"):
        studio.inversion("inversion", teacher, studio.pool(6, torch.device("cpu")), batch=6)
    assert players.hooks(teacher) == 0 and teacher.training


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, 2, 3, 0, 1, 2]])
def test_labels_that_do_not_fit_the_batch_are_refused(labels: list[int]) -> None:
    with pytest.raises(ShapeMismatch, match=f"{len(labels)} labels for a batch of 6 images. Give one per image"):
        make(labels=torch.tensor(labels))


@pytest.mark.parametrize("label", [-1, 4])
def test_classes_that_the_teacher_does_not_have_are_refused(label: int) -> None:
    with pytest.raises(ShapeMismatch, match="The teacher has 4 classes. Give labels from 0 to 3"):
        make(labels=torch.tensor([0, 1, 2, 3, 3, label]))


def test_a_bank_that_batches_do_not_fill_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="A bank of 10 images does not fill with batches of 6"):
        make(bank=10)


def test_a_pool_that_is_too_small_is_refused() -> None:
    with pytest.raises(ReuseError, match="A pool of 10 images cannot hold 12. Give it a larger capacity"):
        steps(make(capacity=10), 2)


# ---- in one call


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A network that knows nothing of this library."""
    import torchvision

    with engine.seeded(0):
        return torchvision.models.resnet18(weights=None, num_classes=7)


@contextmanager
def inputs_of(network: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


def test_invert_a_network_of_torchvision_in_one_call(resnet: nn.Module) -> None:
    resnet.train().layer2.eval()
    resnet.fc.requires_grad_(False)
    before = players.state(resnet), [module.training for module in resnet.modules()]
    learning = [parameter.requires_grad for parameter in resnet.parameters()]
    with inputs_of(resnet) as seen:
        images = invert(resnet, (3, 32, 32), count=3, image_steps=2, labels=[4, 0], progress=False)
    assert images.images.shape == (4, 3, 32, 32) and images.images.dtype == torch.uint8  # two batches of two
    assert images.labels.tolist() == [4, 0, 4, 0] and images.images.float().std() > 1
    assert (images.mean, images.std, images.classes) == (*IMAGENET_STATISTICS, ())
    assert len(seen) == 1 + 2 * 2 * 2  # a look at its outputs; two batches, two updates, two views
    low, high = (
        (value - torch.tensor(IMAGENET_STATISTICS[0])) / torch.tensor(IMAGENET_STATISTICS[1]) for value in (0, 1)
    )
    for x in seen:
        assert (x.amin((0, 2, 3)) >= low - 1e-5).all() and (x.amax((0, 2, 3)) <= high + 1e-5).all()
    after = players.state(resnet), [module.training for module in resnet.modules()]
    assert not list(players.differences(list(before), list(after))) and players.hooks(resnet) == 0
    assert learning == [parameter.requires_grad for parameter in resnet.parameters()]
    assert all(parameter.grad is None for parameter in resnet.parameters())


@pytest.mark.parametrize("name", FAMILY)
def test_invert_with_every_method(name: str) -> None:
    adversary = None if name in ("dafl", "deepinversion", "inversion") else student()
    before = players.state(adversary) if adversary else None
    options = {"count": 6, "method": name, "image_steps": 2, "progress": False, "student": adversary, "seed": 1}
    images, again = (invert(experienced(), players.IMAGE, **options) for _ in range(2))
    assert len(images) == 6 and torch.equal(images.images, again.images) and torch.equal(images.labels, again.labels)
    assert (images.mean, images.std) == ((0.5,), (0.5,))
    other = invert(experienced(), players.IMAGE, **options | {"seed": 2})
    assert not torch.equal(images.images, other.images)
    assert before is None or not list(players.differences(before, players.state(adversary)))


def test_invert_a_network_of_the_zoo_by_its_card() -> None:
    network = zoo.load("shapes16-conv4")
    card = zoo.card("shapes16-conv4")
    images = invert(network, count=4, image_steps=2, sizes={"width": 4, "flip": False}, progress=False)
    assert isinstance(images, ImageSet) and images.shape == tuple(card["image"])
    assert images.classes == tuple(card["classes"])
    assert (images.mean, images.std) == (tuple(card["mean"]), tuple(card["std"]))
    assert list(invert(network, count=4, batch=3, image_steps=1, progress=False).shape) == card["image"]


def test_inverted_images_of_a_trained_network_are_named_by_it() -> None:
    network = zoo.load("shapes16-conv4")
    options = {"image_steps": 60, "sizes": {"width": 16, "lr": 5e-3, "flip": False}, "progress": False}
    images = invert(network, count=16, method="inversion", labels=[0, 1, 2, 3] * 4, **options)
    assert engine.accuracy(network, images) > 0.7


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(checkpoint: Path | None) -> ImageSet:
        options = {"count": 18, "batch": 6, "image_steps": 3, "progress": False, "checkpoint": checkpoint}
        return invert(experienced(), players.IMAGE, **options)

    whole = call(None)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Inversion, "step", players.rigged(Inversion.step, at=2))
        with pytest.raises(players.Explosion):
            call(tmp_path / "run.pt")
    resumed = call(tmp_path / "run.pt")
    assert torch.equal(resumed.images, whole.images) and torch.equal(resumed.labels, whole.labels)
    with pytest.raises(ReuseError, match="made with other settings"):
        invert(experienced(), players.IMAGE, count=18, batch=6, image_steps=4, checkpoint=tmp_path / "run.pt")


def test_weights_can_be_changed_in_a_call(resnet: nn.Module) -> None:
    teacher = experienced()
    with inputs_of(teacher) as seen:
        invert(teacher, players.IMAGE, count=4, image_steps=2, contrastive=0.0, progress=False)
    assert len(seen) == 1 + 2  # no second view
    with pytest.raises(ReuseError, match="needs a student"):
        invert(teacher, players.IMAGE, count=4, adversarial=1.0, progress=False)
    means = {"mean": (0.1,), "std": (0.9,)}
    images = invert(teacher, players.IMAGE, count=4, image_steps=1, progress=False, **means)
    assert (images.mean, images.std) == ((0.1,), (0.9,))


def test_a_network_without_linear_layers_can_be_inverted() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers, nn.Flatten())
    assert len(invert(network, (3, 8, 8), count=4, image_steps=2, progress=False)) == 4
    with pytest.raises(ReuseError, match="no linear layer"):
        invert(network, (3, 8, 8), count=4, method="dafl", progress=False)


def test_errors_of_the_call_name_the_way_out(resnet: nn.Module) -> None:
    def call(network: nn.Module = resnet, image: Any = (3, 32, 32), **options: Any) -> None:
        invert(network, image, **{"count": 2, "image_steps": 1, "progress": False} | options)

    with pytest.raises(UnknownName, match="inversion method 'cmy'. Did you mean 'cmi'"):
        call(method="cmy")
    with pytest.raises(ReuseError, match=r"No card says.*Give image=\(channels, height, width\)"):
        call(image=None)
    with pytest.raises(ReuseError, match="no BatchNorm2d"):
        call(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)))
    for method in ("zskt", "dfad"):
        with pytest.raises(ReuseError, match="needs a student"):
            call(method=method)
    with pytest.raises(ShapeMismatch, match=r"does not take images of shape \(1, 32, 32\)"):
        call(image=(1, 32, 32))
    with pytest.raises(ShapeMismatch, match="multiples of 4"):
        call(image=(3, 30, 30))
    with pytest.raises(ShapeMismatch, match="2 labels for a batch of 3 images"):
        call(labels=[0, 1], batch=3)
    with pytest.raises(ShapeMismatch, match="The teacher has 7 classes. Give labels from 0 to 6"):
        call(labels=[0, 7])
    assert players.hooks(resnet) == 0


# ---- telling images apart


def views(count: int, width: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (5, count, width) of two kinds of views of images, each around its image's own place."""
    random = torch.Generator().manual_seed(seed)
    places = torch.randn(count, width, generator=random)
    first, second = (places + noise * torch.randn(5, count, width, generator=random) for _ in range(2))
    return first, second


def test_instance_accuracy_of_images_that_are_clearly_distinct() -> None:
    assert instance_accuracy(*views(300, 32, 0.05)) > 0.95


def test_instance_accuracy_of_images_that_are_alike_is_chance() -> None:
    first, second = (torch.randn(5, 300, 16) for _ in range(2))
    assert instance_accuracy(first, second) < 0.03
    same = torch.randn(1, 1, 16).expand(5, 300, 16)
    assert instance_accuracy(same, same) == pytest.approx(1 / 300)


def test_instance_accuracy_lies_between_for_images_that_are_hard_to_tell() -> None:
    values = [instance_accuracy(*views(200, 16, noise)) for noise in (0.1, 0.6, 3.0)]
    assert values[0] > values[1] + 0.1 > values[2] + 0.2


def test_instance_accuracy_is_measured_on_views_that_were_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Listening(InstanceHead):
        def forward(self, features: Tensor) -> Tensor:
            seen.append(features)
            return super().forward(features)

    monkeypatch.setattr(instance, "InstanceHead", Listening)
    first, second = views(20, 8, 0.1)
    instance_accuracy(first, second, steps=6, batch=10)
    learned, tested = seen[:-2], seen[-2:]
    assert torch.equal(tested[0], first[-1]) and torch.equal(tested[1], second[-1])
    for step, (a, b) in enumerate(zip(learned[::2], learned[1::2], strict=True)):
        places = [int((first[step % 4] == row).all(1).nonzero()) for row in a]
        assert len(set(places)) == 10 and torch.equal(b, second[step % 4, places])


def test_instance_accuracy_repeats_learns_without_gradients_and_draws_nothing_else() -> None:
    first, second = views(100, 8, 0.5)
    state = torch.get_rng_state()
    expected = instance_accuracy(first, second, steps=20)
    with torch.no_grad():
        assert instance_accuracy(first, second, steps=20) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert {instance_accuracy(first, second, steps=20, seed=seed) for seed in range(4)} != {expected}


def test_watched_features_are_the_contrasts_own() -> None:
    teacher = experienced()
    before = players.state(teacher.train())
    images = torch.randn(1100, *players.IMAGE)
    found = watched_features(teacher, images)
    assert teacher.training and players.hooks(teacher) == 0 and not found.requires_grad
    assert not list(players.differences(before, players.state(teacher)))
    torch.testing.assert_close(found, plain_inversion.inspect(teacher.eval(), images)[2].detach())
    assert watched_features(teacher, images[:5], ("blocks.2",)).shape == (5, 8)
