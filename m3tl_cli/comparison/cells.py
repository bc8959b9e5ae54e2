"""The cells of a comparison: finished runs, read from their folders, and whether they may be compared at all.

Reads results.json, config.yaml, overrides.yaml and status.json; needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from m3tl_cli.comparison.statistics import Array
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.results import Results

SETTINGS: Mapping[str, tuple[bool, bool, bool, bool]] = {
    "stl": (False, False, False, False),
    "mtl": (False, True, False, False),
    "stl_handover": (False, False, False, True),
    "mtl_handover": (False, True, False, True),
    "transfer": (True, False, False, True),
    "mtl_transfer": (True, True, False, True),
    "meta": (False, False, True, True),
    "meta_transfer": (True, False, True, True),
    "mtl_meta": (False, True, True, True),
    "m3tl": (True, True, True, True),
}
"""The ten settings and their switches (pretrain, joint, bilevel, handover), in the order of the tables."""

CORNERS: Mapping[tuple[bool, bool, bool], str] = {s[:3]: name for name, s in SETTINGS.items() if s[3]}
"""The eight corners of the factorial, all with hand-over, by (pretrain, joint, bilevel)."""

# What makes runs the same experiment. A difference here is refused unless it is a declared axis.
_SAME = ("data", "task", "tasks", "new_tasks", "target")

# What may differ: what a comparison varies, and what no score depends on.
_FREE = (
    "seed",
    "name",
    "paradigm",
    "baselines",
    "reuse",
    "compared_as",
    "target.baselines",
    "tracking",
    "trainer.threads",
    "trainer.checkpoint_every",
    "trainer.log_every",
    "trainer.num_pictures",
    "trainer.transference_every",
)

# What a baseline chooses for itself beside the settings; its name says so.
_BASELINES_OWN = ("sharing", "balancing", "optimizer", "estimator", "members", "with_target")

# Share of its size by which the trivial predictor's score may differ between two settings that met the same samples.
_PAIRED = 1e-3


@dataclass(frozen=True)
class Cell:
    """One finished run.

    Args:
        setting: The name of its paradigm.
        seed: Its replicate.
        axes: Declared axes other than setting and seed, and its values on them, such as `{"fusion": "gated"}`.
        results: What it measured.
        folder: Its run folder, which every number made of it is traced to.
        config: Its resolved config; empty where there is none.
    """

    setting: str
    seed: int
    axes: Mapping[str, str]
    results: Results
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """What is compared: the setting and the axes, in one label."""
        return arm_label(self.setting, self.axes)

    @property
    def compared_as(self) -> str:
        """`setting`, or what stands beside the settings and takes no part in ranks and verdicts: `baseline`, `upper_bound`."""
        return str(self.config.get("compared_as", "setting"))

    @property
    def updates(self) -> int | None:
        """The configured length of training, `trainer.updates`; None where there is no config."""
        found = self.config.get("trainer", {}).get("updates")
        return None if found is None else int(found)


@dataclass(frozen=True)
class Missing:
    """A run that cannot be used, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Family:
    """Cells that may be compared: one per arm and seed in each budget.

    Args:
        cells: All of them.
        arms: Labels, in the order of the tables.
        seeds: Rising.
        budgets: Name to arm to seed to cell. `equal_updates`: every arm's cell with the length of training that all arms share;
            `equal_flops`: its cell with a length of its own, where it has one; `as run`: lengths differ and none is shared.
        flags: What a reader must know: keys of the config that differ, pairs that are not paired, cells that lack.
    """

    cells: tuple[Cell, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: Mapping[str, Mapping[str, Mapping[int, Cell]]]
    flags: tuple[str, ...]


def arm_label(setting: str, axes: Mapping[str, str]) -> str:
    """`m3tl`, or with axes `m3tl, fusion=gated`; axes in the order of their names."""
    return ", ".join((setting, *(f"{key}={axes[key]}" for key in sorted(axes))))


def arm_order(setting: str, axes: Mapping[str, str]) -> tuple[int, str, str]:
    """Sorts arms as tables show them: settings as in `SETTINGS`, unknown ones last, then by axes."""
    names = list(SETTINGS)
    return (names.index(setting) if setting in SETTINGS else len(names), setting, arm_label(setting, axes))


def read_cell(folder: Path, axes: Sequence[str] = ()) -> Cell:
    """Read a finished run.

    Args:
        folder: Its run folder.
        axes: Config keys or groups on which runs of the comparison differ on purpose, besides paradigm and seed: `fusion`,
            `balancing`, `data.missing_labels`.

    Raises:
        DataError: If it is not a finished run, or one of its files is damaged.
        ConfigError: If its config has no such axis.
    """
    path = folder.absolute()
    status = _load(path / "status.json", json.loads) or {}
    if not (path / "results.json").exists():
        state, error = str(status.get("state", "")), str(status.get("error", ""))
        found = f"a run that is {state}" + (f": {error}" if error else "") if state else "no results.json"
        raise DataError(
            f"`{folder}` must be the folder of a finished run; found {found}.",
            hint="`m3tl status` lists the runs; `m3tl train --resume RUN` finishes one",
            place=str(path),
        )
    try:
        results = Results.read(path / "results.json")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path / "results.json", error) from error
    config = _load(path / "config.yaml", _yaml) or {}
    overrides = _load(path / "overrides.yaml", _yaml) or []
    # The command line names what the resolved config has replaced by its values: encoder=small.
    typed = dict(str(o).lstrip("+").split("=", 1) for o in overrides if "=" in str(o))
    return Cell(results.paradigm, results.seed, {axis: _on_axis(axis, config, typed, path) for axis in axes}, results, path, config)


