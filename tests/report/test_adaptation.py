from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

from m3tl_cli.core.results import Curve, Results
from m3tl_cli.report import adaptation
from m3tl_cli.report.adaptation import adaptation_plots
from tests.report import _cube, _folder


def only(*curves: Curve) -> Results:
    return replace(_cube.results(), curves=curves)


def curve(**changes: object) -> Curve:
    return replace(_cube.results().curves[0], **changes)  # type: ignore[arg-type]


def test_every_task_of_every_block_has_its_plot() -> None:
    whole = _cube.results()
    few = tuple(c for c in whole.curves if c.task in ("depth", "height"))
    plots = adaptation_plots(replace(whole, curves=few))
    assert {kind: [p.name for p in found] for kind, found in plots.items()} == {
        "b": ["adapt-b-depth"],
        "c": ["adapt-c-height"],
        "d": ["adapt-d-height"],
    }
    plot = plots["c"][0]
    for words in (">n=1</text>", ">n=20</text>", ">inner SGD</text>", ">trivial</text>", ">100</text>", "height: mae \u2193 [m]"):
        assert words in plot.svg
    assert plot.group == "height"


def test_a_plot_is_said_in_words() -> None:
    rows = ((0.2, 0.3, 0.5), (0.4, 0.5, 0.7))
    plots = adaptation_plots(only(curve(steps=(0, 1, 5), episodes=rows, chosen_step=5, task="light", metric="accuracy", trivial=0.25)))
    assert plots["b"][0].alt == (
        "light: accuracy \u2191 over adaptation steps, seen tasks in target domains: with 1 shot from 0.3 to 0.6 after 5 steps; "
        "the trivial predictor is at 0.25."
    )


def test_trials_that_were_not_chosen_are_left_out_but_for_the_inner_loop() -> None:
    main = curve()
    assert adaptation_plots(only(curve(chosen=False))) == {}
    alone = adaptation_plots(only(main))["b"][0].svg
    assert adaptation_plots(only(main, curve(chosen=False, optimizer="sgd 0.1")))["b"][0].svg == alone
    beside = adaptation_plots(only(main, curve(chosen=False, optimizer="inner SGD 0.1")))["b"][0].svg
    assert "inner SGD" in beside
    assert "inner SGD" not in alone


def test_an_inner_loop_that_diverged_does_not_flatten_the_rest() -> None:
    main = curve()
    wild = curve(chosen=False, optimizer="inner SGD", episodes=tuple((*row[:-1], 1e9) for row in main.episodes))
    low, high = adaptation._span([main], [wild])
    assert low > -1
    assert high < 2
    assert adaptation_plots(only(main, wild))


def test_one_wild_episode_is_cut_off_and_numbers_that_are_missing_are_gaps() -> None:
    flat = tuple(0.5 for _ in _cube.STEPS)
    rows = (*(flat,) * 30, tuple(math.nan for _ in flat))
    main = curve(episodes=rows, trivial=0.5)
    low, high = adaptation._span([main], [])
    assert low < 0.5 < high
    ElementTree.fromstring(adaptation_plots(only(main))["b"][0].svg.split("?>", 1)[1].split("]>", 1)[-1].split('.dtd">', 1)[-1])


def test_without_curves_or_without_numbers_there_is_no_plot() -> None:
    assert adaptation_plots(_folder.results()) == {}
    nothing = tuple(tuple(math.nan for _ in _cube.STEPS) for _ in range(2))
    assert adaptation_plots(only(curve(episodes=nothing))) == {}


def test_the_same_curves_give_the_same_bytes() -> None:
    assert adaptation_plots(only(curve())) == adaptation_plots(only(curve()))
