"""Samples with their labels and predictions, as pictures and words that a report can lay out without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Modality, ModalityInfo, TaskName
from m3tl_cli.core.results import write_text
from m3tl_cli.data.draw import draw_modality
from m3tl_cli.task.base import Picture, TaskKind


@dataclass
class Gallery:
    """A table of pictures and words.

    Args:
        columns: Headings.
        rows: A caption and a cell per column each: `{"picture": key}` or `{"text": words}`.
        pictures: uint8 [H, W, 3] by key.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, Picture] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `samples.json` and `samples.npz`."""
        np.savez_compressed(folder / "samples.npz", allow_pickle=False, **self.pictures)
        write_text(folder / "samples.json", json.dumps({"columns": self.columns, "rows": self.rows}))


def draw_gallery(
    batch: Batch,
    modalities: Mapping[Modality, ModalityInfo],
    kinds: Mapping[TaskName, TaskKind],
    domains: Sequence[str],
    outputs: Mapping[TaskName, Tensor] | None = None,
) -> Gallery:
    """Draw every sample of `batch`: its modalities, then each task's label and, where `outputs` are given, prediction.

    Args:
        batch: On the CPU.
        modalities: Of the data.
        kinds: Tasks to draw.
        domains: Names that `batch.domain` indexes.
        outputs: Raw outputs per task, on the CPU.
    """
    gallery = Gallery(columns=list(modalities))
    for task in kinds:
        gallery.columns += [f"{task}: label", *([f"{task}: prediction"] if outputs else [])]
    for row in range(len(batch)):
        cells: dict[str, dict[str, str]] = {}
        for name, info in modalities.items():
            shown: Picture | str = draw_modality(info, batch, row) if bool(batch.present[name][row]) else "missing"
            _put(gallery, cells, row, name, shown)
        for task, kind in kinds.items():
            label = kind.draw(batch.targets[task][row]) if bool(batch.labelled[task][row]) else "no label"
            _put(gallery, cells, row, f"{task}: label", label)
            if outputs:
                _put(gallery, cells, row, f"{task}: prediction", kind.draw(kind.decode(outputs[task][row : row + 1])[0]))
        gallery.rows.append({"caption": f"{domains[int(batch.domain[row])]}, sample {int(batch.index[row])}", "cells": cells})
    return gallery


def _put(gallery: Gallery, cells: dict[str, dict[str, str]], row: int, column: str, shown: Picture | str) -> None:
    if isinstance(shown, str):
        cells[column] = {"text": shown}
        return
    key = f"{row}/{column}"
    gallery.pictures[key] = shown
    cells[column] = {"picture": key}