def read_cells(folders: Sequence[Path], axes: Sequence[str] = ()) -> tuple[tuple[Cell, ...], tuple[Missing, ...]]:
    """Read every finished run among `folders`; the others come back with the reason."""
    cells: list[Cell] = []
    missing: list[Missing] = []
    for folder in folders:
        try:
            cells.append(read_cell(folder, axes))
        except DataError as error:
            missing.append(Missing(folder.absolute(), error.message))
    return tuple(cells), tuple(missing)


def family_of(cells: Sequence[Cell]) -> Family:
    """Check that cells are comparable and arrange them by budget, arm and seed.

    Runs with different data, splits, tasks or target protocol are refused, unless the key is a declared axis. Any other key that
    differs between runs of a budget is flagged. `data.seed` may follow the seed: it must be the same for all arms of a seed.

    Raises:
        ConfigError: If there is no cell, an arm and seed has two runs of the same length, the axes differ, or the runs are not of the
            same experiment.
    """
    if not cells:
        raise ConfigError("`cells` must hold a finished run or more; found none.", hint="m3tl compare outputs/<name>/*")
    if len({frozenset(c.axes) for c in cells}) > 1:
        found = "; ".join(sorted({", ".join(sorted(c.axes)) or "none" for c in cells}))
        raise ConfigError(f"`axes` must be the same for all runs; found {found}.", hint="read all of them with the same axes")
    ordered = sorted(cells, key=lambda c: (arm_order(c.setting, c.axes), c.seed, c.updates or 0))
    _refuse_other_experiments(ordered)
    arms = tuple(dict.fromkeys(c.arm for c in ordered))
    seeds = tuple(sorted({c.seed for c in ordered}))
    budgets = _by_budget(ordered, arms)
    flags = [*_switch_flags(ordered)]
    for name, table in budgets.items():
        flags += [f"{name}: {flag}" for flag in _differences(table, name)]
        flags += [f"{name}: no run of `{arm}` with seed {seed}" for arm in arms for seed in seeds if seed not in table.get(arm, {})]
        flags += [f"{name}: {flag}" for flag in (*_other_tasks(table), *_unpaired(table))]
    return Family(tuple(ordered), arms, seeds, budgets, tuple(dict.fromkeys(flags)))


