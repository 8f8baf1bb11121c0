"""The inversion loop: against a plain version, property by property; the family's settings; errors."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import plain_inversion
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.cmi import FAMILY, InstanceHead, Inversion, Studio, losses
from reuselib.dfad.losses import kl_divergence, mean_absolute_error
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch

STUDIO = Studio(players.space(), latent=5, width=2, lr=0.02)
KEPT = [name for name, member in FAMILY.items() if member.canvas != "lasting"]


def experienced(seed: int = 99) -> nn.Module:
    """A tiny teacher that remembers images, and is sure of some."""
    teacher = players.cast().teacher
    with run.seeded(seed), torch.no_grad():
        nn.init.normal_(teacher.head.weight, 0, 3)
        for _ in range(30):
            teacher(torch.rand(40, *players.IMAGE) * 4 - 2)
    return teacher.eval()


def student(seed: int = 0) -> nn.Module:
    return players.cast(seed=seed).student


def make(name: str = "cmi", teacher: nn.Module | None = None, studio: Studio = STUDIO, **options: Any) -> Inversion:
    """A method on a tiny teacher; nobody learns unless told otherwise, but an adversary is there."""
    options = {"batch": 6, "image_steps": 3, "embedding": 4, "bank": 12, "precision": "fp32", "weights": {}} | options
    options.setdefault("student", student())
    pool = studio.pool(options.pop("capacity", 60))
    return studio.inversion(name, teacher or experienced(), pool, **options)


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
    ("name", "adversary", "learns", "options"),
    [
        ("cmi", False, False, {"weights": {"adversarial": 0.0}, "negatives": 4, "bank": 6}),
        ("cmi", True, False, {}),
        ("cmi", True, True, {"early": 2}),
        ("inversion", False, True, {}),
    ],
)
def test_a_plain_version_makes_the_same_images(
    name: str, adversary: bool, learns: bool, options: dict[str, Any]
) -> None:
    batches, early = 4, options.get("early", 0)
    teaching = {"batch": 8, "lr": 0.05, "weight_decay": 1e-3}
    learning = teaching | {"schedule": run.cosine(batches - early), "student_steps": 3} if learns else None
    ours, theirs = (student() if learns or adversary else None for _ in range(2))
    method = make(name, student=ours, seed=5, image_steps=5, learning=learning, **options)
    head = copy.deepcopy(method.head) if name == "cmi" else None
    reports = steps(method, batches)
    plain = plain_inversion.cmi(
        experienced(),
        copy.deepcopy(method.generator),
        head,
        **{"batches": batches, "batch": 6, "image_steps": 5, "classes": players.CLASSES, "early": early, "seed": 5},
        **{"mean": 0.5, "std": 0.25, "lr": 0.02, "padding": 1, "flip": True, "capacity": options.get("bank", 12)},
        negatives=options.get("negatives", 1000),
        student=theirs,
        adversarial=0.5 if adversary else 0,
        teaching=teaching | {"steps": 3} if learns else None,
    )
    found = method.pool.images()
    assert found.labels.tolist() == plain.targets
    assert (found.images.float() - torch.stack(plain.images) * 255).abs().max() < 0.51  # rounded, and hardly more
    assert [report["inversion"].item() for report in reports] == pytest.approx([*map(min, plain.losses)], rel=1e-4)
    assert len({min(log) for log in plain.losses}) == batches
    if head:
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
    found = [parameter.grad for parameter in head.parameters()]
    # The same, the head's gradient through all anchors, new and remembered, and through no key.
    method.contrast_random.set_state(drawn)
    rows = torch.cat([features.detach(), method.bank.sample(method.negatives, method.contrast_random)])
    assert len(rows) == 18
    expected, new_only = (
        torch.autograd.grad(plain_inversion.contrast(head, part, 6), list(head.parameters()))
        for part in (rows, rows[:6])
    )
    for gradient, plain, partly in zip(found, expected, new_only, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(gradient, partly, rtol=1e-2)


def test_property_4_the_draws_of_the_contrast_change_no_bit_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head, bank, second view and their draws are there in one run and not in the other."""
    results, starts = [], []
    for contrastive in (0.0, 0.8):
        for ignored in (False, True):
            if ignored:
                monkeypatch.setattr(losses, "contrastive_loss", lambda anchors, *_: (0 * anchors).sum())
            method = make(weights={"contrastive": contrastive}, seed=3)
            assert hasattr(method, "head") == hasattr(method, "bank") == bool(contrastive)
            drawn = recorded(method)[1]
            reports = [report["inversion"] for report in steps(method, 4)]
            if ignored:
                states = map(players.state, (method.pool, method.generator, method.random))
                results.append([reports, drawn, *states])
            else:
                starts.append((method.pool.images().labels, drawn))
            monkeypatch.undo()
    assert not list(players.differences(*results))
    # Where it has its say, it leaves the classes and the start of every batch alone.
    assert torch.equal(starts[0][0], starts[1][0])
    for index, (a, b) in enumerate(zip(starts[0][1], starts[1][1], strict=True)):
        assert torch.equal(a, b) == (index % 3 == 0)  # the first of three updates


