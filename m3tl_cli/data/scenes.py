"""Generated driving scenes: exact labels, a camera and a LiDAR, 27 domains; and one of abstract shapes."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Modality, ModalityInfo, Progress, Task, TaskName, generator, quiet
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.folders import cache_folder
from m3tl_cli.data import render
from m3tl_cli.data.base import BLOCKS, Block, Data, SplitName
from m3tl_cli.data.labels import MOST_VEHICLES
from m3tl_cli.data.layouts import CLASSES, DOMAINS, draw_scene
from m3tl_cli.data.splits import check_fractions, split_samples
from m3tl_cli.data.store import Array, Store, StorePool

MODALITIES = ("rgb", "lidar")
CHUNK = 32  # scenes that are rendered together; 16 to 32 cost least, the result is the same
# What shapes label well: there is no road on them, and new tasks stay new. Best first: with an encoder of the image that was trained on
# one of them for 400 updates and then frozen, the losses of all three on the source summed up to 1.06, 1.08 and 1.14 (at random: 1.16).
PRETRAIN_TASKS = ("segmentation", "normals", "depth")


@dataclass
class _Drawing:
    """Scenes that share a store, domain by domain.

    Args:
        domains: In the program's order.
        counts: Scenes of each.
        index: [N] of every scene's domain among those of the data.
        scenes: Domain and number of every scene.
        store: Once it is prepared.
    """

    domains: tuple[str, ...]
    counts: tuple[int, ...]
    index: Tensor
    scenes: list[tuple[str, int]] = field(init=False)
    store: Store | None = None

    def __post_init__(self) -> None:
        self.scenes = [(domain, number) for domain, count in zip(self.domains, self.counts, strict=True) for number in range(count)]


class Scenes(Data):
    """Draw small driving scenes with a ray-caster, once, and read them ever after.

    Domains are layout (urban, suburban, rural) x weather (clear, rain, fog) x light (day, dusk, night), for example
    `urban-clear-day`, and the abstract domain `shapes`: walls, boxes, spheres and cylinders over a floor, under the same labels.
    Night and fog blind the camera; the LiDAR is sparse, noisy and knows no colour.

    Source tasks: `segmentation` (9 classes), `depth` (metres along the camera's axis, NaN in the sky and beyond `max_depth`), `normals`
    (unit vectors in camera axes, NaN in the sky), `vehicle_count` (0, 1, 2 or more that cover at least 1 % of the image),
    `vehicle_distance` (metres from the camera to the nearest visible point of such a vehicle; unlabelled without one), and `heading`
    (degrees by which the camera looks to the left of the road; unlabelled without one).

    New tasks, of the target and the validation domains, which the source stage trains only when a run names them: `edges` (outlines of
    things, one pixel wide), `drivable` (road of the own carriageway that is seen and that nobody blocks), `height` (metres above the
    ground, NaN in the sky; not implied by the source labels without the camera's pose), and `inverse_depth` (the planted conflict:
    minus depth, in logarithms).

    The pretraining domains have scenes and a store of their own, made when a run pretrains, for `segmentation`, `normals` and `depth`.

    Every scene follows from (seed, domain, number): more scenes or other domains leave it as it is, to the byte.

    Args:
        num_scenes: In all, spread evenly over the source, validation and target domains; at least 3 each, one a split.
        num_pretrain: The same of the pretraining domains.
        size: Rows and columns of the image, pixels.
        label_size: Rows and columns of dense labels; divides `size`.
        num_beams: Of the LiDAR. num_azimuths: rays of each beam.
        modalities: Of `rgb` and `lidar`, those that a run reads, in this order.
        pretrain_domains: Names or patterns such as `urban-*`, on which encoders are pretrained.
        source_domains: The same, on which tasks are learnt. What a pattern matches of the validation domains is left out.
        validation_domains: The same, on which choices about adaptation are made.
        target_domains: The same, on which adaptation is judged. No domain may be in two blocks.
        fractions: Shares of train, val and test within every domain; above 0, summing to 1.
        missing_labels: Share of the labels of each task that is hidden, in training splits, in [0, 1).
        missing_modalities: Share of the samples that lack one modality, never the last one, in [0, 1); in every split.
        max_depth: Metres beyond which depth is not labelled.
        seed: Of scenes, splits and what is missing.

    Raises:
        ConfigError: A name is unknown, blocks overlap, or the numbers do not fit.
    """

    def __init__(
        self,
        *,
        num_scenes: Annotated[int, Ge(3)],
        num_pretrain: Annotated[int, Ge(3)],
        size: Annotated[int, Ge(8)],
        label_size: Annotated[int, Ge(1)],
        num_beams: Annotated[int, Ge(1)],
        num_azimuths: Annotated[int, Ge(1)],
        modalities: list[str],
        pretrain_domains: list[str],
        source_domains: list[str],
        validation_domains: list[str],
        target_domains: list[str],
        fractions: dict[str, float],
        missing_labels: Annotated[float, Ge(0), Lt(1)],
        missing_modalities: Annotated[float, Ge(0), Lt(1)],
        max_depth: Annotated[float, Gt(0)],
        seed: int,
    ) -> None:
        self._sizes = {"size": size, "label_size": label_size, "num_beams": num_beams, "num_azimuths": num_azimuths}
        self._max_depth, self._seed = float(max_depth), seed
        self._missing_labels, self._missing_modalities = missing_labels, missing_modalities
        self._fractions = {str(k): float(v) for k, v in fractions.items()}
        check_fractions(self._fractions)
        if size % label_size:
            raise ConfigError(
                f"`label_size` must divide `size` = {size}; found {label_size}.", hint="data.label_size=32", place="data.label_size"
            )
        self._modalities = self._check_modalities(modalities)
        self._blocks = assign_domains(
            {"pretrain": pretrain_domains, "source": source_domains, "validation": validation_domains, "target": target_domains}
        )
        self._domains = tuple(d for d in DOMAINS if any(d in block for block in self._blocks.values()))
        self._drawings = {
            "pretrain": self._plan(("pretrain",), num_pretrain, "num_pretrain"),
            "runs": self._plan(("source", "validation", "target"), num_scenes, "num_scenes"),
        }
        self._tasks = self._plain_tasks()

    def prepare(self, progress: Progress = quiet, *, pretrain: bool = False) -> bool:
        """Render the scenes unless their store is there; True where it had to be made.

        Args:
            progress: Told how many scenes of how many are drawn.
            pretrain: Those of the pretraining domains too, if there are any.
        """
        made = self._make(self._drawings["runs"], progress)
        if pretrain and self._blocks["pretrain"]:
            made |= self._make(self._drawings["pretrain"], progress)
        pool = self.pool("train")
        self._tasks = {name: self._with_statistics(task, pool) for name, task in self._tasks.items()}
        return made

    @staticmethod
    def folder(key: str) -> Path:
        """Where the store of a key lies."""
        return cache_folder() / "store" / key

    @property
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        """Modalities of the run, in config order."""
        return self._modalities

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Every task; once prepared, with the statistics of those with a unit over the labelled source training samples."""
        return self._tasks

    @property
    def domains(self) -> Sequence[str]:
        """Domains in use, whatever for, in the order urban, suburban, rural, shapes."""
        return self._domains

    @property
    def blocks(self) -> Mapping[Block, tuple[str, ...]]:
        """Domains of every block; empty where there is none."""
        return self._blocks

    @property
    def pretrain_tasks(self) -> Sequence[TaskName]:
        """Tasks that encoders can be pretrained on, the best first."""
        return PRETRAIN_TASKS if self._blocks["pretrain"] else ()

    def pool(self, split: SplitName, at: Block = "source") -> StorePool:
        """Samples of a split of a block's domains.

        Raises:
            DataError: `prepare` was not called, not for pretraining, or there are no such domains.
        """
        if not self._blocks[at]:
            raise DataError(
                f"`{at}_domains` must name a domain; found none.", hint=f"data.{at}_domains=['rural-*']", place=f"data.{at}_domains"
            )
        drawing = self._drawings["pretrain" if at == "pretrain" else "runs"]
        if drawing.store is None:
            what = "scenes for pretraining" if at == "pretrain" else "scenes"
            raise DataError(f"the {what} must be prepared before they are read; found that they are not.", hint="m3tl data prepare")
        rows = self._rows(drawing, split, at)
        return StorePool(
            store=drawing.store,
            rows=rows,
            modalities=self._modalities,
            domain=drawing.index[rows],
            labelled=self._labelled(drawing.store, rows, split, at),
            present=self._present(rows, split, at),
        )

    def _plan(self, blocks: Sequence[Block], number: int, key: str) -> _Drawing:
        """Spread a number of scenes over the domains of some blocks."""
        domains = tuple(d for d in self._domains if any(d in self._blocks[block] for block in blocks))
        least = 3 * len(domains)
        if number < least:
            raise ConfigError(
                f"`{key}` must be at least {least}, 3 for each of {len(domains)} domains; found {number}.",
                hint=f"data.{key}={least}",
                place=f"data.{key}",
            )
        counts = tuple(number // len(domains) + (i < number % len(domains)) for i in range(len(domains)))
        index = torch.tensor([self._domains.index(d) for d in domains], dtype=torch.int64)
        return _Drawing(domains, counts, torch.repeat_interleave(index, torch.tensor(counts, dtype=torch.int64)))

    def _make(self, drawing: _Drawing, progress: Progress) -> bool:
        content = {
            "generator": render.fingerprint(),
            "domains": [*zip(drawing.domains, drawing.counts, strict=True)],
            "seed": self._seed,
            "max_depth": self._max_depth,
            **self._sizes,
        }
        num_points = self._sizes["num_beams"] * self._sizes["num_azimuths"]
        drawing.store, made = Store.create(
            self.folder(Store.key(**content)),
            rows=len(drawing.scenes),
            columns=render.columns(size=self._sizes["size"], label_size=self._sizes["label_size"], num_points=num_points),
            fill=lambda arrays: self._render(drawing.scenes, arrays, progress),
        )
        return made

    def _rows(self, drawing: _Drawing, split: SplitName, at: Block) -> Tensor:
        """Rows of a split, domain by domain; each domain is split by itself, so that all splits hold the same share of it."""
        rows, start = [], 0
        for domain, count in zip(drawing.domains, drawing.counts, strict=True):
            if domain in self._blocks[at]:
                rows.append(start + split_samples([(domain, i) for i in range(count)], self._fractions, self._seed)[split])
            start += count
        return torch.cat(rows)

    def _labelled(self, store: Store, rows: Tensor, split: SplitName, at: Block) -> dict[TaskName, Tensor]:
        """[N] bool per task: there is a label, and it is not among those hidden."""
        labelled = {name: torch.ones(len(rows), dtype=torch.bool) for name in self._tasks}
        for name in ("vehicle_distance", "heading"):
            labelled[name] = torch.isfinite(store.read(f"target.{name}", rows)[:, 0])
        if split == "train" and self._missing_labels > 0:
            for name, mask in labelled.items():
                there = mask.nonzero()[:, 0]
                order = torch.randperm(len(there), generator=generator(self._seed, "missing_labels", at, name))
                mask[there[order[: round(self._missing_labels * len(there))]]] = False
        return labelled

    def _present(self, rows: Tensor, split: SplitName, at: Block) -> dict[Modality, Tensor]:
        """[N] bool per modality; a sample lacks one at most."""
        present = {name: torch.ones(len(rows), dtype=torch.bool) for name in self._modalities}
        if self._missing_modalities > 0:
            own = generator(self._seed, "missing_modalities", split, at)
            lacking = torch.randperm(len(rows), generator=own)[: round(self._missing_modalities * len(rows))]
            which = torch.randint(len(present), (len(lacking),), generator=own)
            for i, mask in enumerate(present.values()):
                mask[lacking[which == i]] = False
        return present

    def _render(self, scenes: Sequence[tuple[str, int]], arrays: Mapping[str, Array], progress: Progress) -> None:
        """Fill a store, chunk by chunk, on as many threads as torch may use; a chunk's operations stay on one thread."""
        total = len(scenes)

        def work(start: int) -> int:
            stop = min(start + CHUNK, total)
            drawn = [draw_scene(domain, number, self._seed) for domain, number in scenes[start:stop]]
            for name, values in render.render(drawn, **self._sizes, max_depth=self._max_depth).items():
                arrays[name][start:stop] = values.numpy()
            return stop - start

        progress("drawing scenes", 0, total)
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as threads:
            chunks: list[Future[int]] = [threads.submit(work, start) for start in range(0, total, CHUNK)]
            try:
                done = 0
                for chunk in as_completed(chunks):
                    done += chunk.result()
                    progress("drawing scenes", done, total)
            finally:
                for chunk in chunks:
                    chunk.cancel()

    def _with_statistics(self, task: Task, pool: StorePool) -> Task:
        if task.kind not in ("depth", "regression", "regression_map"):
            return task
        values = pool.store.read(f"target.{task.name}", pool.rows[pool.labelled[task.name]]).double()
        values = values[torch.isfinite(values)]
        if len(values) < 2:
            return replace(task, mean=(0.0,), std=(1.0,))
        return replace(task, mean=(float(values.mean()),), std=(float(values.std(correction=0)) or 1.0,))

    def _plain_tasks(self) -> dict[TaskName, Task]:
        grid = (self._sizes["label_size"], self._sizes["label_size"])
        counts = (*map(str, range(MOST_VEHICLES)), f"{MOST_VEHICLES}+")
        tasks = (
            Task("segmentation", "segmentation", num_outputs=len(CLASSES), dense=True, size=grid, classes=CLASSES),
            Task("depth", "depth", num_outputs=1, dense=True, size=grid, unit="m"),
            Task("normals", "normals", num_outputs=3, dense=True, size=grid),
            Task("vehicle_count", "multiclass", num_outputs=len(counts), dense=False, classes=counts),
            Task("vehicle_distance", "regression", num_outputs=1, dense=False, unit="m"),
            Task("heading", "regression", num_outputs=1, dense=False, unit="deg"),
        )
        new = (
            Task("edges", "binary_map", num_outputs=1, dense=True, size=grid),
            Task("drivable", "binary_map", num_outputs=1, dense=True, size=grid),
            Task("height", "regression_map", num_outputs=1, dense=True, size=grid, unit="m"),
            Task("inverse_depth", "depth", num_outputs=1, dense=True, size=grid, unit="1/m"),
        )

        def place(task: Task, blocks: Sequence[Block]) -> Task:
            return replace(task, at=tuple(b for b in BLOCKS if b in blocks and self._blocks[b]))

        judged: tuple[Block, ...] = ("validation", "target")
        seen = {t.name: place(t, ("source", *judged, *(("pretrain",) if t.name in PRETRAIN_TASKS else ()))) for t in tasks}
        return seen | {t.name: place(t, judged) for t in new}

    def _check_modalities(self, names: Sequence[str]) -> dict[Modality, ModalityInfo]:
        size = (self._sizes["size"], self._sizes["size"])
        known = {
            "rgb": ModalityInfo("rgb", "image", channels=3, size=size),
            "lidar": ModalityInfo("lidar", "points", channels=5, size=size, length=self._sizes["num_beams"] * self._sizes["num_azimuths"]),
        }
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, MODALITIES, n=1, cutoff=0.3) or MODALITIES[:1]
                raise ConfigError(
                    f"`modalities` must be of {', '.join(MODALITIES)}; found {name!r}.",
                    hint=f"did you mean {near[0]}?",
                    place="data.modalities",
                )
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"`modalities` must name each modality once, and one at least; found {list(names)}.",
                hint="data.modalities=[rgb,lidar]",
                place="data.modalities",
            )
        if len(names) == 1 and self._missing_modalities > 0:
            raise ConfigError(
                f"`missing_modalities` must be 0 where there is one modality; found {self._missing_modalities}.",
                hint="data.missing_modalities=0",
                place="data.missing_modalities",
            )
        return {name: known[name] for name in names}


