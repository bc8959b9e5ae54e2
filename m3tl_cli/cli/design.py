"""The design of an ablation: what its words mean, which runs it consists of, and the file that keeps both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from m3tl_cli.cli import hydra_entry
from m3tl_cli.cli.explain import missing_option
from m3tl_cli.cli.preflight import Checked, check
from m3tl_cli.cli.request import Request
from m3tl_cli.config import paths
from m3tl_cli.config.problem import Problem
from m3tl_cli.config.spelling import nearest
from m3tl_cli.config.validate import validate
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.results import BASELINES, PERFECT, write_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from m3tl_cli.comparison.plan import Plan

FILE = "ablation.json"
PLAN = "plan.json"
NAME = "ablation"
"""Runs go to outputs/<NAME>/ unless `name=` says otherwise."""

OF_EACH_RUN = (f"name={NAME}", "reuse=true")
"""Words that go to every run unless its own say otherwise."""

UPDATES = "trainer.updates"
LEVEL_LENGTH = 24  # characters of an axis value in a folder's name

OWN = {"seed": "seeds=[{}]", "paradigm": "settings=[{}]", "baseline": "baselines=[{}]"}
"""Keys that an ablation sets in each of its runs, and what to type instead."""

HYDRA_OWN = ("hydra.mode", "hydra.sweep", "hydra.run", "hydra.sweeper", "hydra/sweeper")
"""Keys of Hydra that an ablation needs for itself."""

Budget = Literal["equal_updates", "equal_flops"]


@dataclass(frozen=True)
class Ablate:
    """`conf/ablate.yaml`, whose comments say what each key means."""

    settings: list[str] | None
    seeds: Annotated[int, Ge(1)] | list[int]
    axes: dict[str, list[Any]]
    match: Literal["equal_updates", "equal_flops", "both"]
    pilot: Annotated[int, Ge(2)]
    block: Literal["a", "b", "c", "d", "old", "probe"]
    num_shots: Annotated[int, Ge(1)] | None
    margin: Annotated[float, Gt(0)]
    alpha: Annotated[float, Gt(0), Lt(1)]
    reference: str
    gain_reference: str

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Under which the runs are made, the deciding one last."""
        return ("equal_updates", "equal_flops") if self.match == "both" else (self.match,)


@dataclass(frozen=True)
class Arm:
    """A setting, or a baseline beside the settings, at one level of every axis.

    Args:
        setting: Name of its paradigm.
        axes: Config key or group to value, both as typed.
        group: Whose option it is: `paradigm` or `baseline`.
        fixes: Groups that a baseline chooses itself, whatever is chosen for the settings.
    """

    setting: str
    axes: Mapping[str, str]
    group: Literal["paradigm", "baseline"] = "paradigm"
    fixes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """As the comparison names it: `m3tl`, or with axes `m3tl, fusion=gated`."""
        return ", ".join((self.setting, *(f"{key}={self.axes[key]}" for key in sorted(self.axes))))

    @property
    def overrides(self) -> tuple[str, ...]:
        """What makes a run one of this arm."""
        return (f"{self.group}={self.setting}", *(f"{key}={value}" for key, value in self.axes.items()))

    def taken(self, common: Sequence[str]) -> tuple[str, ...]:
        """Those of the words for every run that go to this arm's: none about a group that it chooses itself."""
        return tuple(w for w in common if not _is_of(w.partition("=")[0].lstrip("+~"), self.fixes))


