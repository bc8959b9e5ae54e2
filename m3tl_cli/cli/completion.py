"""Shell completion of overrides: groups, their options, keys. Typer's scripts ask, Hydra's own completion answers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer


def complete_override(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """What may follow; nothing where that cannot be said: an error here would land in the user's prompt."""
    del args
    try:
        return suggestions(ctx.params.get("overrides") or [], incomplete, ctx.params.get("config_dir") or "")
    except BaseException:
        return []


def complete_group(incomplete: str) -> list[str]:
    """Names of groups."""
    from m3tl_cli.config import paths

    try:
        return [group for group in paths.options() if group.startswith(incomplete)]
    except Exception:
        return []


def suggestions(words: Sequence[str], incomplete: str, config_dir: str = "", config_name: str = "train") -> list[str]:
    """Completions of the last word.

    Args:
        words: Overrides before it.
        incomplete: What is typed of it.
        config_dir: A user's own config folder.
        config_name: Root config.
    """
    *earlier, last = _joined([*words, incomplete])
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    from m3tl_cli.cli import hydra_entry

    plugin = BashCompletion(hydra_entry.search(config_dir))
    found = plugin._query(config_name=config_name, line=" ".join([*earlier, last]))
    if not last.startswith("hydra"):
        found = [f for f in found if not f.startswith("hydra")]
    if _in_bash() and "=" in last:
        # bash replaces only what stands after its word break.
        return [f.partition("=")[2] for f in found]
    return found


def _in_bash() -> bool:
    return os.environ.get("_M3TL_COMPLETE") == "complete_bash"


def _joined(words: list[str]) -> list[str]:
    """Words as the user sees them. `=` breaks words in bash: `paradigm=m` arrives as `paradigm`, `=`, `m`, and Typer drops a lone `=`."""
    if not _in_bash():
        return words
    if words[-1] == "" and len(words) > 1 and "=" not in words[-2] and os.environ.get("COMP_WORDS", "").endswith("="):
        words = [*words[:-1], "=", ""]
    if "=" not in words:
        return words
    joined: list[str] = []
    for word in words:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined
