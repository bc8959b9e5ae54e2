from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

from m3tl_cli.report import plots
from m3tl_cli.report.read import Series
from tests.report import _folder

RISING = Series((1, 2, 3), (1.0, 2.0, 4.0))


def test_every_logged_curve_has_its_plot() -> None:
    history = {
        "train/depth/loss": RISING,
        "val/depth/rmse": RISING,
        "val/depth/abs_rel": RISING,
        "balancing/depth/weight": RISING,
        "optimizer/lr": RISING,
        "train/grad_norm/depth": RISING,
        "speed/samples": RISING,
    }
    made = plots.curves(history, ["depth"], _folder.results())
    names = ["depth-loss", "depth-rmse", "depth-abs_rel", "weights", "learning-rate", "gradient-norm"]
    assert [p.name for p in made] == names
    assert [p.group for p in made] == ["depth"] * 3 + [""] * 3
    rmse = made[1]
    assert rmse.alt == "depth: validation rmse \u2193 [m] over steps: depth ends at 4; the trivial predictor is at 7.402."
    assert ">trivial</text>" in rmse.svg
    assert ">trivial</text>" not in made[0].svg


def test_drawing_leaves_pyplot_and_its_global_state_alone() -> None:
    code = (
        "import sys; from m3tl_cli.report import plots; from m3tl_cli.report.read import Series;"
        "assert plots.curves({'train/a/loss': Series((1, 2), (1.0, 2.0))}, ['a'], None);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_results_there_is_no_trivial_level() -> None:
    (plot,) = plots.curves({"val/depth/rmse": RISING}, ["depth"], None)
    assert "trivial" not in plot.svg + plot.alt


def test_a_curve_without_a_finite_number_is_left_out() -> None:
    assert plots.curves({"train/a/loss": Series((1, 2), (math.nan, math.inf))}, ["a"], None) == []


def test_a_curve_that_diverged_is_drawn_without_its_last_points() -> None:
    (plot,) = plots.curves({"train/a/loss": Series((1, 2, 3, 4), (1.0, 1e9, math.inf, math.nan))}, ["a"], None)
    assert "a ends at 1.00e9" in plot.alt


def test_long_curves_are_thinned_to_means() -> None:
    num = 3 * plots.MAX_POINTS
    thin = plots._thin(Series(tuple(range(num)), tuple(float(i) for i in range(num))))
    assert (len(thin.steps), thin.steps[0], thin.values[0]) == (plots.MAX_POINTS, 2, 1.0)
    assert thin.steps[-1] == num - 1
    gap = plots._thin(Series(tuple(range(num)), (math.nan,) * 3 + (2.0,) * (num - 3)))
    assert math.isnan(gap.values[0])
    assert gap.values[1:] == (2.0,) * (plots.MAX_POINTS - 1)


def test_the_same_numbers_give_the_same_bytes() -> None:
    history = {"balancing/a/weight": RISING, "balancing/b/weight": RISING}
    assert plots.curves(history, ["a", "b"], None) == plots.curves(history, ["a", "b"], None)


def test_an_inlined_plot_follows_the_page() -> None:
    (plot,) = plots.curves({"train/a/loss": RISING}, ["a"], None)
    svg = plots.inline(plot)
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox") is not None
    assert root.get("width") is root.get("height") is None
    assert "currentColor" in svg
    assert not re.search(f"{plots.INK}|{plots.PAPER}|{plots.GRID}|<style|<metadata", svg)
    ids = set(re.findall(r'\bid="([^"]*)"', svg))
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', svg))
    assert all(i.startswith("a-loss-") for i in ids)
    assert used
    assert used <= ids


def test_names_from_outside_stay_text() -> None:
    name = '<script>$x_{1$ \u4e2d & id="q'
    (plot,) = plots.curves({f"train/{name}/loss": RISING}, [name], None)
    assert re.fullmatch(r"[\w.-]+", plot.name)
    for svg in (plot.svg[plot.svg.index("<svg") :], plots.inline(plot)):
        root = ElementTree.fromstring(svg)
        assert not [e for e in root.iter() if e.tag.endswith("script")]