@dataclass(frozen=True)
class Planned:
    """One run of an ablation.

    Args:
        name: Of its folder inside the ablation's.
        arm: What is compared.
        seed: Its replicate.
        budget: Under which it is made.
        overrides: The words that `m3tl train` would need for the same run.
    """

    name: str
    arm: Arm
    seed: int
    budget: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """An ablation before its first run.

    Args:
        words: As typed after `m3tl ablate`, but for those to Hydra.
        hydra: Words to Hydra: the launcher and its options.
        options: From `conf/ablate.yaml` and the words.
        common: Words that go to every run.
        arms: In the order of the tables.
        seeds: The replicates.
        num_shots: Of the outcome; None for block a.
        config_dir, config_name: As in `Request`.
    """

    words: tuple[str, ...]
    hydra: tuple[str, ...]
    options: Ablate
    common: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    num_shots: int | None
    config_dir: str = ""
    config_name: str = "train"

    @property
    def name(self) -> str:
        """Runs go to outputs/<name>/."""
        return next((w.partition("=")[2] for w in reversed(self.common) if w.startswith("name=")), NAME)

    @property
    def settings(self) -> tuple[str, ...]:
        """In the order of the tables, without baselines."""
        return tuple(dict.fromkeys(arm.setting for arm in self.arms if arm.group == "paradigm"))

    @property
    def baselines(self) -> tuple[str, ...]:
        """In the order of the tables."""
        return tuple(dict.fromkeys(arm.setting for arm in self.arms if arm.group == "baseline"))

    @property
    def reference(self) -> Arm:
        """The arm whose operations `equal_flops` gives to all: the reference setting, which takes part there."""
        return next(arm for arm in self.arms if arm.group == "paradigm" and arm.setting == self.options.reference)

    @property
    def flags(self) -> tuple[str, ...]:
        """Options of the command that lead to the same configs."""
        own = ("--config-dir", self.config_dir) if self.config_dir else ()
        return own + (("--config-name", self.config_name) if self.config_name != "train" else ())

    def request(self, *overrides: str) -> Request:
        """For a run with these words."""
        return Request(overrides=overrides, config_dir=self.config_dir, config_name=self.config_name)

    def plan(self) -> Plan:
        """What is to be confirmed, as the comparison tests it."""
        from m3tl_cli.comparison.plan import plan_for

        return plan_for(
            self.settings,
            baselines=self.baselines,
            axes=self.levels,
            seeds=self.seeds,
            block=self.options.block,
            num_shots=self.num_shots,
            margin=self.options.margin,
            alpha=self.options.alpha,
            reference=self.options.reference if self.options.reference in self.settings else self.arms[0].label,
            gain_reference=BASELINES.get(self.options.gain_reference, self.options.gain_reference),
            budget=self.options.budgets[-1],
        )

    @property
    def levels(self) -> dict[str, list[str]]:
        """Axis to its values as typed."""
        return {key: list(dict.fromkeys(arm.axes[key] for arm in self.arms)) for key in self.arms[0].axes}

    def cells(self, updates: Mapping[str, int]) -> tuple[Planned, ...]:
        """Every run, all arms of the first seed first, so that what an interrupted ablation leaves is paired.

        Args:
            updates: Arm's label to `trainer.updates` under `equal_flops`, where it is not the configured length.
        """
        found: dict[str, Planned] = {}
        for seed in self.seeds:
            for budget, arm in product(self.options.budgets, self.arms):
                own = () if budget == "equal_updates" or arm.label not in updates else (f"{UPDATES}={updates[arm.label]}",)
                kept = tuple(w for w in arm.taken(self.common) if not (own and w.partition("=")[0] == UPDATES))
                overrides = (*kept, *arm.overrides, *own, f"seed={seed}")
                planned = Planned(folder_name(arm, seed, overrides), arm, seed, budget, overrides)
                found.setdefault(planned.name, planned)  # an arm of the configured length is the same run under both budgets
        return tuple(found.values())


@dataclass(frozen=True)
class Record:
    """`ablation.json`: the design and its runs, written before the first of them and never changed.

    Args:
        command: Words that start the same ablation again.
        plan: Digest of plan.json.
        cells: All runs, in order.
        flops: Arm's label to its operations per update and what told them; empty without `equal_flops`.
    """

    command: tuple[str, ...]
    words: tuple[str, ...]
    hydra: tuple[str, ...]
    config_dir: str
    config_name: str
    name: str
    budgets: tuple[str, ...]
    axes: tuple[str, ...]
    plan: str
    cells: tuple[Planned, ...]
    flops: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write into the ablation's folder."""
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> Record:
        """Of the ablation in this folder.

        Raises:
            ConfigError: If there is none, or its file is damaged.
        """
        try:
            raw: dict[str, Any] = json.loads((folder / FILE).read_text())
            cells = tuple(
                Planned(**{**c, "arm": Arm(**{**c["arm"], "fixes": tuple(c["arm"].get("fixes", ()))}), "overrides": tuple(c["overrides"])})
                for c in raw.pop("cells")
            )
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            return Record(**fields, cells=cells)
        except FileNotFoundError:
            raise ConfigError(
                f"must be the folder of an ablation; found no {FILE} in {folder}", hint="ls -d outputs/*/*-ablation"
            ) from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise ConfigError(f"`{FILE}` must be as `m3tl ablate` wrote it; found {text}", place=str(folder / FILE)) from error

    def entered_again(self, words: Sequence[str]) -> Record:
        """The same ablation with other words to Hydra, such as another launcher.

        Raises:
            ConfigError: If anything else is to change.
        """
        hydra = tuple(w for w in words if _is_hydra(w))
        others = tuple(w for w in words if not _is_hydra(w))
        if others and set(others) != set(self.words):
            changed = sorted(set(others) ^ set(self.words))
            raise ConfigError(
                f"an ablation that is resumed must stay as it was planned; found other words: {' '.join(changed)}",
                hint="leave the words out: it goes on with its own; or start a new one, without --resume",
                place="--resume",
            )
        return replace(self, hydra=hydra or self.hydra)


