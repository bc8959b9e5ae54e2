"""The sections of an ablation's page that say who won and how surely: contrasts, the cube, who lost by sharing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.plan import corner_arms
from m3tl_cli.core.results import BLOCKS, PERFECT, block_parts, block_title, mean
from m3tl_cli.report.estimates import MINUS, NOTHING, difference_cell, fixed, half, linked, seeds, signed, soft, sure, told
from m3tl_cli.report.forest import Bar, forest
from m3tl_cli.report.formats import SPACE, percent
from m3tl_cli.report.many import rising
from m3tl_cli.report.markup import framed, name, sentence
from m3tl_cli.report.spread import Spread, spread

if TYPE_CHECKING:
    from m3tl_cli.comparison.statistics import Estimate
    from m3tl_cli.comparison.tables import Comparison, TaskRow
    from m3tl_cli.comparison.verdict import Verdict
    from m3tl_cli.report.traces import Traces

# Share of the colour in the strongest cell of a heat map: the ink on it stays legible.
STRONGEST = 55

LOSERS = 6  # of many tasks, those of the matrix that is not folded

TIMES, LESS = " \u00d7 ", " \u2212 "


def contrasts(found: Comparison, traces: Traces) -> str:
    """The planned contrasts, then every setting against its reference: a forest plot, and the same as a table."""
    key, level = found.plan.key, 100 * (1 - found.plan.alpha)
    confirmed = any(_is_confirmatory(v, found) for v in found.contrasts)
    if confirmed:
        title = "Confirmatory: planned before the first run"
    elif found.planned:
        title = "Planned before the first run, but exploratory: too few seeds for a verdict"
    else:
        title = "Exploratory: without a plan from before the runs"
    asked = [_asked(v, found, traces) for v in found.contrasts]
    rows = {row.arm: row for row in found.summary if row.budget == found.budget and row.block == key}

    def against(arms: Iterable[str]) -> list[Bar]:
        return [
            Bar(f"{arm} \u2212 {found.references[arm]}", rows[arm].difference, link=traces.to(key, arm))
            for arm in arms
            if arm in rows and found.references.get(arm, arm) != arm
        ]

    plotted = forest(
        [
            (title, asked),
            ("Descriptive: each setting against its reference, without a claim", against(a for a in found.arms if a not in found.beside)),
            ("Beside the settings: baselines and upper bounds", against(a for a in found.arms if a in found.beside)),
        ],
        found.plan.margin,
        f"Paired differences of the mean normalised gain on {block_title(key)}",
    )
    legend = (
        f"<p class='soft'>Paired differences of the mean normalised gain on {escape(block_title(key))}. A seed is a replicate: a point "
        f"is the mean over seeds, a bar its {level:g}{SPACE}% t interval, not adjusted for the family; small points are seeds. "
        f"Shaded: the margin of {found.plan.margin:g}, within which a difference counts as none."
        + (f" Filled: confirmatory, one family-wise error of {found.plan.alpha:g} over all." if confirmed else "")
        + "</p>"
    )
    return f"{legend}{plotted}{_contrast_table(found, traces)}"


def cube(found: Comparison, traces: Traces) -> str:
    """The cube as a heat map over blocks and over tasks, and the factorial laid out with its effects."""
    key = found.plan.key
    means = {(r.arm, r.block): (r.gain, r.difference) for r in found.summary if r.budget == found.budget}
    tasks = {
        (r.arm, r.task): (r.gain, r.gain_difference)
        for r in found.rows
        if (r.budget, r.block, r.primary, r.role) == (found.budget, key, True, "main")
    }
    kinds: dict[str, list[str]] = {}
    for block in found.blocks:
        if any(b == block for _, b in means):
            kinds.setdefault(block_parts(block)[0], []).append(block)
    heads = [
        "".join(
            f"<th scope='colgroup' colspan='{len(keys)}'>{escape(sentence(BLOCKS.get(kind, kind)))}</th>" for kind, keys in kinds.items()
        ),
        "".join(f"<th scope='col'>{_number(block)}</th>" for keys in kinds.values() for block in keys),
    ]
    columns = [block for keys in kinds.values() for block in keys]
    of_tasks = [t for t in found.tasks if any(task == t for _, task in tasks)]
    base = _base(found)
    how = (
        f"Colour: paired difference to {base}, outlined where its interval leaves out 0 (one by one, not adjusted). "
        "Bold: best of its column"
    )
    parts = [
        _heat(
            f"Mean normalised gain over tasks: 0 is the trivial predictor, 1 is {_one(found)}. {how}",
            heads,
            found.arms,
            columns,
            means,
            lambda arm, block: traces.to(block, arm),
            frozenset(found.beside),
        ),
        _factorial(found, traces, means),
    ]
    if traces.is_many(key):
        parts.insert(1, _spread(found, traces, tasks))
    elif len(of_tasks) > 1:
        head = ["".join(f"<th scope='col'>{name(t)}</th>" for t in of_tasks)]
        caption, beside = f"Normalised gain per task on {block_title(key)}. {how}", frozenset(found.beside)
        parts.insert(1, _heat(caption, head, found.arms, of_tasks, tasks, lambda arm, task: traces.to(key, arm, task), beside))
    return "".join(parts)


def negative_transfer(found: Comparison, traces: Traces) -> str:
    """Task by setting: relative change of the primary metric against the reference, a matrix per block."""
    arms = [arm for arm in found.arms if found.references.get(arm, arm) != arm]
    rows: dict[str, list[TaskRow]] = {}
    for row in found.rows:
        if row.budget == found.budget and row.primary and row.arm in arms and math.isfinite(row.relative.mean):
            rows.setdefault(row.block, []).append(row)
    if not rows:
        return ""
    base = _base(found)
    html = [
        f"<p class='soft'>Paired change of each task's primary metric, as a share of {escape(base)}'s mean over seeds, signed so that less "
        "than 0 is worse: negative transfer. Outlined where the interval leaves out 0 (one by one, not adjusted). A change that is large "
        "only by chance is shrunk beside the gain in the tables of each block (James-Stein).</p>"
    ]
    for block in sorted(rows, key=lambda b: (b != found.plan.key, found.blocks.index(b))):
        table = _worst(block, rows[block], arms, found, traces)
        hurt = len({(r.arm, r.task) for r in rows[block] if r.relative.high < 0})
        told_of = f"{sentence(block_title(block))}: {hurt} of {len(rows[block])} surely worse"
        opened = " open" if block == found.plan.key or len(rows) == 1 else ""
        html.append(f"<details{opened}><summary>{escape(told_of)}</summary>{table}</details>")
    return "".join(html)


def _asked(verdict: Verdict, found: Comparison, traces: Traces) -> Bar:
    adjusted = f"adjusted p{SPACE}{verdict.p_adjusted:.3g}" if verdict.answer not in ("exploratory", "missing") else ""
    count = seeds(verdict.difference.seeds) if verdict.difference.seeds else ""
    label = verdict.name.replace(" - ", LESS) + (f" ({verdict.chosen})" if verdict.chosen else "")
    arm = next((a for a in verdict.weights if traces.to(found.plan.key, a)), "")
    link = f"#contrast.{found.contrasts.index(verdict)}" if arm else ""
    return Bar(
        label,
        verdict.difference,
        verdict.values,
        verdict.seeds,
        verdict.sentence if verdict.answer == "missing" else ", ".join(filter(None, (adjusted, count))),
        verdict.answer,
        "confirmatory" if _is_confirmatory(verdict, found) else "descriptive",
        link,
    )


def _is_confirmatory(verdict: Verdict, found: Comparison) -> bool:
    return found.planned and verdict.answer not in ("exploratory", "missing")


def _contrast_table(found: Comparison, traces: Traces) -> str:
    """Every number of every contrast, with the weights that it is made of, and what each seed says."""
    if not found.contrasts:
        return ""
    columns = [s for s in found.seeds if any(s in v.seeds for v in found.contrasts)]
    body = []
    for i, verdict in enumerate(found.contrasts):
        by_seed = dict(zip(verdict.seeds, verdict.values, strict=True))
        weights = ", ".join(
            linked(f"{w:+.4g} {arm}".replace("-", MINUS, 1), traces.to(found.plan.key, arm)) for arm, w in verdict.weights.items()
        )
        numbers = (verdict.difference.mean, verdict.difference.low, verdict.difference.high)
        cells = [f"<td>{escape(signed(v))}</td>" if math.isfinite(v) else NOTHING for v in numbers]
        # Without a verdict a p value would be read as one.
        tests = (verdict.p, verdict.p_adjusted, verdict.p_equivalence) if _is_confirmatory(verdict, found) else (math.nan,) * 3
        cells += [f"<td>{v:.3g}</td>" if math.isfinite(v) else NOTHING for v in (verdict.t, *tests)]
        cells.append(f"<td>{escape(verdict.answer)}</td>")
        cells += [f"<td>{escape(signed(by_seed[s]))}</td>" if s in by_seed else NOTHING for s in columns]
        cells.append(f"<td class='list'>{weights}</td>")
        body.append(f"<tr id='contrast.{i}'><th scope='row'>{name(verdict.name)}</th>{''.join(cells)}</tr>")
    words = (
        "contrast",
        "mean",
        "low",
        "high",
        "t",
        "p alone",
        "p adjusted",
        "p equivalent",
        "answer",
        *(f"seed {s}" for s in columns),
        "made of",
    )
    head = "".join(f"<th scope='col'>{w}</th>" for w in words)
    caption = (
        "The contrasts in numbers: p alone by flipping the signs of whole seeds, p adjusted by step-down max-T over the family, "
        f"p equivalent by two one-sided tests within {found.plan.margin:g} (Holm, over "
        "every rival of a choice, too)"
    )
    table = framed(caption, f"<tr>{head}</tr>", "".join(body), "full contrasts")
    return f"<details open><summary>The contrasts in numbers</summary>{table}</details>"


def _heat(
    caption: str,
    heads: Sequence[str],
    arms: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], tuple[Estimate, Estimate]],
    link: Callable[[str, str], str],
    beside: frozenset[str],
    rows: str = "setting",
) -> str:
    shown = [arm for arm in arms if any((arm, c) in cells for c in columns)]
    if not shown:
        return ""
    largest = max((abs(d.mean) for _, d in cells.values() if math.isfinite(d.mean)), default=0.0)
    # Settings are held against one another, be they rows or columns; what stands beside them cannot be the best.
    lines = [[(a, c) for a in shown] for c in columns] if rows == "setting" else [[(a, c) for c in columns] for a in shown]
    lines = [[place for place in line if not beside.intersection(place)] for line in lines]
    best = {
        place
        for line in lines
        if (known := {p: cells[p][0].mean for p in line if p in cells and math.isfinite(cells[p][0].mean)})
        for place, level in known.items()
        if level == max(known.values())
    }
    body = []
    for arm in shown:
        row = []
        for c in columns:
            if (arm, c) not in cells or not math.isfinite(cells[arm, c][0].mean):
                row.append(NOTHING)
                continue
            level, difference = cells[arm, c]
            word = linked(fixed(level.mean), link(arm, c))
            text = f"<b>{word}</b>" if (arm, c) in best else word
            tip = (
                f"{fixed(level.mean)}{half(level)}, {seeds(level.seeds)}; difference {told(difference)}"
                if difference.seeds
                else fixed(level.mean)
            )
            row.append(f"<td{tint(difference.mean, largest, sure(difference))} title='{escape(tip)}'>{text}</td>")
        body.append(f"<tr><th scope='row'>{name(arm)}</th>{''.join(row)}</tr>")
    first = f"<th scope='col'>{rows}</th>"
    above = "".join(f"<tr>{first if i == len(heads) - 1 else '<td></td>'}{head}</tr>" for i, head in enumerate(heads))
    return framed(f"{caption}. Full colour at \u00b1{fixed(largest)}", above, "".join(body), "full heat")


def tint(value: float, largest: float, marked: str) -> str:
    """Class and colour of a cell of a heat map."""
    if not math.isfinite(value) or not largest:
        return ""
    share = round(STRONGEST * min(1.0, abs(value) / largest))
    return f" class='{'up' if value > 0 else 'down'}{' sure' if marked else ''}' style='--v:{share}%'"


def _factorial(found: Comparison, traces: Traces, means: Mapping[tuple[str, str], tuple[Estimate, Estimate]]) -> str:
    """The corners of the 2 x 2 x 2 factorial on the outcome's block, and its effects beside them."""
    key = found.plan.key
    settings = {run.arm: run.setting for run in found.runs}
    corners = corner_arms(list(dict.fromkeys(settings.values())), block_parts(key)[0])
    if len(corners) < 4:
        return ""
    largest = max((abs(d.mean) for (_, block), (_, d) in means.items() if block == key and math.isfinite(d.mean)), default=0.0)
    body = []
    for bilevel in (False, True):
        cells = []
        for pretrain in (False, True):
            for joint in (False, True):
                arms = [
                    arm for arm, setting in settings.items() if setting == corners.get((pretrain, joint, bilevel)) and (arm, key) in means
                ]
                words = []
                for arm in arms:
                    level, _ = means[arm, key]
                    words.append(
                        f"<span class='corner'>{name(arm)}</span>{linked(fixed(level.mean), traces.to(key, arm))}{soft(half(level))}"
                    )
                colour = tint(means[arms[0], key][1].mean, largest, sure(means[arms[0], key][1])) if len(arms) == 1 else ""
                cells.append(f"<td{colour}>{'<br>'.join(words)}</td>")
        label = "bilevel: episodes with an inner loop" if bilevel else "not bilevel"
        body.append(f"<tr><th scope='row'>{label}</th>{''.join(cells)}</tr>")
    head = (
        "<tr><td></td><th scope='colgroup' colspan='2'>not pretrained</th><th scope='colgroup' colspan='2'>pretrained</th></tr>"
        "<tr><th scope='col'></th>" + "<th scope='col'>separate</th><th scope='col'>joint</th>" * 2 + "</tr>"
    )
    handed = block_parts(key)[0] != "a"
    note = "all eight with hand-over" if handed else "stl and mtl stand for corners that share their source stage"
    table = framed(f"The factorial: mean normalised gain on {block_title(key)}; {note}", head, "".join(body), "full heat factorial")
    beside = [
        arm for arm, setting in settings.items() if setting in SETTINGS and handed and not SETTINGS[setting][3] and (arm, key) in means
    ]
    outside = ""
    if beside:
        said = "; ".join(
            f"{escape(a)} {linked(fixed(means[a, key][0].mean), traces.to(key, a))}{soft(half(means[a, key][0]))}" for a in beside
        )
        outside = f"<p>Without hand-over: {said}.</p>"
    return f"<h3 id='factorial'>The 2 \u00d7 2 \u00d7 2 factorial</h3>{table}{outside}{_effects(found, traces)}"


