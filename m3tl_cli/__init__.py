"""m3tl: train the same tasks under every way of sharing, and say which one won, by how much, how surely, at what cost.

import m3tl_cli
run = m3tl_cli.train(["paradigm=mtl", "budget=smoke"])
run.results.blocks["a"]["depth"].scores["abs_rel"], run.folder / "report.html"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3tl_cli.cli.library import Run as Run
    from m3tl_cli.cli.library import train as train

__all__ = ["Run", "train"]


def __getattr__(name: str) -> Any:
    # On first use: `import m3tl_cli` and the command line's start stay light.
    if name in __all__:
        from m3tl_cli.cli import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
