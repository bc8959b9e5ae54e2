"""The same samples as several settings see them: labels and predictions side by side."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from m3tl_cli.core.errors import DataError
from m3tl_cli.report.estimates import NOTHING, linked
from m3tl_cli.report.markup import framed, name
from m3tl_cli.report.pictures import enlarge, png
from m3tl_cli.report.read import Cell, Row, RunFolder, Samples

if TYPE_CHECKING:
    from m3tl_cli.comparison.tables import Comparison
    from m3tl_cli.report.traces import Traces

SETTINGS, SAMPLES = 5, 3
"""At most so many: more is not looked at, and makes the page heavy."""

SIDE = 96  # pixels of a picture on the page, at most: sharp at the width at which it stands
LABEL, PREDICTION = ": label", ": prediction"


@dataclass(frozen=True)
class Seen:
    """The drawn samples of one run."""

    arm: str
    seed: int
    link: str
    samples: Samples


def predictions(found: Comparison, traces: Traces) -> str:
    """A few samples that the runs of several settings drew with one seed; empty where none did."""
    seen = _seen(found, traces)
    if not seen:
        return ""
    captions = [row.caption for row in seen[0].samples.rows if all(_row(s, row.caption) for s in seen)]
    if not captions:
        return ""
    runs = ", ".join(linked(s.arm, s.link) for s in seen)
    html = [f"<p class='soft'>The same samples under several settings, all with seed {seen[0].seed}: {runs}.</p>"]
    step = max(1, len(captions) // SAMPLES)
    html += [f"<div class='sample'><h3>{escape(c)}</h3>{_sample(c, seen)}</div>" for c in captions[::step][:SAMPLES]]
    return "".join(html)


def _seen(found: Comparison, traces: Traces) -> list[Seen]:
    """Runs of the settings that are asked about first, with the first seed for which most of them drew something."""
    arms = _asked(found)
    best: list[Seen] = []
    for seed in found.seeds:
        there: list[Seen] = []
        for arm in arms:
            position = traces.run(found.budget, arm, seed)
            samples = _drawn(Path(found.runs[position].folder)) if position is not None else None
            if position is not None and samples is not None and len(there) < SETTINGS:
                there.append(Seen(arm, seed, traces.links[position], samples))
        best = max(best, there, key=len)
        if len(best) == min(SETTINGS, len(arms)):
            break
        if len(found.seeds) > 1 and not there and seed != found.seeds[0]:
            break  # where two seeds drew nothing, none did
    best.sort(key=lambda s: found.arms.index(s.arm))
    return best


def _asked(found: Comparison) -> list[str]:
    """The reference, the best on the outcome, what the plan holds against each other, then the rest."""
    gains = {
        r.arm: r.gain.mean for r in found.summary if (r.budget, r.block) == (found.budget, found.plan.key) and math.isfinite(r.gain.mean)
    }
    first = [found.references.get(found.arms[0], found.arms[0])]
    first += sorted(gains, key=lambda arm: -gains[arm])[:1]
    first += [arm for v in found.contrasts if len(v.weights) == 2 for arm in v.weights]
    return [arm for arm in dict.fromkeys((*first, *found.arms)) if arm in found.arms]


def _drawn(folder: Path) -> Samples | None:
    try:
        samples = RunFolder.open(folder).samples
    except DataError:
        return None
    return samples if samples is not None and samples.rows else None


def _row(seen: Seen, caption: str) -> Row | None:
    return next((row for row in seen.samples.rows if row.caption == caption), None)


def _sample(caption: str, seen: Sequence[Seen]) -> str:
    rows = {s.arm: row for s in seen if (row := _row(s, caption)) is not None}
    first = rows[seen[0].arm]
    columns = list(dict.fromkeys(c for s in seen for c in s.samples.columns))
    tasks = list(dict.fromkeys(c.removesuffix(LABEL).removesuffix(PREDICTION) for c in columns if c.endswith((LABEL, PREDICTION))))
    inputs = [(c, first.cells[c]) for c in columns if not c.endswith((LABEL, PREDICTION)) and c in first.cells]
    html = [_figures([(c, cell) for c, cell in inputs if cell.picture is not None], caption)]
    words: list[tuple[str, Mapping[str, Cell]]] = []
    for task in tasks:
        label = next((row.cells[task + LABEL] for row in rows.values() if task + LABEL in row.cells), None)
        cells = {"label": label} if label is not None else {}
        cells |= {arm: row.cells[task + PREDICTION] for arm, row in rows.items() if task + PREDICTION in row.cells}
        if any(cell.picture is not None for cell in cells.values()):
            shown = [(f"{task}: {who}", cell) for who, cell in cells.items() if cell.picture is not None]
            html.append(_figures(shown, caption))
        elif cells:
            words.append((task, cells))
    if words:
        who = ("label", *rows)
        head = "".join(f"<th scope='col'>{name(w)}</th>" for w in ("task", *who))
        body = []
        for task, said in words:
            line = "".join(f"<td>{escape(said[w].text)}</td>" if w in said else NOTHING for w in who)
            body.append(f"<tr><th scope='row'>{name(task)}</th>{line}</tr>")
        html.append(framed(f"What is said in words of {caption}", f"<tr>{head}</tr>", "".join(body), "full"))
    return "".join(html)


def _figures(shown: Sequence[tuple[str, Cell]], caption: str) -> str:
    figures = []
    for label, cell in shown:
        if cell.picture is None:
            continue
        small = enlarge(cell.picture, SIDE) if max(cell.picture.shape[:2]) > SIDE else cell.picture
        high, wide = small.shape[:2]
        source = base64.b64encode(png(small)).decode()
        image = f"<img src='data:image/png;base64,{source}' width='{wide}' height='{high}' alt='{escape(f'{label} of {caption}')}'>"
        figures.append(f"<figure><figcaption><span>{name(label)}</span></figcaption>{image}</figure>")
    return f"<div class='cells'>{''.join(figures)}</div>" if figures else ""
