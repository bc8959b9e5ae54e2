"""Arguments and options that several verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

from m3tl_cli.cli.completion import complete_override

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Options of groups and values of keys, in Hydra's syntax.", autocompletion=complete_override
    ),
]
ConfigDir = Annotated[str, typer.Option("--config-dir", "-cd", metavar="DIR", help="Your own config folder, beside the program's.")]
ConfigName = Annotated[str, typer.Option("--config-name", "-cn", metavar="NAME", help="Root config.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
