"""Folders outside the run folder. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of everything derived: prepared stores, features, weights.

    `M3TL_CACHE` if it is set; else `m3tl` in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`) if that can be written; else
    `outputs/.cache` in the working directory. It exists on return, except where `M3TL_CACHE` names one that cannot be made:
    whoever writes into it then says so.
    """
    asked = os.environ.get("M3TL_CACHE")
    if asked:
        folder = Path(asked).expanduser().absolute()
        _writable(folder)
        return folder
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home) / "m3tl"
    if folder.is_absolute() and _writable(folder):
        return folder
    folder = Path("outputs", ".cache").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
