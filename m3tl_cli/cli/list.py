"""`m3tl list`: the groups, or the options of one."""

from __future__ import annotations

from typing import Annotated

import typer

from m3tl_cli.cli.completion import complete_group
from m3tl_cli.cli.options import ConfigDir


def list_options(
    group: Annotated[str, typer.Argument(metavar="[GROUP]", help="For example: encoder/image", autocompletion=complete_group)] = "",
    config_dir: ConfigDir = "",
) -> None:
    """List the config groups, or what can be chosen in one of them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from m3tl_cli.cli import panels
    from m3tl_cli.config import paths
    from m3tl_cli.config.spelling import did_you_mean, nearest
    from m3tl_cli.core.errors import ConfigError

    try:
        found = paths.options(config_dir)
        chosen = {g: o for g, o in found.items() if g == group or g.startswith(f"{group}/")} if group else {}
        if group and not chosen:
            raise ConfigError(
                f"`group` must be one of {', '.join(found)}; found `{group}`", hint=did_you_mean(nearest(group, found)), place="m3tl list"
            )
    except ConfigError as error:
        panels.error(error)
        raise typer.Exit(error.exit_code) from None
    if not group:
        groups_panel(config_dir)
        typer.echo("m3tl list GROUP says what each option is.")
        return
    for name, options in chosen.items():
        table = Table(title=name, title_justify="left", title_style="bold cyan", box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for option in options:
            table.add_row(option.name, Text(option.about))
        Console(highlight=False).print(table)


def groups_panel(config_dir: str) -> None:
    """Every group with the names of its options, in the order of the data flow; from a listing of folders, without Hydra."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from m3tl_cli.config import paths
    from m3tl_cli.core.errors import ConfigError

    try:
        found = paths.options(config_dir)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    table = Table.grid(padding=(0, 2))
    for group, options in found.items():
        table.add_row(Text(f"{group}=", "bold cyan"), Text(" | ".join(option.name for option in options)))
    Console(highlight=False).print(Panel(table, title="config groups", title_align="left", border_style="dim"))