@dataclass
class Designed:
    """What came of the words: a design, or what is wrong with them.

    Args:
        design: None where something is wrong.
        config: Of its first run.
        checked: Everything that is wrong, and the composed config to find the places in.
    """

    design: Design | None
    config: Mapping[str, Any]
    checked: Checked


def folder_name(arm: Arm, seed: int, overrides: Sequence[str]) -> str:
    """`m3tl-s3-gated-0123456789`: setting, seed, values on the axes, and a digest of everything."""
    levels = [re.sub(r"[^A-Za-z0-9_.+]+", "_", value).strip("_")[:LEVEL_LENGTH] for value in arm.axes.values()]
    return "-".join((arm.setting, f"s{seed}", *filter(None, levels), hydra_entry.digest(overrides)))


def options(words: Sequence[str]) -> tuple[Mapping[str, Any], list[Problem]]:
    """`conf/ablate.yaml` with the words that belong to it, as plain values.

    Args:
        words: Those among the command line's whose key is one of `Ablate`, or begins with `axes.`.
    """
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(paths.conf_dir() / "ablate.yaml"))
    problems: list[Problem] = []
    for word in words:
        key, _, text = word.partition("=")
        axis = key.removeprefix("axes.")
        try:
            if axis == key:
                value = _value(key, text)
                found[key] = [value] if key == "settings" and isinstance(value, str) else value
            else:
                found["axes"][axis] = _levels(text)
        except ValueError as error:
            problems.append(Problem(key, text, str(error)))
    return found, problems


def designed(words: Sequence[str], config_dir: str = "", config_name: str = "train") -> Designed:
    """Read the words of an ablation and check every value that its runs would visit.

    The first run is composed first, alone: a mistake in what all runs share is told in the time of one composition.

    Args:
        words: As typed after `m3tl ablate`.
        config_dir: A user's own config folder.
        config_name: Root config.

    Raises:
        ConfigError: If `config_dir` is not a folder.
    """
    hydra_entry.ready()
    hydra = tuple(w for w in words if _is_hydra(w))
    others = tuple(w for w in words if not _is_hydra(w))
    asked = [w for w in others if is_own(w)]
    common = tuple(w for w in others if not is_own(w))
    common = (*(own for own in OF_EACH_RUN if not any(w.startswith(f"{own.partition('=')[0]}=") for w in common)), *common)
    found, problems = options(asked)
    problems += [*validate(found, Ablate), *_refused(common, hydra)]
    known = sorted(o.name for o in paths.options(config_dir).get("paradigm", ()))
    settings = list(found["settings"] or known) if not problems else known
    seeds = _seeds(found["seeds"]) if not problems else (1,)
    axes = {str(k): [str(v) for v in values] for k, values in found["axes"].items()} if not problems else {}
    if not problems:
        problems += [*_twice(settings, seeds, axes), *(missing_option(f"paradigm/{s}", known) for s in settings if s not in known)]
        settings = [s for s in settings if s in known] or known
    first = (*common, f"paradigm={settings[0]}" if settings else "", *(f"{k}={v[0]}" for k, v in axes.items() if v), f"seed={seeds[0]}")

    def checks(*overrides: str, multirun: bool) -> Checked:
        request = Request(
            overrides=tuple(filter(None, (*overrides, *hydra))), multirun=multirun, config_dir=config_dir, config_name=config_name
        )
        return check(request)

    checked = checks(*first, multirun=False)
    checked.problems = [*problems, *checked.problems]
    if not checked.problems:
        swept = [f"paradigm={','.join(settings)}", *(f"{k}={','.join(v)}" for k, v in axes.items())]
        checked = checks(*common, *swept, f"seed={','.join(map(str, seeds))}", multirun=True)
    if checked.problems or checked.config is None:
        return Designed(None, {}, checked)
    config = plain_config(checked.config)
    baselines, wrong = _baselines(config.get("baselines", ()), config_dir, [*common, *axes])
    if not wrong:
        for arm in baselines:
            found_here = checks(*arm.taken(common), *arm.overrides, *(f"{k}={','.join(v)}" for k, v in axes.items()), multirun=True)
            without = f"baselines=[{','.join(b.setting for b in baselines if b is not arm)}]"
            wrong += [replace(p, place=f"baseline={arm.setting}: {p.place}", hint=p.hint or without) for p in found_here.problems]
            own = plain_config(found_here.config) if found_here.config is not None and not found_here.problems else {}
            if own.get("with_target") and own["data"].get("target_domains") == []:
                wrong.append(Problem(f"baseline={arm.setting}", "no data.target_domains", "data with a target", without))
    if wrong:
        checked.problems = wrong
        return Designed(None, config, checked)
    given = Ablate(**found)
    num_shots, wrong = outcome_shots(given, config)
    wrong += [*unmeasured(given, config), *_unmatched(given, settings, axes)]
    if wrong:
        checked.problems += wrong
        return Designed(None, config, checked)
    arms = (*_arms(settings, axes), *(replace(b, axes=level) for b in baselines for level in _levels_of(axes)))
    design = Design(others, hydra, given, common, arms, tuple(seeds), num_shots, config_dir, config_name)
    return Designed(design, config, checked)


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """A composed config as plain containers, without Hydra's node."""
    with hydra_entry.hydra_node(cfg):
        return hydra_entry.plain(cfg)[0]


