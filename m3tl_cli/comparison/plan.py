"""What an ablation sets out to confirm, written down before its first cell runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from m3tl_cli.comparison.cells import CORNERS, SETTINGS, arm_label, arm_order
from m3tl_cli.comparison.statistics import SWITCHES, factorial_weights
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.results import BLOCKS, PERFECT, block_key, write_text

Weights = Mapping[str, float]
"""Arm to its weight in a contrast."""


@dataclass(frozen=True)
class Contrast:
    """One question of the family: a weighted sum of arms' outcomes, tested against 0.

    Args:
        name: For people: `m3tl - stl`.
        weights: Of the arms. They sum to 0, or to 1 where there are rivals.
        rivals: Name to weights; the rival with the best validation score is subtracted. Empty where nothing is to be chosen.
    """

    name: str
    weights: Weights
    rivals: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The confirmatory family and its outcome: the mean normalised gain over the main tasks of one block at one number of shots.

    Args:
        contrasts: The family; one family-wise error covers them all.
        arms: Every arm of the ablation, in the order of the tables.
        seeds: The replicates.
        block: Kind of block of the outcome, as in `core.results.BLOCKS`.
        num_shots: Of the outcome; None for block a.
        margin: Largest difference of the outcome that counts as none, above 0.
        alpha: Family-wise error, above 0 and below 1.
        reference: Setting (or arm) that descriptive differences are taken from.
        gain_reference: The 1 of the normalised gain: `perfect`, or the name of a baseline of the reference's runs.
        budget: Which budget decides where runs of two exist.

    Raises:
        ConfigError: If a value is out of its range, a contrast names an unknown arm or its weights do not add up.
    """

    contrasts: tuple[Contrast, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    block: str
    num_shots: int | None
    margin: float
    alpha: float = 0.05
    reference: str = "stl"
    gain_reference: str = PERFECT
    budget: str = "equal_flops"

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ConfigError(f"`block` must be one of {', '.join(BLOCKS)}; found {self.block}.", place="block")
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise ConfigError(f"`margin` must be above 0; found {self.margin}.", hint="margin=0.02", place="margin")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"`alpha` must be above 0 and below 1; found {self.alpha}.", hint="alpha=0.05", place="alpha")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"`seeds` must differ; found {list(self.seeds)}.", hint="seeds=[1,2,3,4,5,6,7,8]", place="seeds")
        for contrast in self.contrasts:
            for weights, total in ((contrast.weights, float(bool(contrast.rivals))), *((r, 1.0) for r in contrast.rivals.values())):
                if unknown := sorted(set(weights) - set(self.arms)):
                    raise ConfigError(f"`{contrast.name}` must name arms of the plan; found {', '.join(unknown)}.", place="contrasts")
                if not math.isclose(found := math.fsum(weights.values()), total, abs_tol=1e-9):
                    raise ConfigError(f"the weights of `{contrast.name}` must sum to {total:g}; found {found:g}.", place="contrasts")

    @property
    def key(self) -> str:
        """Key of the outcome's block in `Results.blocks`."""
        return self.block if self.num_shots is None else block_key(self.block, self.num_shots)

    @property
    def digest(self) -> str:
        """Ten hex digits of its content: what runs quote to say which plan they were made for."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        """Plain types only; `from_json` gives an equal plan back."""
        return asdict(self)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Plan:
        """Inverse of `to_json`."""
        lists = {k: tuple(raw[k]) for k in ("arms", "seeds")}
        return Plan(**{**raw, **lists, "contrasts": tuple(Contrast(**c) for c in raw["contrasts"])})

    def write(self, path: Path) -> None:
        """Write the plan once; writing the same plan again is nothing.

        Raises:
            ConfigError: If another plan stands there: what was to be confirmed cannot change after runs have been seen.
        """
        if path.exists():
            if (found := Plan.read(path)) != self:
                own, other = self.to_json(), found.to_json()
                differing = ", ".join(k for k in own if json.dumps(own[k]) != json.dumps(other[k]))
                raise ConfigError(
                    f"`{path.name}` must stay as it was before the first run; found other {differing}.",
                    hint="start a new ablation under another name",
                    place=str(path),
                )
            return
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Plan:
        """Read a written plan.

        Raises:
            DataError: If there is none, or it is damaged.
        """
        try:
            return Plan.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"`{path.name}` must be a plan as an ablation wrote it; found {text}.", place=str(path)) from error


def plan_for(
    settings: Sequence[str],
    *,
    baselines: Sequence[str] = (),
    axes: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    block: str,
    num_shots: int | None,
    margin: float,
    alpha: float = 0.05,
    reference: str = "stl",
    gain_reference: str = PERFECT,
    budget: str = "equal_flops",
) -> Plan:
    """The plan of an ablation, with as much of the confirmatory family as its settings allow.

    The family: the main effects of pretrain, joint and bilevel over the eight corners with hand-over (on block a, `stl` and `mtl` stand
    in for corners that they share the source stage with), and m3tl against stl, mtl_transfer and the best other setting by
    validation. Where none of these can be asked, every arm against the reference. Along axes, arms of a setting are averaged.

    Args:
        settings: Names of paradigms.
        baselines: Names of those beside them: arms of the plan, and in none of its contrasts.
        axes: Axis to its levels; empty without axes.
        seeds: As in `Plan`, like all that follow.
        block: Kind of block of the outcome.
        num_shots: Of the outcome.
        margin: Largest difference that counts as none.
        alpha: Family-wise error.
        reference: Setting or arm of descriptive differences.
        gain_reference: The 1 of the normalised gain.
        budget: Which budget decides.

    Raises:
        ConfigError: As `Plan`, or if there is no setting, or one or a level stands twice.
    """
    for name, found in (("settings", (*settings, *baselines)), *((f"axes.{k}", v) for k, v in axes.items())):
        if not found or len(set(found)) != len(found):
            raise ConfigError(f"`{name}` must be one or more, each once; found {', '.join(found) or 'none'}.", place=name)
    levels = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    named = sorted(((s, level) for s in settings for level in levels), key=lambda pair: arm_order(*pair))
    arms = tuple(arm_label(s, level) for s, level in named)
    known = [s for s in SETTINGS if s in settings] + sorted(set(settings) - set(SETTINGS))
    every = {s: {arm_label(s, level): 1 / len(levels) for level in levels} for s in known}
    contrasts = [*_main_effects(every, block), *_against(every)]
    if not contrasts:
        base = _reference_arm(reference, arms, known)
        contrasts = [
            Contrast(f"{arm} - {rival}", {arm: 1.0, rival: -1.0})
            for arm, (_, level) in zip(arms, named, strict=True)
            if (rival := base or arm_label(reference, level)) != arm
        ]
    arms += tuple(arm_label(b, level) for b in baselines for level in levels)
    return Plan(tuple(contrasts), arms, tuple(seeds), block, num_shots, margin, alpha, reference, gain_reference, budget)


def corner_arms(settings: Sequence[str], block: str) -> dict[tuple[bool, bool, bool], str]:
    """The setting that stands at each corner (pretrain, joint, bilevel) on a block, of those that exist."""
    found = {corner: name for corner, name in CORNERS.items() if name in settings}
    if block == "a":
        for name, switches in SETTINGS.items():
            if name in settings and not switches[3]:
                found.setdefault(switches[:3], name)
    return found


def _reference_arm(reference: str, arms: Sequence[str], settings: Sequence[str]) -> str:
    """The one arm that all are compared with; empty where each is compared with the reference setting at its own levels."""
    if reference in settings and len(settings) > 1:
        return ""
    return reference if reference in arms else arms[0]


def _main_effects(every: Mapping[str, Weights], block: str) -> list[Contrast]:
    corners = corner_arms(list(every), block)
    if len(corners) < len(CORNERS):
        return []
    return [
        Contrast(
            f"main effect of {switch}",
            {arm: sign * share for c, sign in factorial_weights((switch,)).items() for arm, share in every[corners[c]].items()},
        )
        for switch in SWITCHES
    ]


def _against(every: Mapping[str, Weights]) -> list[Contrast]:
    if "m3tl" not in every:
        return []
    own = every["m3tl"]
    found = [
        Contrast(f"m3tl - {rival}", {**own, **{arm: -w for arm, w in every[rival].items()}})
        for rival in ("stl", "mtl_transfer")
        if rival in every
    ]
    others = {name: weights for name, weights in every.items() if name != "m3tl"}
    # With one other setting there is nothing to choose.
    return [*found, Contrast("m3tl - best other by validation", own, others)] if len(others) > 1 else found
