"""`match=equal_flops`: how long each arm trains for the floating-point operations of the reference, told by finished or short pilot runs.

The operations of a run are those of its pretraining, which do not depend on `trainer.updates`, and those of warm-up and training, which
grow in proportion to it, as the share of warm-up is fixed. `StageCost.flops` says what is counted. Adaptation at the target is no part
of the budget: its steps are the protocol's, as many for all arms, although a network a task makes them dearer (at the short budget 7.0
TFLOP for `stl` and 3.9 for `mtl`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.design import UPDATES, Arm, Design, plain_config
from m3tl_cli.cli.status import FILE, Status
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.results import Results, total_flops

PILOT = "pilot"
"""Folder inside the ablation's that holds the pilot runs."""

TRAINING = ("warm_up", "train")
SCANNED = 400  # finished runs that are looked at, the latest first: some 5 ms each

# Of no influence on how long a run takes: which replicate it is, and who is told. A run that may take networks of another may be quicker.
FREE = ("seed", "arm_seed", "data.seed", "name", "tracking", "paradigm.name", "compared_as", "baselines", "reuse")

# Of none on the operations of an update either.
NO_FLOPS = (
    *FREE,
    *("target", "new_tasks", "start", "trainer.num_pictures", "trainer.threads", "transfer.source.updates", UPDATES),
    *("trainer.checkpoint_every", "trainer.log_every", "trainer.validate_every"),
)

# What makes a pilot short: one validation, and the least that the target's protocol can be asked for.
SHORT: Mapping[str, str] = {
    "trainer.num_pictures": "0",
    "target.num_episodes": "1",
    "target.num_validation": "0",
    "target.num_shots": "[1]",
    "target.num_query": "1",
    "target.lrs": "[0.001]",
    "target.steps": "[1]",
    "target.inner": "false",
    "target.baselines": "[]",
}


@dataclass(frozen=True)
class Flops:
    """What an arm costs.

    Args:
        per_update: Floating-point operations, per update of warm-up and training.
        pretraining: The same of the whole pretraining, at its configured length.
        run: Folder that told.
    """

    per_update: float
    pretraining: float
    run: str

    def of(self, updates: int) -> float:
        """A whole run's."""
        return self.pretraining + self.per_update * updates


@dataclass(frozen=True)
class Past:
    """A finished run, for what it can tell about runs to come."""

    folder: Path
    config: Mapping[str, Any]
    results: Results
    seconds: float


def past_runs(outputs: Path) -> list[Past]:
    """The latest finished runs under `outputs/`; pilots are none."""
    from m3tl_cli.comparison.cells import read_cell
    from m3tl_cli.core.errors import M3TLError

    paths = [p for depth in ("*/*", "*/*/*") for p in outputs.glob(f"{depth}/{FILE}") if PILOT not in p.parts]
    found = []
    for path in sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True)[:SCANNED]:
        status = Status.read(path.parent)
        if status is None or status.state != "FINISHED":
            continue
        try:
            cell = read_cell(path.parent)
        except M3TLError:
            continue
        found.append(Past(path.parent, cell.config, cell.results, status.seconds))
    return found


def facts(config: Mapping[str, Any], free: Sequence[str] = FREE) -> dict[str, Any]:
    """A config by dotted key, without the keys and groups that are `free` to differ."""
    from m3tl_cli.comparison.cells import flat

    return {k: v for k, v in flat(config) if not any(k == f or k.startswith(f"{f}.") for f in free)}


def arm_configs(design: Design) -> dict[str, dict[str, Any]]:
    """Config of a run per arm's label, as the first seed has it."""
    loader = hydra_entry.search(design.config_dir)
    return {
        arm.label: plain_config(
            hydra_entry.compose(loader, design.config_name, [*arm.taken(design.common), *arm.overrides, f"seed={design.seeds[0]}"])
        )
        for arm in design.arms
    }


def counted(results: Results, config: Mapping[str, Any], folder: Path, pretrain: int | None = None) -> Flops | None:
    """What a finished run tells; None where it did not train, or its operations were not counted.

    Args:
        results: Of the run. One without stages counts as training.
        config: Of the run.
        folder: Its folder.
        pretrain: Updates of pretraining to come, where they are others than this run's.
    """
    training = [s for s in results.stages if s.stage in TRAINING]
    before = [s for s in results.stages if s.stage == "pretrain"]
    total = total_flops(training) if results.stages else results.cost.flops
    updates = sum(s.updates for s in training) if results.stages else results.cost.updates
    made = total_flops(before)
    if not updates or not total or any(s.uncounted for s in before):
        return None
    own = pretraining(config)
    if pretrain is not None and own:
        made = made * pretrain / own
    return Flops(total / updates, made, str(folder))