def _effects(found: Comparison, traces: Traces) -> str:
    rows = [r for r in found.effects if r.budget == found.budget]
    if not rows:
        return ""
    own = [r for r in rows if r.block == found.plan.key]
    names = {1: "Main effects", 2: "Interactions of two switches", 3: "Interaction of all three"}
    groups = [
        (
            title,
            [Bar(r.term.replace(" x ", TIMES), r.effect, link="#factorial", note=seeds(r.effect.seeds)) for r in own if r.order == order],
        )
        for order, title in names.items()
    ]
    html = ""
    if own:
        html = (
            "<p class='soft'>Effects of the switches, in the unit of the gain: a main effect is the mean of the four corners with the "
            "switch on minus that of the four with it off; an interaction is half of how much an effect changes with the other switch. "
            f"Descriptive; what was tested stands above.</p>{forest(groups, found.plan.margin, 'Effects of the switches')}"
        )
    blocks = [b for b in found.blocks if any(r.block == b for r in rows)]
    terms = list(dict.fromkeys(r.term for r in rows))
    known = {(r.block, r.term): r for r in rows}
    body: list[str] = []
    for block in blocks:
        cells: list[str] = []
        for term in terms:
            r = known.get((block, term))
            to = traces.to(block, traces.ref(r.runs[0]).arm) if r is not None and r.runs else ""
            cells.append(difference_cell(r.effect, to) if r is not None else NOTHING)
        body.append(f"<tr><th scope='row'>{escape(block_title(block))}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{escape(t.replace(' x ', TIMES))}</th>" for t in ("block", *terms))
    table = framed(
        "Effects of the switches on every block, with half of their intervals; descriptive", f"<tr>{head}</tr>", "".join(body), "full"
    )
    return f"{html}<details><summary>On every block</summary>{table}</details>"