def outcomes(
    table: Mapping[str, Mapping[int, Cell]], seeds: Sequence[int], pick: Callable[[Cell], float], arms: Sequence[str] | None = None
) -> dict[str, Array]:
    """A number per arm and seed [S]; NaN where the cell is missing or has none.

    Args:
        table: Arm to seed to cell: one budget of a family.
        seeds: Columns.
        pick: The number, such as the normalised gain of a block.
        arms: Rows; all of `table` by default.
    """
    return {
        arm: np.asarray([pick(table[arm][seed]) if seed in table.get(arm, {}) else math.nan for seed in seeds], dtype=np.float64)
        for arm in (table if arms is None else arms)
    }


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a config; a list is one value, an empty mapping none."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _below(key: str, roots: Sequence[str]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _facts(cell: Cell) -> dict[str, Any]:
    """What of the config is neither varied on purpose nor without influence."""
    own = () if cell.compared_as == "setting" else _BASELINES_OWN
    free = (*_FREE, *own, *(axis.replace("/", ".").partition("@")[0] for axis in cell.axes))
    return {key: value for key, value in flat(cell.config) if not _below(key, free)}


def _refuse_other_experiments(cells: Sequence[Cell]) -> None:
    known = [c for c in cells if c.config]
    seen: dict[int, Any] = {}
    for cell in known:
        facts, first = _facts(cell), _facts(known[0])
        differing = [k for k in sorted({*facts, *first}) if _below(k, _SAME) and k != "data.seed" and facts.get(k) != first.get(k)]
        data_seed = facts.get("data.seed")
        if seen.setdefault(cell.seed, data_seed) != data_seed:
            differing.append("data.seed")
        if differing:
            shown = ", ".join(f"{k} = {first.get(k)} and {facts.get(k)}" for k in differing[:3])
            more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise ConfigError(
                f"`runs` must share data, splits, tasks and target protocol; found {shown}{more}, in {_shown(known[0])} "
                f"and {_shown(cell)}.",
                hint=f"leave one of them out, or compare along it: axes={differing[0]}",
                place=differing[0],
            )


def _shown(cell: Cell) -> str:
    return f"{cell.folder.parent.name}/{cell.folder.name}"


def _by_budget(cells: Sequence[Cell], arms: Sequence[str]) -> dict[str, dict[str, dict[int, Cell]]]:
    runs: dict[tuple[str, int], dict[int | None, Cell]] = {}
    for cell in cells:
        lengths = runs.setdefault((cell.arm, cell.seed), {})
        if cell.updates in lengths:
            raise ConfigError(
                f"`runs` must hold one run of `{cell.arm}` with seed {cell.seed} at a length of training; found "
                f"{_shown(lengths[cell.updates])} and {_shown(cell)}.",
                hint="leave one of them out",
            )
        lengths[cell.updates] = cell
    lengths_of = {arm: {u for (a, _), found in runs.items() if a == arm for u in found} for arm in arms}
    common = set.intersection(*lengths_of.values())
    most = max((len(found) for found in runs.values()), default=1)
    if len(common) != 1 or most > 2:
        if most > 1:
            found = "; ".join(f"{arm}: {', '.join(map(str, sorted(u or 0 for u in lengths)))}" for arm, lengths in lengths_of.items())
            raise ConfigError(
                f"`trainer.updates` must be one length that all arms share and at most one more for each; found {found}.",
                hint="compare the lengths one at a time",
                place="trainer.updates",
            )
        return {"as run": _table(arms, {key: next(iter(found.values())) for key, found in runs.items()})}
    [shared] = common
    budgets = {"equal_updates": _table(arms, {key: found[shared] for key, found in runs.items() if shared in found})}
    if any(len(lengths) > 1 for lengths in lengths_of.values()):
        own = {key: next((c for u, c in found.items() if u != shared), None) for key, found in runs.items()}
        # An arm without a length of its own costs the same under both budgets, and stands in both.
        chosen = {(arm, s): c or runs[arm, s][shared] for (arm, s), c in own.items() if c is not None or lengths_of[arm] == {shared}}
        budgets["equal_flops"] = _table(arms, chosen)
    return budgets