def known_flops(configs: Mapping[str, Mapping[str, Any]], past: Sequence[Past]) -> dict[str, Flops]:
    """What the arms cost that a finished run with the same config tells of; its lengths and its target may be others.

    An arm that fits an estimator costs nothing that is counted.
    """
    found = {}
    told = [(facts(run.config, NO_FLOPS), run) for run in past]
    for label, config in configs.items():
        if config.get("estimator"):  # fitted without an update
            found[label] = Flops(0.0, 0.0, "")
            continue
        wanted = facts(config, NO_FLOPS)
        alike = (counted(run.results, run.config, run.folder, pretraining(config)) for known, run in told if known == wanted)
        flops = next((flops for flops in alike if flops is not None), None)
        if flops is not None:
            found[label] = flops
    return found


def pilots(design: Design, configs: Mapping[str, Mapping[str, Any]], known: Mapping[str, Flops]) -> dict[str, tuple[Arm, list[str]]]:
    """Folder name to arm and overrides of every pilot run that is needed."""
    length = design.options.pilot
    found = {}
    for number, arm in enumerate(design.arms):
        if arm.label in known:
            continue
        config = configs[arm.label]
        keys = {"trainer.validate_every": str(length), "trainer.checkpoint_every": str(length), **SHORT}
        if config["paradigm"]["pretrain"] and pretraining(config):
            keys["transfer.source.updates"] = str(length)
        short = [f"{key}={value}" for key, value in keys.items() if _has(config, key)]
        kept = [w for w in arm.taken(design.common) if w.partition("=")[0] not in (UPDATES, "tracking", *keys)]
        own = [*kept, *arm.overrides, f"{UPDATES}={length}", *short, "tracking=off", f"seed={design.seeds[0]}"]
        found[f"{number:02d}-{arm.setting}"] = (arm, own)
    return found


def matched_updates(design: Design, configs: Mapping[str, Mapping[str, Any]], flops: Mapping[str, Flops]) -> dict[str, int]:
    """`trainer.updates` per arm's label, so that every arm does as many operations as the reference at its configured length.

    Raises:
        ConfigError: If that is less than one update of an arm.
    """
    reference = design.reference.label
    total = flops[reference].of(int(configs[reference]["trainer"]["updates"]))
    found = {}
    for arm in design.arms:
        own = flops[arm.label]
        if not own.of(1):  # there is nothing to match: it stays as it is configured
            found[arm.label] = int(configs[arm.label]["trainer"]["updates"])
            continue
        updates = round((total - own.pretraining) / own.per_update) if own.per_update else 0
        if updates < 1:
            raise ConfigError(
                f"`{reference}` must do as many operations as one update of `{arm.label}` and its pretraining; found {total:.3g} FLOPs, "
                f"where an update takes {own.per_update:.3g} and pretraining {own.pretraining:.3g}.",
                hint="raise trainer.updates, lower transfer.source.updates, or use match=equal_updates",
                place="match",
            )
        found[arm.label] = updates
    return found


def changed_updates(configs: Mapping[str, Mapping[str, Any]], updates: Mapping[str, int]) -> dict[str, int]:
    """Those of the lengths that are not the configured ones."""
    return {label: n for label, n in updates.items() if n != int(configs[label]["trainer"]["updates"])}


def estimates(configs: Mapping[str, Mapping[str, Any]], past: Sequence[Past]) -> dict[str, float]:
    """Mean seconds of finished runs of the same config and protocol, per arm's label; arms without any lack."""
    found = {}
    told = [(facts(run.config), run) for run in past]
    for label, config in configs.items():
        wanted = facts(config)
        like = [run.seconds for known, run in told if known == wanted]
        if like:
            found[label] = math.fsum(like) / len(like)
    return found


def pretraining(config: Mapping[str, Any]) -> int:
    """Configured updates of pretraining; 0 where encoders come from elsewhere."""
    value: Any = config
    for part in ("transfer", "source", "updates"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return int(value or 0)


def _has(config: Mapping[str, Any], key: str) -> bool:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True
