"""`m3tl adapt`: add tasks or a domain to a finished run."""

from __future__ import annotations

from typing import Annotated

import typer

from m3tl_cli.cli.options import Debug, Overrides


def adapt(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Adapt what a finished run learnt to new tasks or new data, and score it there; the run itself stays as it is.

    Its own overrides hold, then those given here. `tasks=[...]` names the tasks to add; by default all that the data labels at the target
    alone. Example: m3tl adapt outputs/train/RUN 'tasks=[edges]' target.num_shots='[5]'
    """
    from m3tl_cli.cli import panels
    from m3tl_cli.cli.launch import launch
    from m3tl_cli.cli.resume import started_from
    from m3tl_cli.core.errors import ConfigError

    try:
        request = started_from(run, tuple(overrides or ()), debug=debug)
    except ConfigError as error:
        panels.error(error)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(launch(request))