def test_property_8_the_bank_takes_part_as_far_as_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, contrastive_loss = [], losses.contrastive_loss

    def counting(anchors: Tensor, keys: Tensor, new: int, temperature: float) -> Tensor:
        sizes.append((len(anchors), len(keys), new, temperature))
        return contrastive_loss(anchors, keys, new, temperature)

    monkeypatch.setattr(losses, "contrastive_loss", counting)
    method = make(image_steps=1, bank=24, negatives=15, weights={"temperature": 0.2})
    for batch in range(6):
        assert len(method.bank) == min(6 * batch, 24)
        steps(method, 1)
    expected = [6 + min(6 * batch, 15) for batch in range(6)]
    assert sizes == [(count, count, 6, 0.2) for count in expected]


def test_property_9_the_head_gives_unit_vectors_and_the_papers_networks_have_their_size() -> None:
    head = InstanceHead(20, 7)
    for precision in ("fp32", "bf16"):
        with run.precision(torch.device("cpu"), precision).autocast():
            embedding = head(torch.randn(9, 20))
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(9))
    assert nets.parameter_count(InstanceHead(2704)) == 2704 * 2705 + 2705 * 256  # 8.0 million
    studio, random = Studio(players.space((3, 32, 32), (0.5,) * 3, (0.25,) * 3)), torch.Generator()
    for kind, parameters in (("fresh", 2_328_899), ("lasting", 4_581_955)):
        canvas = studio.canvas(kind)
        assert nets.parameter_count(canvas.generator) == parameters
        canvas.begin(2, random)
        images = canvas.draw(random)
        assert images.shape == (2, 3, 32, 32) and 0 <= images.min() and images.max() <= 1


def test_pitfall_9_the_local_view_does_not_touch_the_statistics_of_the_broad_one() -> None:
    values = []
    for contrastive in (0.0, 0.8):
        method, seen = make(weights={"contrastive": contrastive}, image_steps=1), []
        method.teacher.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].detach()))
        report = method.step()
        assert len(seen) == (2 if contrastive else 1)
        plain = [plain_inversion.inspect(copy.deepcopy(method.teacher), view)[1].item() for view in [*seen]]
        assert report["batch_norm"].item() == pytest.approx(plain[0], rel=1e-5)
        assert plain[-1] != pytest.approx(plain[0], rel=1e-3) or not contrastive
        values.append(report["batch_norm"])
    assert torch.equal(*values)


# ---- who moves


