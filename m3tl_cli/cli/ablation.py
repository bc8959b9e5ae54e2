"""From the words of an ablation to its runs, and from its runs to the verdict."""

from __future__ import annotations

import math
import os
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3tl_cli.cli import hydra_entry, panels
from m3tl_cli.cli.design import FILE, PLAN, UPDATES, Design, Planned, Record, designed, is_own
from m3tl_cli.cli.resume import LATEST, OUTPUTS, refuse_running
from m3tl_cli.cli.sink import duration
from m3tl_cli.cli.status import Status
from m3tl_cli.core.errors import ConfigError, M3TLError, Stopped

if TYPE_CHECKING:
    from m3tl_cli.cli.matching import Flops
    from m3tl_cli.cli.multirun import Ended

FAILED, USAGE = 1, 2
SUFFIX = "-ablation"


def main(words: Sequence[str], *, resume: str, dry_run: bool, config_dir: str, config_name: str, debug: bool) -> int:
    """Plan, run and compare.

    Args:
        words: As typed after `m3tl ablate`.
        resume: Folder to go on in, or `latest`; empty for a new ablation.
        dry_run: Only say what would be run.
        config_dir: A user's own config folder.
        config_name: Root config.
        debug: Show tracebacks.

    Returns:
        0; 1 if a run failed or is missing; 2 for words that cannot be; 3 for data; 128 + n after signal n.
    """
    if debug:
        os.environ["M3TL_DEBUG"] = "1"
    try:
        if resume:
            folder = _latest() if resume == LATEST else Path(resume)
            record = Record.read(folder).entered_again(words)
            if dry_run:
                return _listed(record.cells, {}, {}, folder)
            return _run(record, folder)
        found = designed(words, config_dir, config_name)
        if found.design is None:
            checked = found.checked
            files = hydra_entry.files(checked.config) if checked.config is not None else []
            panels.problems(checked.problems, words, files)
            return USAGE
        return _new(found.design, words, dry_run)
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        if isinstance(error, M3TLError):
            panels.error(error)
            return error.exit_code
        panels.crash(error, "", "m3tl ablate ... --debug shows it here")
        return FAILED


