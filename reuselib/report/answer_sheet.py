"""A page of images on which the reader moves a threshold: which answers are given, which are right, which refused.

It is HTML and CSS alone, with the images inside: no script and no network, so it works in a built book as in a
notebook, with a mouse or with the arrow keys. Every state is there from the start; choosing one only changes what is
shown. Where style sheets are removed, all states stand below each other as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy
from PIL import Image

from reuselib import checks
from reuselib.errors import BadValue, NonFinite, ShapeMismatch
from reuselib.report.papers import plain
from reuselib.report.theme import PALETTE, array

SHARES = tuple(part / 10 for part in range(11))  # of all images, that are answered in each state; half at first
RIGHT, WRONG = PALETTE[:2]  # Okabe and Ito's blue and vermilion; the frames and marks differ as well


# @ is the sheet's name.
LOOK = f"""
@ {{ background: #fff; color: #222; color-scheme: light; padding: .6em; max-width: 46em }}
@ p {{ margin: .5em 0; font-size: .9em }} @ .said p {{ display: none }}
@ input {{ margin: 0 .15em 0 .5em; accent-color: {RIGHT} }} @ label {{ font-size: .85em; cursor: pointer }}
@ .sheet {{ display: flex; flex-wrap: wrap; gap: 4px }}
@ figure {{ margin: 0; padding: 1px; width: 52px; text-align: center; border: 3px solid {RIGHT} }}
@ figure.wrong {{ border: 3px dashed {WRONG} }} @ b.right {{ color: {RIGHT} }} @ b.wrong {{ color: #B34700 }}
@ img {{ display: block; margin: 0 auto; image-rendering: pixelated }}
@ figcaption {{ margin: 0; font-size: 11px; line-height: 1.1; color: #222 }}
"""
KEY = (
    "<p class='key'><b class='right'>✓ solid frame</b>: answered, right. <b class='wrong'>✗ dashed frame</b>: "
    "answered, wrong. <b>Pale, without a frame</b>: refused; its mark says what the answer would have been. "
    "The most trusted one is first.</p>"
)


@dataclass(frozen=True)
class State:
    """What one threshold does.

    Attributes:
        threshold: answers are given where the confidence reaches it.
        answered: of all images.
        wrong: of those.
        shown: images on the sheet that are answered.
        shown_wrong: of those.
    """

    threshold: float
    answered: int
    wrong: int
    shown: int
    shown_wrong: int


@dataclass(frozen=True)
class AnswerSheet:
    """What a notebook shows as a sheet and a terminal prints as a table.

    Attributes:
        pictures: of the images shown, the one trusted most first: (image file as a data address, is wrong, text).
        states: from the fewest answers to all.
        total: images from which those shown were drawn.
    """

    pictures: tuple[tuple[str, bool, str], ...]
    states: tuple[State, ...]
    total: int

    def __repr__(self) -> str:
        """Give one line for each state."""
        return "\n".join(self.sentence(state) for state in self.states)

    def sentence(self, state: State) -> str:
        """Say what a state does, to all images and to those on the sheet."""
        whole = f"{state.answered} of {self.total} images are answered"
        if not state.answered:
            return f"A threshold above every confidence: {whole}, all are refused."
        rate = f"{state.wrong} of the answers are wrong ({100 * state.wrong / state.answered:.1f} %)"
        here = len(self.pictures)
        shown = f"Of the {here} on this sheet {state.shown} are answered, {state.shown_wrong} of them wrong"
        return f"Threshold {plain(state.threshold, 2)}: {whole}, {rate}. {shown}, {here - state.shown} refused."

    def _repr_html_(self) -> str:
        name = "answers-" + hashlib.sha256((repr(self) + self.pictures[0][0]).encode()).hexdigest()[:8]
        buttons, sentences, rules = "", "", LOOK.replace("@", f"#{name}")
        for number, state in enumerate(self.states):
            which, share = f"{name}-{number}", f"{100 * state.answered / self.total:.0f} %"
            checked = " checked" if number == len(self.states) // 2 else ""
            buttons += f"<input type='radio' name='{name}' id='{which}' aria-label='answer {share}'{checked}>"
            buttons += f"<label for='{which}'>{share}</label>"
            sentences += f"<p class='s{number}'>{html.escape(self.sentence(state))}</p>"
            refused = f"#{which}:checked~.sheet figure:nth-child(n+{state.shown + 1})"  # in falling confidence
            rules += f"{refused}{{border-color:transparent}}{refused} img{{opacity:.25;filter:grayscale(1)}}"
            rules += f"#{which}:checked~.said .s{number}{{display:block}}"
        figures = "".join(
            f"<figure class='{'wrong' if wrong else 'right'}' title=\"{html.escape(text)}\">"
            f"<img class='dark-light' src='{address}' width='44' height='44' alt=\"{html.escape(text)}\">"
            f"<figcaption>{'✗' if wrong else '✓'}</figcaption></figure>"
            for address, wrong, text in self.pictures
        )
        return (
            f"<style>{rules}</style><div id='{name}' role='group' aria-label='How many images to answer'>"
            f"<span>Answer </span>{buttons}<div class='said' aria-live='polite'>{sentences}</div>"
            f"{KEY}<div class='sheet'>{figures}</div></div>"
        )


def answer_sheet(
    images: Any, texts: Sequence[str], confidence: Any, wrong: Any, *, count: int = 84, seed: int = 0
) -> AnswerSheet:
    """Draw images at random, sort them by confidence, and let the reader move the threshold.

    A state answers a share of *all* images, from the one that is trusted most; the threshold is the least confidence
    among them, so equal confidences are answered together.

    Args:
        images: (n, C, H, W) with C of 1 or 3: uint8, or numbers from 0 to 1, clipped.
        texts: of each image, what the answer is and what is true; for readers who do not see it, and on hovering.
        confidence: (n,), no NaN; only its order counts.
        wrong: (n,), whether each answer is wrong.
        count: images on the sheet, drawn without a look at answers; all where there are fewer.
        seed: of the draw.

    Raises:
        ShapeMismatch: there is not one text, confidence and mark for each image, or images are of another form.
        NonFinite: a confidence is NaN.
        BadValue: no image is to be shown, or a mark is neither true nor false.
    """
    values, trust, errors = array(images), array(confidence), array(wrong).astype(bool)
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ShapeMismatch(f"images must be (n, C, H, W) with 1 or 3 channels, not {values.shape}.")
    if not trust.shape == errors.shape == (len(texts),) == (len(values),) or not len(texts):
        found = f"{len(values)} images, {len(texts)} texts, confidences {trust.shape}, marks {errors.shape}"
        raise ShapeMismatch(f"{found}: give one of each for every image.")
    checks.whole(count=count)
    checks.whole(0, checks.SEEDS, seed=seed)
    if not numpy.isin(array(wrong), (0, 1)).all():
        raise BadValue("A mark is neither true nor false. Give whether each answer is wrong.")
    if numpy.isnan(trust).any():
        raise NonFinite("A confidence is NaN. Take log-probabilities from log_softmax, not the log of a softmax.")
    drawn = numpy.random.default_rng(seed).permutation(len(trust))[:count]
    drawn = drawn[numpy.argsort(-trust[drawn], kind="stable")]
    ordered = -numpy.sort(-trust)
    states = []
    for share in SHARES:
        place = round(share * len(trust))
        threshold = float(ordered[place - 1]) if place else float("inf")
        given = trust >= threshold if place else numpy.zeros(len(trust), dtype=bool)
        counts = (int(each.sum()) for each in (given, given & errors, given[drawn], (given & errors)[drawn]))
        states.append(State(threshold, *counts))
    whole = values if "uint8" in str(getattr(images, "dtype", "")) else (255 * values.clip(0, 1)).round()
    pictures = tuple((_address(whole[k]), bool(errors[k]), str(texts[k])) for k in drawn)
    return AnswerSheet(pictures, tuple(states), len(trust))


def _address(picture: numpy.ndarray) -> str:
    """Give one image (C, H, W), from 0 to 255, as a WebP data address: every browser reads it, a third of a PNG."""
    file = BytesIO()
    pixels = numpy.broadcast_to(picture, (3, *picture.shape[1:])).transpose(1, 2, 0).astype(numpy.uint8)
    Image.fromarray(numpy.ascontiguousarray(pixels)).save(file, format="WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