def _table(arms: Sequence[str], runs: Mapping[tuple[str, int], Cell]) -> dict[str, dict[int, Cell]]:
    return {arm: {seed: cell for (a, seed), cell in sorted(runs.items(), key=lambda kv: kv[0][1]) if a == arm} for arm in arms}


def _differences(table: Mapping[str, Mapping[int, Cell]], budget: str) -> Iterator[str]:
    facts = {cell.folder: _facts(cell) for by_seed in table.values() for cell in by_seed.values() if cell.config}
    arm_of = {cell.folder: arm for arm, by_seed in table.items() for cell in by_seed.values()}
    beside = {cell.folder for by_seed in table.values() for cell in by_seed.values() if cell.compared_as != "setting"}
    for key in sorted({k for known in facts.values() for k in known}):
        if _below(key, _SAME) or (key == "trainer.updates" and budget == "equal_flops"):
            continue
        values: dict[str, list[str]] = {}
        for folder, known in facts.items():
            if folder in beside and key not in known:
                continue
            values.setdefault(str(known.get(key)), []).append(arm_of[folder])
        if len(values) > 1:
            told = "; ".join(f"{value} in {', '.join(dict.fromkeys(arms))}" for value, arms in values.items())
            yield f"`{key}` differs between runs: {told}"


def _switch_flags(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        node = cell.config.get("paradigm", {})
        found = tuple(node.get(s) for s in ("pretrain", "joint", "bilevel", "handover"))
        if cell.setting in SETTINGS and None not in found and found != SETTINGS[cell.setting]:
            yield f"the switches of `{cell.setting}` were overridden in {cell.folder.name}: it is not that corner of the cube"


def _other_tasks(table: Mapping[str, Mapping[int, Cell]]) -> Iterator[str]:
    """A mean over tasks of one arm compares with another's only where they are the same tasks."""
    seen: dict[str, tuple[str, frozenset[str]]] = {}
    for arm, by_seed in table.items():
        for block, tasks in {(b, frozenset(t)): t for c in by_seed.values() for b, t in c.results.blocks.items()}:
            other, known = seen.setdefault(block, (arm, tasks))
            if tasks != known:
                yield f"`{arm}` and `{other}` have different tasks on {block}: {', '.join(sorted(tasks ^ known))}"


def _unpaired(table: Mapping[str, Mapping[int, Cell]]) -> Iterator[str]:
    """The trivial predictor scores the same for two settings that met the same samples, and only then."""
    seen: dict[tuple[int, str, str, str], tuple[str, float]] = {}
    told: set[tuple[str, str, int]] = set()
    for arm, by_seed in table.items():
        for seed, cell in by_seed.items():
            level = arm_label("", cell.axes)
            for block, tasks in cell.results.blocks.items():
                for task, found in tasks.items():
                    trivial = found.scores[found.primary].trivial
                    other, value = seen.setdefault((seed, block, task, level), (arm, trivial))
                    # Of the same axes only: an axis may change the samples themselves.
                    if abs(trivial - value) > _PAIRED * max(abs(value), abs(trivial)) and (block, arm, seed) not in told:
                        told.add((block, arm, seed))
                        yield f"`{arm}` and `{other}` met different samples of {block} with seed {seed}: their differences are not paired"


def _on_axis(axis: str, config: Mapping[str, Any], typed: Mapping[str, str], folder: Path) -> str:
    if axis in typed:
        return typed[axis]
    value: Any = config
    for part in axis.replace("/", ".").partition("@")[0].split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        raise ConfigError(
            f"`axes` must name keys or groups of the config; found {axis}, which {folder.name} lacks.",
            hint="for example axes=fusion, axes=data.missing_labels",
            place=axis,
        )
    if not isinstance(value, Mapping):
        return str(value)
    target = str(value.get("_target_", ""))
    if target:
        return target.split(".")[-2]
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:6]


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the C parser is ten times as quick, where it is built


def _load(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    text = " ".join(str(error).split())[:200]
    return DataError(f"`{path.name}` must be as the run wrote it; found {text or type(error).__name__}.", place=str(path))
