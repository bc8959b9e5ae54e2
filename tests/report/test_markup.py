from __future__ import annotations

import math

import pytest

from m3tl_cli.report import markup


@pytest.mark.parametrize(("share", "mood", "width"), [(0.25, "good", 25), (1.7, "good", 100), (0.0, "bad", 0), (-0.5, "bad", 0)])
def test_a_gain_has_its_colour_and_length(share: float, mood: str, width: int) -> None:
    cell = markup.gain(share)
    assert cell.startswith(f"<td class='{mood}'>")
    assert f"width:{width}%" in cell
    assert "width" not in markup.gain(share, bar=False)


def test_a_gain_without_a_number_has_no_colour() -> None:
    assert markup.gain(math.nan).startswith("<td class='soft'>n/a<")


def test_a_gain_begins_where_adaptation_began() -> None:
    assert "<span class='soft'>10\u00a0% \u2192 </span>30\u00a0%" in markup.gain(0.3, 0.1)


def test_words_are_escaped_and_names_may_break() -> None:
    html = markup.table("<c>", ("<h>",), [("<row>_x", "<cell>")])
    for tag in ("<c>", "<h>", "<row>", "<cell>"):
        assert tag not in html
    assert "&lt;row&gt;_<wbr>x" in html
    assert "<td>&lt;cell&gt;</td>" in html


def test_no_plots_leave_nothing() -> None:
    assert markup.images([]) == ""
