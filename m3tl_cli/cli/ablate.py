"""`m3tl ablate`: any settings, seeds and further axes as one multirun, with the plan of its verdicts written down first."""

from __future__ import annotations

from typing import Annotated

import typer

from m3tl_cli.cli.completion import complete_override
from m3tl_cli.cli.options import ConfigDir, ConfigName, Debug
from m3tl_cli.cli.train import TrainCommand


class AblateCommand(TrainCommand):
    """As `train`: its help lists the groups, and `--resume` may stand without a folder."""


def ablate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="settings=, baselines=, seeds=, axes.KEY=[...], match=, block=, num_shots=, margin=, alpha=, reference=, "
            "gain_reference=, pilot=; others go to every run.",
            autocompletion=complete_override,
        ),
    ] = None,
    resume: Annotated[
        str, typer.Option("--resume", metavar="[ABLATION]", help="Go on with a stopped ablation, by default the latest.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and what they will cost, and stop.")] = False,
    config_dir: ConfigDir = "",
    config_name: ConfigName = "train",
    debug: Debug = False,
) -> None:
    """Train every setting under every seed, and say which won, how surely, and at what cost.

    Paired: the runs of a seed share splits, target episodes and initial seeds. What is to be confirmed is written to plan.json before the
    first run. For example, in two processes: m3tl ablate settings=stl,mtl,m3tl seeds=8 hydra/launcher=joblib hydra.launcher.n_jobs=2
    """
    from m3tl_cli.cli import ablation

    raise typer.Exit(
        ablation.main(tuple(overrides or ()), resume=resume, dry_run=dry_run, config_dir=config_dir, config_name=config_name, debug=debug)
    )