def test_property_6_an_adversary_does_not_move_the_head_lasts_and_the_generator_does_not() -> None:
    for name in FAMILY:
        method = make(name)
        before = players.state(method.adversary)
        steps(method, 1)
        assert not list(players.differences(before, players.state(method.adversary)))
        assert method.student is method.adversary and method.student.training
    method, weights, heads = make(), [], []
    begin, optimizer = method.canvas.begin, method.head_optimizer
    method.head.register_forward_pre_hook(lambda head, _: heads.append(players.state(head)))

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
    pixels = FAMILY[name].canvas == "pixels"
    method = make(name, studio=replace(STUDIO, lr=1.5 if pixels else 0.3), bank=60, image_steps=15, seed=2)
    features, contrast, places = [], method.contrast, []

    def listening(each: Tensor) -> Tensor:
        features.append(each.detach().clone())
        return contrast(each)

    method.contrast = listening  # type: ignore[method-assign]
    log, images = recorded(method)
    for batch, report in enumerate(steps(method, 4)):
        own, these = log[15 * batch : 15 * (batch + 1)], slice(6 * batch, 6 * (batch + 1))
        place = min(range(15), key=own.__getitem__)
        places.append(place)
        assert report["inversion"].item() == own[place]
        assert torch.equal(method.pool.images().images[these], eight_bit(images[15 * batch + place]))
        if features:
            assert torch.equal(method.bank.state_dict()["rows"][these], features[15 * batch + place])
        if pixels:  # put back into range after every update: only the noise before the first one is out of it
            within = [x.min() >= -1e-6 and x.max() <= 1 + 1e-6 for x in images[15 * batch : 15 * (batch + 1)]]
            assert not within[0] and all(within[1:])
    assert min(places) < 14, "the last iterate was always the best: this test tells nothing"


def test_a_lasting_generator_gives_new_images_in_evaluation_mode_to_pool_and_student() -> None:
    for name in ("dafl", "dfq"):
        method, seen = make(name, image_steps=2, learning={"student_steps": 2, "batch": 4}), []
        method.generator.register_forward_hook(
            lambda net, _, images, seen=seen: seen.append((net.training, images.detach().float()))
        )
        steps(method, 1)
        # Twice: an update of the generator and two of the student. Then the images to keep.
        assert [training for training, _ in seen] == [True, False, False, True, False, False, False]
        assert [len(images) for _, images in seen] == [6, 4, 4, 6, 4, 4, 6]
        assert torch.equal(method.pool.images().images, eight_bit(seen[-1][1])) and method.generator.training


def test_updates_of_the_student_and_before_its_time_it_takes_no_part() -> None:
    for name, updates in (("cmi", 4), ("adi", 4), ("dfq", 12)):
        method, counted = make(name, learning={"student_steps": 4}), []
        method.imitation.student_optimizer.register_step_post_hook(lambda *_, seen=counted: seen.append(None))
        reports = steps(method, 2)
        assert len(counted) == 2 * updates
        assert all({"imitation", "teacher_logits"} <= report.keys() for report in reports)
        assert method.student is method.imitation.student and method.adversary is None
    learning = {"student_steps": 2, "lr": 0.4, "schedule": run.step_decay([1])}
    method = make(early=2, early_steps=1, learning=learning)
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
def test_the_objective_of_every_method_and_its_students_loss(name: str) -> None:
    method, seen = make(name, image_steps=1, batch=20, bank=20), []
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    updates, _ = recorded(method)
    report = method.step()
    expected = plain_objective(name, method, seen[0], method.pool.images().labels)
    contrast = 0.8 * report["contrastive"].item() if name == "cmi" else 0
    assert updates == pytest.approx([expected + contrast], rel=1e-4)
    total = sum(getattr(FAMILY[name].terms, term) * report[term].item() for term in report.keys() - {"inversion"})
    assert report["inversion"].item() == updates[0] == pytest.approx(total, rel=1e-4)
    t, s = torch.randn(6, 4), torch.randn(6, 4)
    lowered = mean_absolute_error(t, s) if name == "dfad" else kl_divergence(t, s, 20 if name in KEPT else 1)
    assert torch.equal(make(name, learning={"student_steps": 1}).imitation.discrepancy(t, s), lowered)