def _worst(block: str, rows: Sequence[TaskRow], arms: Sequence[str], found: Comparison, traces: Traces) -> str:
    """The matrix of a block; of many tasks those that lost most, and all of them below."""
    if not traces.is_many(block):
        return _matrix(block, rows, arms, found, traces)
    changes: dict[str, list[float]] = {}
    for row in rows:
        if row.arm not in found.beside:
            changes.setdefault(row.task, []).append(row.relative.mean)
    ranked = rising({task: mean(values) for task, values in changes.items()})
    place = {task: i for i, task in enumerate(ranked)}
    rows = sorted(rows, key=lambda r: place[r.task])
    first = [r for r in rows if place[r.task] < LOSERS]
    return (
        f"<p class='soft'>The {LOSERS} tasks of {len(ranked)} that lost most on average over the settings; all of them below.</p>"
        f"{_matrix(block, first, arms, found, traces)}<details><summary>All {len(ranked)} tasks, the worst first</summary>"
        f"{_matrix(block, rows, arms, found, traces)}</details>"
    )


def _matrix(block: str, rows: Sequence[TaskRow], arms: Sequence[str], found: Comparison, traces: Traces) -> str:
    known = {(r.task, r.arm): r for r in rows}
    tasks = list(dict.fromkeys(r.task for r in rows))
    largest = max(abs(r.relative.mean) for r in rows)
    body = []
    for task in tasks:
        cells = []
        for arm in arms:
            row = known.get((task, arm))
            if row is None:
                cells.append(NOTHING)
                continue
            e = row.relative
            low, high = (f"{'+' if v > 0 else ''}{percent(v)}" for v in (e.low, e.high))
            tip = f"{low} to {high}, {seeds(e.seeds)}" if math.isfinite(e.low) else seeds(e.seeds)
            word = f"{'+' if e.mean > 0 else ''}{fixed(100 * e.mean, 1)}"
            cells.append(f"<td{tint(e.mean, largest, sure(e))} title='{escape(tip)}'>{linked(word, traces.to(block, arm, task))}</td>")
        role = next(r.role for r in rows if r.task == task)
        label = task if role == "main" else f"{task} ({role})"
        body.append(f"<tr><th scope='row'>{name(label)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{name(w)}</th>" for w in ("task", *arms))
    caption = f"Change against {_base(found)} in percent, on {block_title(block)}"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "full heat")


