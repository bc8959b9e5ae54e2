"""`m3tl show`: the resolved config, what differs from the defaults, and what a run would build of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3tl_cli.cli.options import ConfigDir, ConfigName, Overrides

if TYPE_CHECKING:
    from rich.tree import Tree


def show(
    overrides: Overrides = None,
    config: Annotated[bool, typer.Option("--config", help="Only the config: quick, builds nothing.")] = False,
    config_dir: ConfigDir = "",
    config_name: ConfigName = "train",
) -> None:
    """Show the config, the stages, and which modules the tasks share."""
    from rich.console import Console

    from m3tl_cli.cli import panels
    from m3tl_cli.cli.launch import compose_or_exit, job_config
    from m3tl_cli.cli.request import Request
    from m3tl_cli.core.errors import M3TLError

    request = Request(overrides=tuple(overrides or ()), config_dir=config_dir, config_name=config_name)
    cfg = job_config(compose_or_exit(request))
    usual = cfg if not overrides else job_config(compose_or_exit(Request(config_dir=config_dir, config_name=config_name)))
    console = Console(highlight=False)
    console.print(config_tree(_container(cfg), _container(usual)))
    if config:
        return
    from m3tl_cli import experiment

    try:
        built(console, experiment.describe(cfg))
    except M3TLError as error:
        panels.error(error)
        raise typer.Exit(error.exit_code) from None


def config_tree(config: Mapping[str, Any], usual: Mapping[str, Any]) -> Tree:
    """A tree of the config; what differs from the defaults is marked, with the default beside it.

    Args:
        config: Plain and resolved.
        usual: The same of the defaults.
    """
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text("config", "bold"), guide_style="dim")
    _grow(tree, config, usual)
    if config != usual:
        tree.add(Text("● differs from the defaults", "yellow"))
    return tree


def built(console: Any, found: Mapping[str, Any]) -> None:
    """Print stages, and modules with the tasks that read them."""
    from rich.table import Table
    from rich.text import Text

    stages = Table(title="stages", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), show_header=False)
    for stage in found["stages"]:
        what = f"skipped: {stage['skipped']}" if stage["skipped"] else ", ".join(stage["tasks"])
        length = f"{stage['updates']} updates" + (" of episodes" if stage["episodes"] else "") if stage["updates"] else ""
        stages.add_row(Text(stage["name"], "bold cyan"), what, length)
    console.print(stages)
    networks = "1 network" if found["networks"] == 1 else f"{found['networks']} networks"
    modules = Table(
        title=f"\nmodules, {networks}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), header_style="dim"
    )
    modules.add_column("module")
    modules.add_column("parameters", justify="right", no_wrap=True)
    modules.add_column("read by")
    everyone = {task for module in found["modules"] for task in module["tasks"]}
    for module in found["modules"]:
        tasks = module["tasks"]
        names = f"all {len(tasks)} tasks" if 1 < len(tasks) == len(everyone) else ", ".join(tasks)
        label = Text("shared: ", "green").append(names, "default") if len(tasks) > 1 else Text(names)
        modules.add_row(module["module"], f"{module['parameters']:,}", label)
    console.print(modules)
    for note in found["notes"]:
        console.print(Text(f"note: {note}", "dim"))


def _grow(tree: Tree, config: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    from rich.text import Text

    absent = object()
    for key, value in config.items():
        before = usual.get(key, absent)
        if isinstance(value, Mapping):
            below = before if isinstance(before, Mapping) else {}
            changed = "● " if value.get("_target_") != below.get("_target_") else ""
            title = Text(changed, "yellow").append(str(key), "bold cyan")
            target = value.get("_target_")
            title.append(f"  {str(target).rpartition('.')[2]}" if target else "", "default" if not changed else "yellow")
            _grow(tree.add(title), {k: v for k, v in value.items() if k != "_target_"}, below)
            continue
        line = Text(f"{key}: ", "default").append(_word(value), "default" if value == before else "bold yellow")
        if value != before:
            line = Text("● ", "yellow").append(line).append(f"  (default {_word(before)})" if before is not absent else "", "dim")
        tree.add(line)
    gone = [str(key) for key in usual if key not in config and key != "_target_"]
    if gone and config:
        tree.add(Text(f"● without {', '.join(gone)}", "yellow"))


def _word(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def _container(cfg: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(cfg)
    return {str(k): v for k, v in plain.items()} if isinstance(plain, dict) else {}