def assign_domains(patterns: Mapping[Block, Sequence[str]]) -> dict[Block, tuple[str, ...]]:
    """Match the patterns of every block; no domain may be in two.

    Of what the source's patterns match, the validation domains are left out, unless one is named in full.

    Args:
        patterns: Of every block of `BLOCKS`, as for `match_domains`; the source needs one at least.

    Raises:
        ConfigError: A pattern matches no domain, a domain is in two blocks, or the source has none.
    """
    blocks = {block: match_domains(names, f"{block}_domains") for block, names in patterns.items()}
    named = patterns["source"]
    blocks["source"] = tuple(d for d in blocks["source"] if d in named or d not in blocks["validation"])
    for i, block in enumerate(BLOCKS):
        for other in BLOCKS[:i]:
            both = [d for d in blocks[block] if d in blocks[other]]
            if both:
                raise ConfigError(
                    f"`{block}_domains` must be apart from `{other}_domains`; found {', '.join(both)} in both.",
                    hint="leave them out of one list",
                    place=f"data.{block}_domains",
                )
    if not blocks["source"]:
        found = "only validation domains" if named else "none"
        raise ConfigError(
            f"`source_domains` must name a domain; found {found}.", hint="data.source_domains=['urban-*']", place="data.source_domains"
        )
    return blocks


def match_domains(patterns: Sequence[str], key: str) -> tuple[str, ...]:
    """Names of the domains that any of the patterns matches, in the program's order.

    Args:
        patterns: Names, or patterns with `*`, `?` and `[...]`.
        key: The config key, for the message.

    Raises:
        ConfigError: A pattern matches no domain.
    """
    matched: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(DOMAINS, pattern)
        if not found:
            groups = [f"{layout}-*" for layout in dict.fromkeys(d.split("-")[0] for d in DOMAINS if "-" in d)]
            near = difflib.get_close_matches(pattern, [*DOMAINS, *groups], n=3, cutoff=0.4) or ["urban-*", "*-fog-night", "shapes"]
            raise ConfigError(
                f"`{key}` must match a domain (layout-weather-light, or shapes); found {pattern!r}.",
                hint=f"near it: {', '.join(near)}",
                place=f"data.{key}",
            )
        matched.update(found)
    return tuple(d for d in DOMAINS if d in matched)
