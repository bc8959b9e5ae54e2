"""`m3tl train`: compose a config and train, or sweep over many."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from m3tl_cli.cli.options import ConfigDir, ConfigName, Debug, Overrides


class Cfg(StrEnum):
    """What `--cfg` prints."""

    job = "job"
    hydra = "hydra"
    all = "all"


class Info(StrEnum):
    """What `--info` prints."""

    all = "all"
    config = "config"
    defaults = "defaults"
    defaults_tree = "defaults-tree"
    plugins = "plugins"
    searchpath = "searchpath"


class TrainCommand(TyperCommand):
    """A command whose help lists the config groups, and whose `--resume` may stand without a folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a `--resume` without a folder its meaning: the latest."""
        given = list(args)
        for place, word in enumerate(args):
            following = args[place + 1] if place + 1 < len(args) else "-"
            if word == "--":
                break
            if word == "--resume" and (following.startswith("-") or ("=" in following and not os.path.isdir(following))):
                given[place] = "--resume=latest"
        return super().parse_args(ctx, given)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's help, then the groups and their options."""
        super().format_help(ctx, formatter)
        from m3tl_cli.cli.list import groups_panel

        groups_panel(ctx.params.get("config_dir") or "")


def train(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="Sweep: a run for every combination of key=a,b.")] = False,
    resume: Annotated[
        str, typer.Option("--resume", metavar="[RUN]", help="Go on with a stopped run, by default the latest; with -m, a sweep.")
    ] = "",
    cfg: Annotated[Cfg | None, typer.Option("--cfg", "-c", help="Print the composed config and stop.")] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: resolve interpolations.")] = False,
    package: Annotated[str, typer.Option("--package", "-p", metavar="KEY", help="With --cfg: only this part.")] = "",
    info: Annotated[Info | None, typer.Option("--info", help="Print Hydra's information and stop.")] = None,
    config_dir: ConfigDir = "",
    config_name: ConfigName = "train",
    debug: Debug = False,
) -> None:
    """Train, evaluate, and write everything to a new folder under outputs/."""
    from m3tl_cli.cli.launch import launch
    from m3tl_cli.cli.request import Request

    request = Request(
        overrides=tuple(overrides or ()),
        multirun=multirun,
        cfg=cfg.value if cfg else "",
        resolve=resolve,
        package=package,
        info=info.value if info else "",
        config_dir=config_dir,
        config_name=config_name,
        debug=debug,
    )
    if resume:
        from m3tl_cli.cli import panels
        from m3tl_cli.cli.resume import resumed
        from m3tl_cli.core.errors import ConfigError

        try:
            request = resumed(request, resume)
        except ConfigError as error:
            panels.error(error)
            raise typer.Exit(error.exit_code) from None
    raise typer.Exit(launch(request))