def _arms(settings: Sequence[str], axes: Mapping[str, Sequence[str]]) -> tuple[Arm, ...]:
    from m3tl_cli.comparison.cells import arm_order

    arms = [Arm(s, level) for s in settings for level in _levels_of(axes)]
    return tuple(sorted(arms, key=lambda arm: arm_order(arm.setting, arm.axes)))


def _levels_of(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _baselines(asked: Sequence[str], config_dir: str, varied: Sequence[str]) -> tuple[list[Arm], list[Problem]]:
    """Arms of baselines, without axes, and what is wrong with them: an unknown one, or one that fixes what an axis varies."""
    known = {o.name: o.file for o in paths.options(config_dir).get("baseline", ())}
    axes = [v for v in varied if "=" not in v]
    arms, problems = [], []
    for name in dict.fromkeys(asked):
        if name not in known:
            problems.append(missing_option(f"baseline/{name}", sorted(known)))
            continue
        fixes = tuple(re.findall(r"^\s*-\s*override\s+/([\w/@]+)\s*:", known[name].read_text(), re.MULTILINE))
        arms.append(Arm(name, {}, "baseline", fixes))
        problems += [
            Problem("baselines", name, f"baselines that leave {axis} to the axis", f"baselines=[{','.join(b for b in asked if b != name)}]")
            for axis in axes
            if _is_of(axis, fixes)
        ]
    return arms, problems


def _is_of(key: str, groups: Sequence[str]) -> bool:
    """Whether a key is one of the groups, or of something in it."""
    return key in groups or key.startswith(tuple(f"{group}." for group in groups))


def _is_hydra(word: str) -> bool:
    return word.lstrip("+~").startswith(("hydra.", "hydra/"))


def is_own(word: str) -> bool:
    """Whether a word belongs to `conf/ablate.yaml`, not to the runs."""
    key = word.partition("=")[0]
    return "=" in word and (key in Ablate.__dataclass_fields__ or key.startswith("axes."))


def _refused(common: Sequence[str], hydra: Sequence[str]) -> Iterator[Problem]:
    """Words that an ablation cannot take, and what to type instead."""
    for word in (*common, *hydra):
        key, _, value = word.lstrip("+~").partition("=")
        if key in OWN:
            yield Problem(key, word, "nothing: an ablation sets it in each of its runs", OWN[key].format(value))
        elif key.startswith(HYDRA_OWN):
            yield Problem(key, word, "nothing: an ablation sets it itself", f"leave it out, or use m3tl train -m {word}")
        elif _is_sweep(word):
            yield Problem(key, value, "one value", f"axes.{key}='[{value}]'")


def _is_sweep(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return any(o.is_sweep_override() for o in OverridesParser.create().parse_overrides([word]))
    except HydraException:
        return False  # the check of the first run says what is wrong


def _value(key: str, text: str) -> Any:
    """A value in Hydra's syntax; `a,b` is the list [a,b]."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        [override] = OverridesParser.create().parse_overrides([f"{key}={text}"])
    except HydraException:
        raise ValueError("a value in Hydra's syntax, such as a, 1 or [a,b]") from None
    if not override.is_sweep_override():
        return override.value()
    [listed] = OverridesParser.create().parse_overrides([f"{key}=[{text}]"])
    return listed.value()


def _levels(text: str) -> list[str]:
    """Values of an axis, each as it would be typed by itself."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override
    from hydra.errors import HydraException

    try:
        [override] = OverridesParser.create().parse_overrides([f"level={text}"])
        if override.is_sweep_override():
            return list(override.sweep_string_iterator())
        raw: Any = override._value
        return [Override._get_value_element_as_str(v) for v in (raw if isinstance(raw, list) else [raw])]
    except (HydraException, AttributeError, TypeError):
        raise ValueError("a list of values, such as [concat,gated]") from None


def _seeds(asked: int | list[int]) -> tuple[int, ...]:
    return tuple(range(1, asked + 1)) if isinstance(asked, int) else tuple(asked)


def _twice(settings: Sequence[str], seeds: Sequence[int], axes: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    for place, values in (("settings", settings), ("seeds", seeds), *((f"axes.{k}", v) for k, v in axes.items())):
        if not values or len(set(values)) != len(values):
            yield Problem(place, f"[{','.join(map(str, values))}]", "one value or more, each once")
    for key in axes:
        if key in (*OWN, "name"):
            yield Problem(f"axes.{key}", ",".join(axes[key]), "a key that an ablation does not set itself", OWN.get(key, "").format("..."))


def outcome_shots(given: Ablate, config: Mapping[str, Any]) -> tuple[int | None, list[Problem]]:
    """Number of shots of the outcome, one that the target is measured at, None for block a; and what is wrong with it."""
    if given.block == "a":
        return None, []
    known = config.get("target", {}).get("num_shots") if isinstance(config.get("target"), Mapping) else None
    if not known:
        return None, [Problem("block", given.block, "a, as this config has no target.num_shots", "block=a")]
    if given.num_shots is None:
        return sorted(known)[len(known) // 2], []
    if given.num_shots not in known:
        listed = ", ".join(map(str, known))
        hint = f"num_shots={known[0]}, or target.num_shots='[{given.num_shots}]'"
        return None, [Problem("num_shots", str(given.num_shots), f"one of target.num_shots: {listed}", hint)]
    return given.num_shots, []


def unmeasured(given: Ablate, config: Mapping[str, Any]) -> Iterator[Problem]:
    """A 1 of the gain that no run of this config measures."""
    if given.gain_reference == PERFECT:
        return
    target = config.get("target")
    known = [str(name) for name in target.get("baselines") or ()] if isinstance(target, Mapping) else []
    place, found = "gain_reference", given.gain_reference
    if given.block not in ("b", "c"):
        yield Problem(place, found, f"{PERFECT}, as block {given.block} has no baselines", f"{place}={PERFECT}")
    elif found not in known:
        near = nearest(found, (PERFECT, *known))
        other = f"target.baselines='[{','.join((*known, found))}]'" if found in BASELINES else ""
        hint = other or f"{place}={near[0] if near else PERFECT}"
        yield Problem(place, found, f"{PERFECT}, or one of target.baselines: {', '.join(known) or 'none'}", hint)


def _unmatched(given: Ablate, settings: Sequence[str], axes: Mapping[str, Any]) -> list[Problem]:
    found = []
    if given.match != "equal_updates" and UPDATES in axes:
        found.append(Problem(f"axes.{UPDATES}", str(axes[UPDATES]), f"no axis that match={given.match} sets", "match=equal_updates"))
    if given.match != "equal_updates" and given.reference not in settings:
        listed = ", ".join(settings)
        found.append(Problem("reference", given.reference, f"one of the settings: {listed}", f"reference={settings[0]}"))
    return found