def _spread(found: Comparison, traces: Traces, tasks: Mapping[tuple[str, str], tuple[Estimate, Estimate]]) -> str:
    """How the paired differences are spread over many tasks, and all of them in a table, the worst first."""
    key = found.plan.key
    rows = []
    for arm in found.arms:
        own = {task: difference for (a, task), (_, difference) in tasks.items() if a == arm and found.references.get(arm, arm) != arm}
        if own:
            rows.append(
                Spread(
                    arm,
                    {t: e.mean for t, e in own.items()},
                    {t: linked(signed(e.mean), traces.to(key, arm, t)) for t, e in own.items()},
                    {t: mood for t, e in own.items() if (mood := sure(e))},
                )
            )
    ranked = [t for t in rising(traces.ranks[key]) if any(task == t for _, task in tasks)]
    cells = {(task, arm): pair for (arm, task), pair in tasks.items()}
    arms = [arm for arm in found.arms if any(a == arm for a, _ in tasks)]
    head = ["".join(f"<th scope='col'>{name(arm)}</th>" for arm in arms)]
    table = _heat(
        f"Normalised gain per task on {block_title(key)}, in the order of the mean difference to {_base(found)}, the worst first",
        head,
        ranked,
        arms,
        cells,
        lambda task, arm: traces.to(key, arm, task),
        frozenset(found.beside),
        rows="task",
    )
    drawn = spread(rows, f"Paired differences of the normalised gain of {len(ranked)} tasks, by setting", margin=found.plan.margin)
    legend = (
        f"<h3>Task by task</h3><p class='soft'>A dot is one of {len(ranked)} tasks on {escape(block_title(key))}: its paired difference of "
        f"the normalised gain to {escape(_base(found))}, mean over seeds; green or red where its interval leaves out 0 (one by one, not "
        f"adjusted: of {len(ranked)} tasks without any difference about {max(1, round(found.plan.alpha * len(ranked)))} would be so by "
        f"chance). Shaded: the margin of {found.plan.margin:g}.</p>"
        if drawn
        else ""
    )
    return f"{legend}{drawn}<details><summary>All {len(ranked)} tasks, the worst first</summary>{table}</details>"


def _number(block: str) -> str:
    kind, number = block_parts(block)
    if number is None:
        return "end" if kind == "a" else ""
    return f"{'k' if kind == 'a' else 'n'}={number}"


def _base(found: Comparison) -> str:
    bases = set(found.references.values())
    return next(iter(bases)) if len(bases) == 1 else found.plan.reference


def _one(found: Comparison) -> str:
    reference = found.plan.gain_reference
    return "a perfect score" if reference == PERFECT else f"the baseline {reference}"