def _new(design: Design, words: Sequence[str], dry_run: bool) -> int:
    from m3tl_cli.cli import matching

    plan = design.plan()
    matched = "equal_flops" in design.options.budgets
    configs = matching.arm_configs(design) if matched or dry_run else {}
    past = matching.past_runs(OUTPUTS) if matched or dry_run else []
    flops = matching.known_flops(configs, past) if matched else {}
    folder = OUTPUTS / design.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}{SUFFIX}"
    updates: dict[str, int] = {}
    if dry_run:
        if len(flops) == len(design.arms):
            updates = matching.matched_updates(design, configs, flops)
        lengths = {label: int(config["trainer"]["updates"]) for label, config in configs.items()}
        code = _listed(design.cells(matching.changed_updates(configs, updates)), matching.estimates(configs, past), lengths, folder.parent)
        if matched and not updates:
            count = len(design.arms) - len(flops)
            print(f"lengths under equal_flops follow from {count} pilot run{'' if count == 1 else 's'} of {design.options.pilot} updates")
        return code
    if matched:
        flops |= _piloted(design, configs, flops, folder)
        updates = matching.matched_updates(design, configs, flops)
    record = Record(
        command=("m3tl", "ablate", *design.flags, *words),
        words=design.words,
        hydra=design.hydra,
        config_dir=design.config_dir,
        config_name=design.config_name,
        name=design.name,
        budgets=design.options.budgets,
        axes=tuple(design.levels),
        plan=plan.digest,
        cells=design.cells(matching.changed_updates(configs, updates)),
        flops={label: {**asdict(f), "updates": updates[label]} for label, f in flops.items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    plan.write(folder / PLAN)
    record.write(folder)
    return _run(record, folder)


def _piloted(design: Design, configs: Mapping[str, Mapping[str, Any]], known: Mapping[str, Flops], folder: Path) -> dict[str, Flops]:
    """What the arms cost that no finished run tells of, from short runs."""
    from m3tl_cli.cli import matching
    from m3tl_cli.cli.multirun import launch_jobs
    from m3tl_cli.comparison.cells import read_cell

    needed = matching.pilots(design, configs, known)
    if not needed:
        return {}
    _say(f"{len(needed)} pilot run{'' if len(needed) == 1 else 's'} of {design.options.pilot} updates to count operations")
    place = folder / matching.PILOT
    ended = launch_jobs(
        {name: overrides for name, (_, overrides) in needed.items()},
        folder=place,
        hydra=design.hydra,
        common=design.common,
        config_dir=design.config_dir,
        config_name=design.config_name,
    )
    found = {}
    for name, (arm, _) in needed.items():
        status = Status.read(place / name)
        if status is None or status.state != "FINISHED":
            why = status.error if status is not None else str(ended.error or "it did not start")
            raise ConfigError(f"the pilot run of `{arm.label}` must finish; found {why}", hint="use match=equal_updates", place="match")
        config = configs[arm.label]
        cell = read_cell(place / name)
        flops = matching.counted(cell.results, cell.config, place / name, matching.pretraining(config))
        if flops is None:
            raise ConfigError(
                f"the pilot run of `{arm.label}` must train and count its operations; found none",
                hint="match=equal_updates, or settings without this one",
                place="match",
            )
        found[arm.label] = flops
    return found


def _run(record: Record, folder: Path) -> int:
    """Run what is not finished, then compare what is."""
    from m3tl_cli.cli.multirun import Ended, launch_jobs
    from m3tl_cli.cli.watch import Watch

    before = {cell.name: Status.read(folder / cell.name) for cell in record.cells}
    refuse_running(folder, before)
    todo = [cell for cell in record.cells if (s := before[cell.name]) is None or s.state != "FINISHED"]
    _say(f"{folder}: {len(record.cells)} runs" + (f", {len(todo)} to go" if len(todo) < len(record.cells) else ""))
    ended = Ended(0)
    if todo:
        with Watch(folder, record.cells, live=sys.stderr.isatty()):
            ended = launch_jobs(
                {cell.name: cell.overrides for cell in todo},
                folder=folder,
                hydra=record.hydra,
                common=[w for w in record.words if not is_own(w)],
                config_dir=record.config_dir,
                config_name=record.config_name,
            )
    return finish(record, folder, ended)


def finish(record: Record, folder: Path, ended: Ended) -> int:
    """Say what came of the runs: what failed and why, the comparison of the others, and the exit code.

    Args:
        record: Of the ablation.
        folder: Its folder.
        ended: How its runs ended.
    """
    after = {cell.name: Status.read(folder / cell.name) for cell in record.cells}
    states = Counter(status.state if status is not None else "" for status in after.values())
    again = shlex.join(["m3tl", "ablate", "--resume", str(folder)])
    if ended.code > 128:
        panels.stopped(str(folder), again)
        if alive := [f"{name}, {status.whereabouts}" for name, status in after.items() if status is not None and status.alive]:
            _say("\n".join(("not ended yet; each of these ends when it sees that the others were stopped:", *alive)))
        return ended.code
    from rich.console import Console
    from rich.text import Text

    from m3tl_cli.cli import comparing, standings

    console = Console(highlight=False)
    if states["FINISHED"]:
        made = comparing.compared(comparing.of_ablation(folder))
        written = comparing.write(made, folder)
        for part in standings.terminal(made, unread=False):
            console.print(part)
        seconds = math.fsum(status.seconds for status in after.values() if status is not None)
        saved = comparing.saved_seconds(made)
        shared = f"; {duration(saved)} saved by sharing pretrained encoders and source networks" if saved >= 1 else ""
        console.print(Text(f"\n{states['FINISHED']} of {len(record.cells)} runs in {duration(seconds)}{shared}", "dim"))
        for path in written:
            console.print(Text(str(path), "dim"), soft_wrap=True)
        _publish(record, folder, written)
    unfinished = {name: status for name, status in after.items() if status is None or status.state != "FINISHED"}
    for name, status in unfinished.items():
        why = "did not start" if status is None else status.ending
        console.print(Text(f"✗ {name}  ", "red").append(why, "not red"), soft_wrap=True)
    if unfinished:
        if ended.error is not None and not (states["FAILED"] or isinstance(ended.error, Stopped)):
            _trouble(ended.error, folder)
        console.print(Text(f"→ {again}", "bold"), soft_wrap=True)
        return FAILED
    return 0


def _publish(record: Record, folder: Path, written: Sequence[Path]) -> None:
    """Give the parent run of a tracked ablation its plan, its comparison and its page."""
    from omegaconf import OmegaConf

    config = folder / record.cells[0].name / "config.yaml"
    stored: Any = OmegaConf.load(config) if config.is_file() else {}
    node = stored.get("tracking")
    if node is None or "uri" not in node:
        return
    from m3tl_cli.tracking.mlflow import MLflow

    tracker = MLflow(**{k: v for k, v in node.items() if k != "_target_"}, outputs=OUTPUTS.resolve())
    tracker.attach(folder.name, record.name, [folder / PLAN, folder / FILE, *written])
    if tracker.trouble:
        _say(f"tracking: {tracker.trouble}")


def _listed(cells: Sequence[Planned], seconds: Mapping[str, float], lengths: Mapping[str, int], place: Path) -> int:
    """Print the runs, and what finished runs of the same arms say about their time.

    Args:
        cells: The runs.
        seconds: Per arm's label, at its configured length.
        lengths: That length.
        place: Folder in which the ablation would make its own.
    """
    total, unknown = 0.0, dict[str, None]()
    for cell in cells:
        label = cell.arm.label
        own = next((w.partition("=")[2] for w in reversed(cell.overrides) if w.startswith(f"{UPDATES}=")), "")
        words = cell.name + (f"  {own} updates" if own else "")
        if label in seconds:
            usual = seconds[label] * (int(own) / lengths[label] if own and cell.budget == "equal_flops" else 1)
            total += usual
            words += f"  about {duration(usual)}"
        else:
            unknown[label] = None
        print(words)
    told = f", about {duration(total)} one after the other" if total and not unknown else ""
    print(f"{len(cells)} runs under {place}{told}")
    if unknown:
        print(f"no finished run tells how long these take: {'; '.join(unknown)}")
    return 0


def _latest() -> Path:
    found = sorted(OUTPUTS.glob(f"*/*{SUFFIX}/{FILE}"), key=lambda p: p.parent.name)
    if not found:
        raise ConfigError("there must be an ablation to resume; found none under outputs/", hint="m3tl ablate", place="--resume")
    return found[-1].parent


def _trouble(error: Exception, folder: Path) -> None:
    if isinstance(error, M3TLError):
        panels.error(error)
    else:
        panels.crash(error, "", f"m3tl ablate --resume {folder} --debug shows it here")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
