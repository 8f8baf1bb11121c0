"""The sheet with the movable threshold: every state counts right, in a page without a script."""

from __future__ import annotations

import re

import numpy
import pytest
import torch

from reuselib.errors import BadValue, NonFinite, ShapeMismatch
from reuselib.report.answer_sheet import AnswerSheet, answer_sheet


def sheet(n: int = 50, **options: object) -> tuple[AnswerSheet, torch.Tensor, torch.Tensor]:
    """Return a sheet of random images, with confidences and errors."""
    random = torch.Generator().manual_seed(0)
    confidence, wrong = torch.randn(n, generator=random), torch.rand(n, generator=random) < 0.4
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=random, dtype=torch.uint8)
    texts = [f"image {k}: a disc & taken for a 'square'" for k in range(n)]
    return answer_sheet(images, texts, confidence, wrong, **options), confidence, wrong  # type: ignore[arg-type]


def test_every_state_counts_what_its_threshold_lets_through() -> None:
    found, confidence, wrong = sheet(n=50, count=20)
    assert len(found.states) == 11 and len(found.pictures) == 20 and repr(found).count("\n") == 10
    drawn = [int(text.split(":")[0].split()[1]) for _, _, text in found.pictures]
    assert len(set(drawn)) == 20 and confidence[drawn].tolist() == sorted(confidence[drawn].tolist(), reverse=True)
    assert [bad for _, bad, _ in found.pictures] == wrong[drawn].tolist()
    for share, state in zip(range(11), found.states, strict=True):
        given = confidence.double() >= state.threshold
        assert state.answered == 5 * share == int(given.sum()) and state.wrong == int(wrong[given].sum())
        assert state.shown == int(given[drawn].sum()) and state.shown_wrong == int((given & wrong)[drawn].sum())
    same = answer_sheet(numpy.zeros((4, 1, 8, 8)), ["text"] * 4, [1.0, 0.0, 0.0, 0.0], [False, True, False, True])
    answered = [state.answered for state in same.states]
    assert answered == [0, 0, 1, 1, 4, 4, 4, 4, 4, 4, 4], "equal confidences are answered together"


def test_the_page_needs_no_script_and_no_network_and_tells_right_from_wrong_without_colour() -> None:
    found = sheet(n=120)[0]
    page = found._repr_html_()
    assert not re.search(r"<script|\bon\w+=|https?:", page) and page.count(" checked>") == 1
    assert len(re.findall(r'<img\b[^>]*\balt="[^"]{12,}"[^>]*>', page)) == 84
    for part in ("&amp; taken for a &#x27;square&#x27;", "3px solid", "3px dashed", "<figcaption>✗", "<figcaption>✓"):
        assert part in page
    for number, state in enumerate(found.states):  # each button shows its sentence and makes pale what is refused
        assert f"-{number}:checked~.said .s{number}{{display:block}}" in page
        assert f"-{number}:checked~.sheet figure:nth-child(n+{state.shown + 1}){{border-color:transparent}}" in page


def test_refuses_what_does_not_fit() -> None:
    given = {"images": torch.zeros(3, 1, 8, 8), "texts": ["a"] * 3, "confidence": torch.zeros(3), "wrong": [0, 1, 0]}
    for change, error in (
        ({"texts": ["one"]}, ShapeMismatch),
        ({"images": torch.zeros(3, 8, 8)}, ShapeMismatch),
        ({"confidence": torch.tensor([0.0, torch.nan, 1.0])}, NonFinite),
        ({"wrong": [0, 1, torch.nan]}, BadValue),
    ):
        with pytest.raises(error):
            answer_sheet(**{**given, **change})
