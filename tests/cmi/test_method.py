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
from reuselib.cmi.canvas import Canvas, FreshGenerator, LastingGenerator, Pixels
from reuselib.dfad.losses import kl_divergence, mean_absolute_error
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch

STUDIO = Studio(players.space(), latent=5, width=2, lr=0.02)
COLOUR = Studio(players.space((3, 32, 32), (0.5,) * 3, (0.25,) * 3))
WITHOUT = players.cast(batch_norm=False).teacher
KEPT = [name for name, member in FAMILY.items() if member.canvas != "lasting"]


def experienced() -> nn.Module:
    """A tiny teacher that remembers images, and is sure of some."""
    teacher = players.cast().teacher
    with run.seeded(99), torch.no_grad():
        nn.init.normal_(teacher.head.weight, 0, 3)
        for _ in range(30):
            teacher(torch.rand(40, *players.IMAGE) * 4 - 2)
    return teacher.eval()


def make(name: str = "cmi", teacher: nn.Module | None = None, studio: Studio = STUDIO, **options: Any) -> Inversion:
    """A method on a tiny teacher; nobody learns unless told otherwise, but an adversary is there."""
    options = {"batch": 6, "image_steps": 3, "embedding": 4, "bank": 12, "precision": "fp32", "weights": {}} | options
    options.setdefault("student", players.cast().student)
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


@pytest.mark.parametrize(
    ("name", "adversary", "learns", "options"),
    [
        ("cmi", False, False, {"weights": {"adversarial": 0.0, "temperature": 0.2}, "negatives": 4, "bank": 6}),
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
    ours, theirs = (players.cast().student if learns or adversary else None for _ in range(2))
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
        temperature=method.terms.temperature,
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
    if ours:  # an adversary stays as it is
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=2e-4)
        moved = players.differences(players.state(ours), players.state(players.cast().student))
        assert bool(list(moved)) == learns and ours.training


def test_property_9_the_head_gives_unit_vectors_and_the_papers_networks_have_their_size() -> None:
    with run.precision(torch.device("cpu"), "bf16").autocast():
        embedding = InstanceHead(20, 7)(torch.randn(9, 20))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(9))
    assert nets.parameter_count(InstanceHead(2704)) == 2704 * 2705 + 2705 * 256  # 8.0 million
    for kind, parameters in (("fresh", 2_328_899), ("lasting", 4_581_955)):
        canvas = COLOUR.canvas(kind)
        assert nets.parameter_count(canvas.generator) == parameters
        canvas.begin(2, torch.Generator())
        images = canvas.draw(torch.Generator())
        assert images.shape == (2, 3, 32, 32) and 0 <= images.min() and images.max() <= 1


@pytest.mark.parametrize(("name", "lr"), [("adi", 1.5), ("cmi", 0.3)])
def test_property_11_and_pitfall_8_the_best_iterate_is_saved_not_the_last(name: str, lr: float) -> None:
    method, places, features = make(name, studio=replace(STUDIO, lr=lr), bank=60, image_steps=15, seed=2), [], []
    contrast = method.contrast
    method.contrast = lambda each: (features.append(each.detach().clone()), contrast(each))[1]
    log, images = recorded(method)
    for batch, report in enumerate(steps(method, 4)):
        made, kept = slice(15 * batch, 15 * batch + 15), slice(6 * batch, 6 * batch + 6)
        place = log[made].index(min(log[made]))
        places.append(place)
        assert report["inversion"].item() == log[made][place]
        assert torch.equal(method.pool.images().images[kept], eight_bit(images[made][place]))
        if features:
            assert torch.equal(method.bank.state_dict()["rows"][kept], features[made][place])
        else:  # pixels are put back into range after every update: only the noise before the first is out of it
            within = [bool(x.min() >= -1e-6 and x.max() <= 1 + 1e-6) for x in images[made]]
            assert within == [False] + 14 * [True]
    assert min(places) < 14, "the last iterate was always the best: this test tells nothing"


def test_a_lasting_generator_gives_new_images_in_evaluation_mode_to_pool_and_student() -> None:
    method, seen = make("dfq", image_steps=2, learning={"student_steps": 2, "batch": 4}), []
    method.generator.register_forward_hook(
        lambda net, _, images: seen.append((net.training, len(images), images.detach().float()))
    )
    steps(method, 1)
    # Twice: an update of the generator and two of the student. Then the images to keep.
    assert [each[:2] for each in seen] == 2 * [(True, 6), (False, 4), (False, 4)] + [(False, 6)]
    assert torch.equal(method.pool.images().images, eight_bit(seen[-1][2])) and method.generator.training


