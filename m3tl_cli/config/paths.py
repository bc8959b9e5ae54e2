"""Find configs: those of the program, and those of a user's own `--config-dir`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m3tl_cli.core.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """Folder of the program's configs: inside the package when it was installed from a wheel, else beside it."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"`conf` must lie in {PACKAGE} or beside it; found neither", hint="install m3tl-cli again")


def own_dir(config_dir: str | Path) -> Path:
    """Check a user's own config folder.

    Raises:
        ConfigError: If it is not a folder.
    """
    folder = Path(config_dir).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"`--config-dir` must be a folder; found none at {folder}", place="--config-dir")
    return folder


def add_own_code(*folders: str | Path) -> None:
    """Let `_target_` name a Python file that lies in one of `folders`; installed packages come first."""
    for folder in folders:
        text = str(Path(folder).resolve())
        if text not in sys.path:
            sys.path.append(text)


@dataclass(frozen=True)
class Option:
    """One option of a group.

    Args:
        group: For example `encoder/image`.
        name: File stem.
        file: Where it is written.
    """

    group: str
    name: str
    file: Path

    @property
    def about(self) -> str:
        """The first comment of the file, after an optional `# @package` line."""
        with self.file.open(encoding="utf-8") as lines:
            for line in lines:
                text = line.strip()
                if text and not text.startswith("#"):
                    break
                words = text.lstrip("# ").rstrip()
                if words and not words.startswith("@package"):
                    return words
        return ""


def options(config_dir: str | Path | None = None) -> dict[str, list[Option]]:
    """Every option by group, the program's before the user's own; a program's file wins over one of the same name, as in Hydra.

    Groups stand in the order of the root's defaults list, a nested group after its parent, then any others by name.
    """
    found: dict[str, dict[str, Option]] = {}
    for root in [conf_dir(), *([own_dir(config_dir)] if config_dir else [])]:
        for option in _walk(root):
            found.setdefault(option.group, {}).setdefault(option.name, option)
    order = {group: place for place, group in enumerate(_flow_order())}
    ranked = sorted(found, key=lambda g: (order.get(g.split("/")[0], len(order)), g))
    return {group: sorted(found[group].values(), key=lambda o: o.name) for group in ranked}


def _walk(root: Path) -> Iterator[Option]:
    for file in sorted(root.rglob("*.yaml")):
        group = file.parent.relative_to(root).as_posix()
        if group != "." and not group.startswith("hydra") and not any(part.startswith(".") for part in file.parts[len(root.parts) :]):
            yield Option(group, file.stem, file)


def _flow_order() -> list[str]:
    """Groups as the root's defaults list names them. Read line by line: parsing YAML would triple the cost of `m3tl --help`."""
    lines = (conf_dir() / "train.yaml").read_text(encoding="utf-8").splitlines()
    entries = [line.strip().removeprefix("- ") for line in lines if line.startswith("  - ") and ":" in line]
    return [entry.split(":")[0].strip() for entry in entries]