def test_terms_without_weight_cost_nothing() -> None:
    method, passes = make("inversion", weights={"batch_norm": 0.0}, image_steps=2), []
    method.teacher.register_forward_hook(lambda *_: passes.append(None))
    method.student.register_forward_hook(lambda *_: pytest.fail("the student was asked"))
    assert method.step().keys() == {"inversion", "one_hot"} and len(passes) == 2 and not hasattr(method, "head")


def test_the_views_of_the_three_kinds_of_canvas() -> None:
    studio = Studio(players.space((3, 32, 32), (0.5,) * 3, (0.25,) * 3))
    assert studio.shift == 4 and Studio(players.space((1, 16, 16))).shift == 2
    assert studio.views("fresh").broad.keywords == {"padding": 4, "flip": True}
    assert replace(studio, flip=False).views("fresh").broad.keywords == {"padding": 4, "flip": False}
    images = torch.rand(4, 3, 32, 32)
    assert studio.views("lasting").broad(images, None) is images
    rolled = studio.views("pixels").broad(images, torch.Generator().manual_seed(0))
    assert torch.equal(rolled.flatten(1).sort().values, images.flatten(1).sort().values)


# ---- seeds, runs, errors


def test_a_seed_decides_the_weights_of_a_canvas_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    generators = [players.state(STUDIO.canvas("lasting", seed).generator) for seed in (1, 1, 2)]
    assert not list(players.differences(*generators[:2])) and list(players.differences(*generators[1:]))
    make("dfq", learning={"student_steps": 1}, student=student())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_teacher_without_batch_norm_serves_where_none_is_asked_for() -> None:
    teacher = players.cast(batch_norm=False).teacher
    named = {"weights": {"batch_norm": 0.0}, "layers": ("blocks.1", "blocks.2")}
    for name, options in (("dafl", {}), ("zskt", {}), ("dfad", {}), ("cmi", named)):
        method = make(name, teacher, **options)
        assert all(value.isfinite() for report in steps(method, 2) for value in report.values())
    assert method.head.layers[0].in_features == 4 + 8


def test_what_does_not_fit_is_refused() -> None:
    narrow = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 4))
    without, batch_norm = players.cast(batch_norm=False).teacher, "no batch norm.*'dafl', 'zskt' or 'dfad'"
    broken = experienced()
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    images, adversary = (
        r"Images of shape \(2, {}.* do not fit the teacher",
        r"needs a student. Give one, or set Terms\(adversarial=0\)",
    )
    for error, words, options in (
        *((ReuseError, batch_norm, {"name": n, "teacher": without}) for n in ("dfq", "adi", "inversion", "cmi")),
        *((ReuseError, adversary, {"name": n, "student": None}) for n in ("cmi", "adi", "dfq", "zskt", "dfad")),
        *(
            (ShapeMismatch, images.format(f"{c}, {h}"), {"teacher": narrow, "studio": Studio(players.space((c, h, h)))})
            for c, h in ((1, 12), (1, 16))
        ),
        (ShapeMismatch, "3 labels for a batch of 6 images. Give one per image", {"labels": torch.tensor([0, 1, 2])}),
        (ShapeMismatch, "7 labels for a batch of 6", {"labels": torch.zeros(7, dtype=torch.int64)}),
        (ShapeMismatch, "has 4 classes. Give labels from 0 to 3", {"labels": torch.tensor([0, 1, 2, 3, 3, 4])}),
        (ShapeMismatch, "has 4 classes. Give labels from 0 to 3", {"labels": torch.tensor([0, 1, 2, 3, 3, -1])}),
        (ShapeMismatch, "A bank of 10 images does not fill with batches of 6", {"bank": 10}),
        (ReuseError, "A pool of 10 images cannot hold 12. Give it a larger capacity", {"capacity": 10}),
        (ReuseError, "No term has a weight before the student takes part", {"name": "zskt", "early": 1}),
        (NonFinite, "gives NaN or infinity", {"name": "inversion", "teacher": broken}),
    ):
        with pytest.raises(error, match=words):
            run.run(make(**options), updates=2, report_every=1, progress=False)
    assert players.hooks(narrow) == 0 and narrow.training