def test_before_its_time_the_student_takes_no_part() -> None:
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
    images, random = torch.rand(4, 3, 32, 32), torch.Generator()
    for flip in (True, False):  # an eighth of the height
        assert replace(COLOUR, flip=flip).views("fresh").broad.keywords == {"padding": 4, "flip": flip}
    rolled = COLOUR.views("pixels").broad(images, random)
    assert torch.equal(rolled.flatten(1).sort().values, images.flatten(1).sort().values)
    assert COLOUR.views("lasting").broad(images, random) is images


def test_a_teacher_without_batch_norm_serves_where_none_is_asked_for() -> None:
    named = {"weights": {"batch_norm": 0.0}, "layers": ("blocks.1", "blocks.2")}
    for name, options in (("dafl", {}), ("zskt", {}), ("dfad", {}), ("cmi", named)):
        method = make(name, WITHOUT, **options)
        assert all(value.isfinite() for report in steps(method, 2) for value in report.values())
    assert method.head.layers[0].in_features == 4 + 8


def broken() -> nn.Module:
    teacher = experienced()
    with torch.no_grad():
        teacher.head.bias.fill_(float("nan"))
    return teacher


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        *(
            (ReuseError, "no batch norm.*'dafl', 'zskt' or 'dfad'", {"name": name, "teacher": WITHOUT})
            for name in ("dfq", "adi", "inversion", "cmi")
        ),
        *(
            (ReuseError, r"needs a student. Give one, or set Terms\(adversarial=0\)", {"name": name, "student": None})
            for name in ("cmi", "adi", "dfq", "zskt", "dfad")
        ),
        (ShapeMismatch, "3 labels for a batch of 6 images. Give one per image", {"labels": [0, 1, 2]}),
        (ShapeMismatch, "has 4 classes. Give labels from 0 to 3", {"labels": [0, 1, 2, 3, 3, 4]}),
        (ShapeMismatch, "has 4 classes. Give labels from 0 to 3", {"labels": [0, 1, 2, 3, 3, -1]}),
        (ShapeMismatch, "A bank of 10 images does not fill with batches of 6", {"bank": 10}),
        (ReuseError, "No term has a weight before the student takes part", {"name": "zskt", "early": 1}),
        (NonFinite, "gives NaN or infinity", {"name": "inversion", "teacher": broken()}),
    ],
)
def test_what_does_not_fit_is_refused(error: type[Exception], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        run.run(make(**options), updates=2, report_every=1, progress=False)


# ---- what images are made with


MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
IMAGE = (3, 8, 8)


def canvas(kind: str, lr: float = 0.05) -> Canvas:
    if kind == "pixels":
        return Pixels(players.space(IMAGE, MEAN, STD), lr)
    with run.seeded(0):
        generator = nets.inversion_generator(IMAGE, latent=5, width=4)
    return {"fresh": FreshGenerator, "lasting": LastingGenerator}[kind](generator, lr)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def improve(made: Canvas, draws: torch.Generator) -> Tensor:
    """One update towards bright images."""
    images = made.draw(draws)
    made.optimizer.zero_grad()
    (images - 0.9).square().mean().backward()
    made.optimizer.step()
    made.settle()
    return images


@pytest.mark.parametrize(("kind", "second"), [("pixels", 0.99), ("fresh", 0.999), ("lasting", 0.999)])
def test_images_improve_within_the_range_of_pixels_and_a_seed_decides_them(kind: str, second: float) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        made, draws = canvas(kind), random(seed)
        made.begin(6, draws)
        first = improve(made, draws)
        copy = first.detach().clone()
        for _ in range(25):
            last = improve(made, draws)
        assert torch.equal(first, copy)  # pitfall 8: an update does not alter the images drawn before
        assert first.shape == last.shape == (6, *IMAGE) and made.kept == (kind != "lasting")
        # Up to rounding: pixels are kept in the teacher's normalised space.
        assert -1e-6 <= last.min() and last.max() <= 1 + 1e-6
        assert (last - 0.9).square().mean() < 0.5 * (first - 0.9).square().mean()
        results.append(last)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    (group,) = made.optimizer.param_groups
    assert isinstance(made.optimizer, torch.optim.Adam) and (group["lr"], group["betas"]) == (0.05, (0.5, second))
    optimizer = made.optimizer
    made.begin(6, draws)  # every batch starts anew, but for a lasting generator
    assert (made.optimizer is optimizer) == bool(made.optimizer.state) == (kind == "lasting")
    assert torch.equal(made.draw(draws), made.draw(draws)) == (kind != "lasting")


def test_pixels_start_from_normal_noise_and_are_clamped_to_what_black_and_white_become() -> None:
    made = canvas("pixels")
    made.begin(500, random())
    pixels = made.pixels.detach().clone()
    assert pixels.mean().item() == pytest.approx(0, abs=0.01) and pixels.std().item() == pytest.approx(1, abs=0.01)
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(made.draw(None).detach(), pixels * scale + shift)
    made.settle()
    assert torch.equal(made.pixels, pixels.clamp(-shift / scale, (1 - shift) / scale)) and made.pixels.requires_grad
