"""What was asked for on the command line, in one piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """Everything that a verb hands to Hydra.

    Args:
        overrides: `key=value`, `+key=value`, `~key`, `group=option`, as typed.
        multirun: Sweep over values separated by commas.
        cfg: Print the `job`, `hydra` or `all` config and stop. resolve: with interpolations resolved. package: only this part.
        info: Print Hydra's information of this kind and stop.
        config_dir: A user's own config folder. config_name: root config, a file stem.
        debug: Show tracebacks.
        resumed: The run or sweep folder to enter again; empty for a new one.
    """

    overrides: tuple[str, ...] = ()
    multirun: bool = False
    cfg: str = ""
    resolve: bool = False
    package: str = ""
    info: str = ""
    config_dir: str = ""
    config_name: str = "train"
    debug: bool = False
    resumed: str = ""

    def argv(self, *extra: str) -> list[str]:
        """The argument list that Hydra itself would be given."""
        flags = ["--config-name", self.config_name]
        flags += ["--config-dir", self.config_dir] if self.config_dir else []
        flags += ["--multirun"] if self.multirun else []
        flags += ["--cfg", self.cfg] if self.cfg else []
        flags += ["--resolve"] if self.resolve else []
        flags += ["--package", self.package] if self.package else []
        flags += ["--info", self.info] if self.info else []
        # After `--`, an override that looks like an option stays an override.
        return [*flags, "--", *self.overrides, *extra]
