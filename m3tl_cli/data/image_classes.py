"""Images that lie in folders by class, for episodes of classes never seen before; Omniglot and its official one-shot runs."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge, Lt
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from m3tl_cli.core.contracts import (
    Batch,
    Episode,
    Modality,
    ModalityInfo,
    Part,
    Progress,
    Task,
    TaskName,
    generator,
    quiet,
    stable_seed,
)
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.folders import cache_folder
from m3tl_cli.data.base import BLOCKS, Block, Data, SplitName
from m3tl_cli.data.splits import check_fractions, split_samples
from m3tl_cli.data.store import Array, Column, Store, StorePool

CHUNK = 256  # images in memory at a time
READER = 1  # of the store's content: another number wherever the same files would give other pixels
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
WAY, CHARACTER = "way", "character"
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class ImageClasses(Data):
    """Read classes of images once, hold some classes out, and ask for episodes of them.

    A source of images is a folder or a .zip (read where it lies) whose leaf folders are classes and whose folders above them are
    domains, or an .npz with `images` [N, H, W] or [N, H, W, C] uint8, `labels` [N] and, if there are several domains, `domains` [N].
    Omniglot: alphabet/character/drawing.png. A class is known by (domain, class): the same one in two sources is one class, and the
    same file in it, by name and content, is one image.

    Blocks. source: the training classes. validation: a share of the classes of every domain, held out to choose the checkpoint.
    target: the classes of `target_folders`, or the official `runs`. No class is in two blocks.

    Task `way`: which of N classes, known from a few images of each. Its labels exist inside episodes only, from a sampler of classes
    over `pool(...).classes`, or from `episodes`; in the runs, where the files give them, also in the target's pools. Task `character`:
    which of all training classes, labelled at the source, for corners without episodes.

    The runs are those of Lake, Salakhutdinov and Tenenbaum ("Human-level concept learning through probabilistic program induction",
    Science 2015; https://github.com/brendenlake/omniglot, MIT): runXX/class_labels.txt pairs each image to classify with the
    training image of its class, 20 of each, within one alphabet of the evaluation set. Each run is a domain of the target.

    Args:
        folders: Sources of the training and validation classes.
        target_folders: Sources of the target's classes; empty with `runs`, or where no target is wanted.
        runs: Folder or .zip of the official runs; None: no runs.
        size: Rows and columns of the stored image, pixels; an image of other proportions is stretched.
        channels: 1 grey, 3 RGB. What is transparent becomes white.
        invert: Store 255 minus the pixel, so that ink on white paper becomes light on 0.
        rotations: Degrees counterclockwise, of 0, 90, 180, 270, with 0 among them. Each rotation of a training class is a class of its
            own, as in "Meta-Learning with Memory-Augmented Neural Networks" (Santoro et al., ICML 2016), section 4.1.
        validation_classes: Share of the classes of every domain that is held out, rounded, in [0, 1).
        num_ways: N of `way`.
        fractions: Shares of train, val and test among the images of every class; above 0, summing to 1.
        seed: Of the held-out classes and of the splits.

    Raises:
        ConfigError: The numbers do not fit.
    """

    def __init__(
        self,
        *,
        folders: list[str],
        target_folders: list[str],
        runs: str | None,
        size: Annotated[int, Ge(4)],
        channels: Literal[1, 3],
        invert: bool,
        rotations: list[int],
        validation_classes: Annotated[float, Ge(0), Lt(1)],
        num_ways: Annotated[int, Ge(2)],
        fractions: dict[str, float],
        seed: int,
    ) -> None:
        if not folders or len({*folders, *target_folders}) < len(folders) + len(target_folders):
            raise ConfigError(
                f"`folders` and `target_folders` must name each source once, and `folders` one at least; "
                f"found {[*folders, *target_folders]}.",
                hint="data.folders=[path/to/classes]",
                place="data.folders",
            )
        if runs is not None and target_folders:
            raise ConfigError(
                "`target_folders` must be empty where `runs` are the target; found both.",
                hint="data.runs=null, or data.target_folders=[]",
                place="data.runs",
            )
        if 0 not in rotations or len(set(rotations)) < len(rotations) or set(rotations) - {0, 90, 180, 270}:
            raise ConfigError(
                f"`rotations` must be of 0, 90, 180 and 270, each once, with 0 among them; found {list(rotations)}.",
                hint="data.rotations=[0,90,180,270]",
                place="data.rotations",
            )
        self._paths = [Path(p).expanduser() for p in folders]
        self._target_paths = [Path(p).expanduser() for p in target_folders]
        self._runs = None if runs is None else Path(runs).expanduser()
        self._size, self._channels, self._invert = size, channels, invert
        self._rotations = sorted(rotations)
        self._validation_classes, self._num_ways, self._seed = validation_classes, num_ways, seed
        self._fractions = {str(k): float(v) for k, v in fractions.items()}
        check_fractions(self._fractions)
        self._store: Store | None = None

    def prepare(self, progress: Progress = quiet, *, pretrain: bool = False) -> bool:  # noqa: ARG002 (there is no such block)
        """Read and resize the images unless the store is there; True where it had to be made.

        Raises:
            DataError: A source is absent or damaged, or has too few images or classes.
        """
        index = self._index
        key = Store.key(
            reader=READER,
            images=[[image.domain, image.label, image.member, image.stamp] for image in index.images],
            size=self._size,
            channels=self._channels,
            invert=self._invert,
            rotations=[image.rotations for image in index.images],
        )
        self._store, made = Store.create(
            cache_folder() / "store" / key,
            rows=sum(len(image.rotations) for image in index.images),
            columns={"input.image": Column("uint8", (self._channels, self._size, self._size))},
            fill=lambda arrays: self._read(arrays["input.image"], progress),
        )
        return made

    @property
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        """`image`."""
        return {"image": ModalityInfo("image", "image", channels=self._channels, size=(self._size, self._size))}

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """`way` and `character`. Lists the sources, reads no image."""
        ways = tuple(f"way_{i + 1}" for i in range(self._num_ways))
        at = tuple(block for block, domains in self.blocks.items() if domains)
        names = self._index.class_names[: self._index.num_source]
        return {
            WAY: Task(WAY, "multiclass", num_outputs=self._num_ways, dense=False, classes=ways, at=at),
            CHARACTER: Task(CHARACTER, "multiclass", num_outputs=len(names), dense=False, classes=names, at=("source",)),
        }

    @property
    def domains(self) -> Sequence[str]:
        """Domains of the sources, in alphabetical order, then those of the target, or the runs."""
        return self._index.domains

    @property
    def blocks(self) -> Mapping[Block, tuple[str, ...]]:
        """Domains of every block; empty where there is none. Source and validation share domains, never a class."""
        return self._index.blocks

    def pool(self, split: SplitName, at: Block = "source") -> ClassPool:
        """Images of a split, of the classes of a block.

        In the runs, `train` holds the images of the classes, `test` those to classify, and `val` is empty.

        Raises:
            DataError: `prepare` was not called, or the block has no class.
        """
        if self._store is None:
            raise DataError("the images must be prepared before they are read; found that they are not.", hint="m3tl data prepare")
        if not self.blocks.get(at):
            raise self._no_block(at)
        index = self._index
        rows = (index.is_in[at] & (index.split == SPLITS.index(split))).nonzero()[:, 0]
        return self._pool(self._store, rows, at)

    def episodes(
        self, at: Block, tasks: Sequence[Task], *, num_shots: int, num_query: int, number: int, per_class: bool, seed: int
    ) -> Sequence[Episode]:
        """Episodes of `way`; of other tasks as `Data.episodes` draws them.

        With `runs`, those of the target are the official ones in their order, at most `number`: a support image and a query image for
        each of the 20 classes, whatever `num_query` and the seed say. Else N classes of the block are drawn, with `num_shots` images of
        each for support (`per_class` changes nothing) and `num_query` / N, rounded up, for query. At the source, support comes from the
        training split and query from the test split; at classes held out, both from all of a class's images, of which at most half
        are query. Where every class has images enough, the query does not depend on `num_shots`; the support of more shots contains
        that of fewer.

        Raises:
            DataError: `prepare` was not called, the block has no class, or too few classes have so many images.
            ConfigError: `way` is asked for beside other tasks, or other than one shot of the runs.
        """
        names = [task.name for task in tasks]
        if WAY not in names:
            return super().episodes(at, tasks, num_shots=num_shots, num_query=num_query, number=number, per_class=per_class, seed=seed)
        if names != [WAY]:
            raise ConfigError(
                f"`{WAY}` must be the only task of an episode, whose classes are its labels; found {', '.join(names)}.",
                hint=f"tasks=[{WAY}]",
                place="tasks",
            )
        support, query = self.pool("train", at), self.pool("test", at)
        if at == "target" and self._runs is not None:
            if num_shots != 1:
                raise ConfigError(
                    f"`num_shots` must be 1 in the official runs, which give one image of a class; found {num_shots}.",
                    hint="target.num_shots=[1]",
                    place="data.runs",
                )
            return [self._official(support, query, i, tasks[0]) for i in range(min(number, len(self.blocks[at])))]
        if at != "source":
            index = self._index
            support = query = self._pool(support.store, index.is_in[at].nonzero()[:, 0], at)
        return [self._drawn(support, query, (seed, at, i), tasks[0], num_shots, num_query) for i in range(number)]

    def _pool(self, store: Store, rows: Tensor, at: Block) -> ClassPool:
        index = self._index
        # A task that no row of the block labels is not named there: outside the runs, `way` exists inside episodes alone.
        labels = {CHARACTER: index.classes} if at == "source" else {WAY: index.way} if at == "target" and self._runs is not None else {}
        return ClassPool(
            store=store,
            rows=rows,
            modalities=self.modalities,
            domain=index.domain[rows],
            classes=index.classes[rows],
            num_classes=len(index.class_names),
            targets={task: label[rows] for task, label in labels.items()},
        )

    def _official(self, support: ClassPool, query: ClassPool, run: int, task: Task) -> Episode:
        domain = self.domains.index(self.blocks["target"][run])
        parts = []
        for pool in (support, query):
            there = (pool.domain == domain).nonzero()[:, 0]
            parts.append((_part(pool, there, pool.targets[WAY][there], task),))
        return Episode(uid=stable_seed("runs", run), support=parts[0], query=parts[1], tasks=(task,))

    def _drawn(
        self, support: ClassPool, query: ClassPool, key: tuple[int, Block, int], task: Task, num_shots: int, num_query: int
    ) -> Episode:
        """Episode `key` = (seed, block, number); `support` and `query` may be the same pool."""
        most_C = query.count_C // 2 if support is query else query.count_C
        query_C = most_C.clamp(max=-(-num_query // self._num_ways))
        able = ((query_C > 0) & (support.count_C - (query_C if support is query else 0) >= num_shots)).nonzero()[:, 0]
        if len(able) < self._num_ways:
            raise DataError(
                f"`num_ways` must be at most the classes of block `{key[1]}` with {num_shots} images for support beside those for query; "
                f"found {self._num_ways} for {len(able)}.",
                hint="fewer shots, a smaller data.num_ways, or more images",
                place="data.num_ways",
            )
        of_support, of_query, ways_support, ways_query = [], [], [], []
        for way, c in enumerate(able[torch.randperm(len(able), generator=generator(*key, "classes"))[: self._num_ways]].tolist()):
            rows = _shuffled(query.rows_of(c), *key, "query", c)
            chosen = rows[: int(query_C[c])]
            left = rows[len(chosen) :] if support is query else _shuffled(support.rows_of(c), *key, "support", c)
            of_query.append(chosen)
            of_support.append(left[:num_shots])
            ways_query += [way] * len(chosen)
            ways_support += [way] * num_shots
        return Episode(
            uid=stable_seed("episodes", *key),
            support=(_part(support, torch.cat(of_support), torch.tensor(ways_support), task),),
            query=(_part(query, torch.cat(of_query), torch.tensor(ways_query), task),),
            tasks=(task,),
        )

    def _read(self, column: Array, progress: Progress) -> None:
        """Fill the store, image by image, on as many threads as torch may use."""
        images = self._index.images
        archives: dict[Path, Any] = {}
        for path in dict.fromkeys(image.path for image in images):
            is_zip, is_npz = (not path.is_dir() and path.suffix == ending for ending in (".zip", ".npz"))
            archives[path] = zipfile.ZipFile(path) if is_zip else _images(path) if is_npz else path

        def work(image: _Image) -> Array:
            return _pixels(_opened(archives[image.path], image), self._size, self._channels, self._invert)

        progress("reading images", 0, len(images))
        row = 0
        try:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                for start in range(0, len(images), CHUNK):
                    chunk = images[start : start + CHUNK]
                    for image, pixels in zip(chunk, threads.map(work, chunk), strict=True):
                        for degrees in image.rotations:
                            column[row] = np.rot90(pixels, degrees // 90, axes=(1, 2))
                            row += 1
                    progress("reading images", start + len(chunk), len(images))
        finally:
            for archive in archives.values():
                if isinstance(archive, zipfile.ZipFile):
                    archive.close()

    @cached_property
    def _index(self) -> _Index:
        return _Index.of(
            source=_listed(self._paths),
            target=_listed(self._target_paths),
            runs=[] if self._runs is None else _listed_runs(self._runs, self._num_ways),
            rotations=self._rotations,
            validation_classes=self._validation_classes,
            num_ways=self._num_ways,
            fractions=self._fractions,
            seed=self._seed,
        )

    def _no_block(self, at: Block) -> DataError:
        hints = {
            "validation": "data.validation_classes=0.15",
            "target": "data.target_folders=[path/to/classes], or data.runs=all_runs.zip",
        }
        return DataError(f"the block `{at}` must have classes; found none.", hint=hints.get(at, "use the block source"), place="data")


class ClassPool(StorePool):
    """Images with their classes.

    Args:
        store: Where the images lie.
        rows: [N] their rows.
        modalities: `image`.
        domain: [N] index into the data's domains.
        classes: [N] index into all classes of the data; no block shares one with another.
        num_classes: C, of all the data.
        targets: [N] label per task; every row has one.

    Attributes:
        count_C: [C] images of each class.
    """

    def __init__(
        self,
        *,
        store: Store,
        rows: Tensor,
        modalities: Mapping[Modality, ModalityInfo],
        domain: Tensor,
        classes: Tensor,
        num_classes: int,
        targets: Mapping[TaskName, Tensor],
    ) -> None:
        everywhere = torch.ones(len(rows), dtype=torch.bool)
        present, labelled = dict.fromkeys(modalities, everywhere), dict.fromkeys(targets, everywhere)
        super().__init__(store=store, rows=rows, modalities=modalities, domain=domain, labelled=labelled, present=present)
        self.classes = classes
        self.targets = dict(targets)

        self.count_C = torch.bincount(classes, minlength=num_classes)
        self._by_class = classes.argsort(stable=True).split(self.count_C.tolist())

    def rows_of(self, label: int) -> Tensor:
        """Positions of the images of a class, ascending."""
        return self._by_class[label]

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        """Read positions [B] of this pool, with the targets of `tasks` (all by default)."""
        wanted = list(self.targets) if tasks is None else list(tasks)
        batch, here = super().read(index, ()), index.cpu()
        labelled = torch.ones(len(here), dtype=torch.bool)
        return replace(batch, targets={t: self.targets[t][here] for t in wanted}, labelled=dict.fromkeys(wanted, labelled))


@dataclass(frozen=True)
class _Image:
    """One image, before it is read.

    Args:
        path: The source. member: Its name inside; of an .npz the row.
        domain, label: What its place says.
        stamp: Another one where the content is another.
        rotations: Degrees; each is a row of the store.
        way: Index of its class within its run, -1 outside the runs.
        query: Whether it is one that a run asks to classify.
    """

    path: Path
    member: str
    domain: str
    label: str
    stamp: str
    rotations: tuple[int, ...] = (0,)
    way: int = -1
    query: bool = False


@dataclass(frozen=True)
class _Index:
    """Where every row of the store belongs.

    Args:
        images: In the order of the store; each has as many rows, one after the other, as rotations.
        domains: Their names. blocks: those of every block.
        class_names: `domain/label`, with `@degrees` where it is turned; those of the source first.
        num_source: How many these are.
        classes: [N] index into `class_names`. domain: [N] index into `domains`. way: [N] see `_Image`.
        split: [N] index into `SPLITS`.
        is_in: [N] bool per block.
    """

    images: Sequence[_Image]
    domains: tuple[str, ...]
    blocks: Mapping[Block, tuple[str, ...]]
    class_names: tuple[str, ...]
    num_source: int
    classes: Tensor
    domain: Tensor
    way: Tensor
    split: Tensor
    is_in: Mapping[Block, Tensor]

    @staticmethod
    def of(
        *,
        source: Sequence[_Image],
        target: Sequence[_Image],
        runs: Sequence[_Image],
        rotations: Sequence[int],
        validation_classes: float,
        num_ways: int,
        fractions: Mapping[str, float],
        seed: int,
    ) -> _Index:
        """Hold classes out and split images; reads nothing but names."""
        held_out = _held_out(source, validation_classes, seed)
        both = {(i.domain, i.label) for i in source} & {(i.domain, i.label) for i in target}
        if both:
            raise DataError(
                f"`target_folders` must hold other classes than `folders`; found {'/'.join(min(both))} in both.",
                hint="take the source out of one list",
                place="data.target_folders",
            )
        # Every image is stored in every rotation, so that the store does not depend on which classes are held out.
        images = [*(replace(i, rotations=tuple(rotations)) for i in source), *target, *runs]
        at_source = {f"{i.domain}/{i.label}" for i in source if (i.domain, i.label) not in held_out}
        if len(at_source) < num_ways:
            raise DataError(
                f"`num_ways` must be at most the number of training classes; found {num_ways} for {len(at_source)}.",
                hint=f"data.num_ways={max(2, len(at_source))}",
                place="data.num_ways",
            )
        turned = [name if degrees == 0 else f"{name}@{degrees}" for degrees in rotations for name in sorted(at_source)]
        others = dict.fromkeys(f"{i.domain}/{i.label}" for i in (*source, *target, *runs))
        class_names = (*turned, *(name for name in others if name not in at_source))
        numbers = {name: number for number, name in enumerate(class_names)}
        domains = tuple(
            dict.fromkeys([*sorted({i.domain for i in source}), *sorted({i.domain for i in target}), *(i.domain for i in runs)])
        )
        domain_numbers = {name: number for number, name in enumerate(domains)}
        split = _splits([*source, *target], fractions, seed)
        split += [SPLITS.index("test" if i.query else "train") for i in runs]
        rows: list[tuple[int, int, int, int, int]] = []
        for number, image in enumerate(images):
            block: Block = "source" if number < len(source) else "target"
            name = f"{image.domain}/{image.label}"
            if block == "source" and name not in at_source:
                block = "validation"
            for degrees in image.rotations:
                # Held-out classes are judged as they are: their turned rows are in no block.
                used = block == "source" or degrees == 0
                label = f"{name}@{degrees}" if block == "source" and degrees else name
                rows.append((numbers[label], domain_numbers[image.domain], image.way, split[number], BLOCKS.index(block) if used else -1))
        classes, domain, way, splits, blocks = torch.tensor(rows, dtype=torch.int64).unbind(1)
        is_in = {block: blocks == number for number, block in enumerate(BLOCKS)}
        return _Index(
            images=images,
            domains=domains,
            blocks={block: tuple(domains[d] for d in domain[is_in[block]].unique().tolist()) for block in BLOCKS},
            class_names=class_names,
            num_source=len(turned),
            classes=classes,
            domain=domain,
            way=way,
            split=splits,
            is_in=is_in,
        )


def _held_out(images: Iterable[_Image], share: float, seed: int) -> set[tuple[str, str]]:
    """(domain, class) of the validation classes: in every domain its share, in an order that follows from the names."""
    classes: dict[str, set[str]] = {}
    for image in images:
        classes.setdefault(image.domain, set()).add(image.label)
    held_out = set()
    for domain, labels in classes.items():
        order = sorted(labels, key=lambda label: stable_seed(seed, "validation_classes", domain, label))
        held_out |= {(domain, label) for label in order[: round(share * len(order))]}
    return held_out


def _splits(images: Sequence[_Image], fractions: Mapping[str, float], seed: int) -> list[int]:
    """Split of every image, as an index into `SPLITS`; each class is split by itself."""
    members: dict[tuple[str, str], list[int]] = {}
    for number, image in enumerate(images):
        members.setdefault((image.domain, image.label), []).append(number)
    split = [0] * len(images)
    for (domain, label), numbers in members.items():
        if len(numbers) < len(SPLITS):
            raise DataError(
                f"every class must have at least {len(SPLITS)} images, one for each of {', '.join(SPLITS)}; "
                f"found {len(numbers)} in {domain}/{label}.",
                hint="add images, or take the class out",
                place=str(images[numbers[0]].path),
            )
        # Names and not contents, so that a folder and its .zip are split alike; where two contents have one name, numbered.
        seen: Counter[str] = Counter()
        keys = []
        for n in numbers:
            name = PurePosixPath(images[n].member).name
            keys.append(f"{domain}/{label}/{name}/{seen[name]}")
            seen[name] += 1
        for name, positions in split_samples(keys, fractions, seed).items():
            for position in positions.tolist():
                split[numbers[position]] = SPLITS.index(name)
    return split


def _listed(paths: Sequence[Path]) -> list[_Image]:
    """Images of the sources, by domain, class and name; a file that an earlier source has too is left out."""
    images: dict[tuple[str, str, str], _Image] = {}
    for path in paths:
        for image in _arrays(path) if path.suffix == ".npz" else _files(path):
            key = (image.domain, image.label, PurePosixPath(image.member).name)
            if key in images and _checksum(images[key]) != _checksum(image):
                key = (*key[:2], f"{key[2]} {path}")
            images.setdefault(key, image)
    return [images[key] for key in sorted(images)]


def _files(path: Path) -> list[_Image]:
    stamps = {name: stamp for name, stamp in _stamps(path).items() if PurePosixPath(name).suffix.lower() in ENDINGS}
    folders = {name: PurePosixPath(name).parts[:-1] for name in stamps}
    for name, folder in folders.items():
        if not folder:
            raise DataError(
                f"every image must lie in a folder that is named after its class; found {name} outside one.",
                hint="domain/class/image.png",
                place=str(path),
            )
    if not stamps:
        raise DataError(
            f"`{path.name}` must hold images ({', '.join(sorted(ENDINGS))}); found none.", hint="domain/class/image.png", place=str(path)
        )
    parents = {folder[:-1] for folder in folders.values()}
    shallow, deep = min(parents), max(parents)
    common = 0
    while common < min(len(shallow), len(deep)) and shallow[common] == deep[common]:
        common += 1
    # The folder that holds everything names no domain, unless there is no other.
    alone = shallow[-1] if len(parents) == 1 and shallow else path.stem
    return [
        _Image(path, name, domain="/".join(folder[common:-1]) or alone, label=folder[-1], stamp=stamps[name])
        for name, folder in folders.items()
    ]


def _listed_runs(path: Path, num_ways: int) -> list[_Image]:
    """Images of the official runs: run by run, first those of the classes, then those to classify."""
    stamps = _stamps(path)
    tables = sorted(name for name in stamps if PurePosixPath(name).name == "class_labels.txt")
    if not tables:
        raise DataError("`runs` must hold runXX/class_labels.txt; found none.", hint="data.runs=path/to/all_runs.zip", place=str(path))
    images = []
    for table in tables:
        folder = PurePosixPath(table).parent
        text = _content(path, table).decode()
        # The table names its files from the folder above the run's.
        pairs = [[str(folder.parent / name) for name in line.split()] for line in text.splitlines() if line.strip()]
        wrong = next((line for line in pairs if len(line) != 2 or not stamps.keys() >= set(line)), None)
        if wrong is not None or not pairs:
            raise DataError(
                f"`{table}` must pair a file to classify with the training file of its class; found {' '.join(wrong or ['nothing'])}.",
                place=str(path),
                hint="unpack or download the runs again",
            )
        folders = {PurePosixPath(of).parent for _, of in pairs}
        classes = [name for name in stamps if PurePosixPath(name).parent in folders]
        if len(classes) != num_ways:
            raise ConfigError(
                f"`num_ways` must be the number of classes of each run, {len(classes)} in {folder.name}; found {num_ways}.",
                hint=f"data.num_ways={len(classes)}",
                place="data.num_ways",
            )
        for name, of, query in [*((of, of, False) for of in classes), *((name, of, True) for name, of in pairs)]:
            label = PurePosixPath(of).stem
            images.append(_Image(path, name, folder.name, label, stamps[name], way=classes.index(of), query=query))
    return images


def _stamps(path: Path) -> dict[str, str]:
    """Names of the files inside a folder or a .zip, sorted, each with what changes when its content does."""
    _check_exists(path)
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file()]
        found = {p.relative_to(path).as_posix(): f"{p.stat().st_size}.{p.stat().st_mtime_ns}" for p in files}
    elif path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                found = {info.filename: f"{info.CRC:08x}" for info in archive.infolist() if not info.is_dir()}
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"`{path.name}` must be a whole .zip; found {error}.", hint="download it again", place=str(path)) from error
    else:
        raise DataError(f"a source of images must be a folder, a .zip or an .npz; found {path.name}.", place=str(path))
    hidden = ("__MACOSX", ".")
    return {name: found[name] for name in sorted(found) if not any(part.startswith(hidden) for part in PurePosixPath(name).parts)}


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise DataError(
            f"a source of images must exist; found nothing at {path}.", hint="look at data.folders and data.runs", place=str(path)
        )


def _content(path: Path, member: str) -> bytes:
    if path.is_dir():
        return (path / member).read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def _checksum(image: _Image) -> str:
    """Equal for equal content, whatever kind of source holds it; of an .npz for equal rows of equal files."""
    return f"{zlib.crc32(_content(image.path, image.member)):08x}" if image.path.is_dir() else image.stamp


def _arrays(path: Path) -> list[_Image]:
    """Rows of an .npz, without reading `images`."""
    _check_exists(path)
    how = "np.savez(path, images=..., labels=...)"
    try:
        with np.load(path, allow_pickle=False) as file, zipfile.ZipFile(path) as archive:
            names = [name for name in ("images", "labels", "domains") if name in file.files]
            labels, domains = (file[name] if name in names else None for name in ("labels", "domains"))
            shape, dtype = _header(archive, "images.npy") if "images" in names else ((), None)
            stamp = ".".join(f"{info.CRC:08x}" for info in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"`{path.name}` must be a whole .npz; found {error}.", hint=how, place=str(path)) from error
    if dtype is None or labels is None:
        found = ", ".join(names) or "neither"
        raise DataError(f"`{path.name}` must hold `images` and `labels`; found {found}.", hint=how, place=str(path))
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"`images` must be uint8 [N, H, W], or [N, H, W, C] with 1 or 3 channels; found {dtype} {list(shape)}.",
            hint="(255 * images).astype('uint8') where they lie in [0, 1]",
            place=str(path),
        )
    domains = np.full(shape[0], path.stem) if domains is None else domains
    for name, array in (("labels", labels), ("domains", domains)):
        if array.shape != shape[:1]:
            raise DataError(f"`{name}` must be one for each of {shape[0]} images; found {list(array.shape)}.", hint=how, place=str(path))
    return [
        _Image(path, f"{row:09d}", domain=str(domain), label=str(label), stamp=f"{stamp}.{row}")
        for row, (domain, label) in enumerate(zip(domains.tolist(), labels.tolist(), strict=True))
    ]


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array."""
    with archive.open(name) as file:
        read = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(file) == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _images(path: Path) -> Array:
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file["images"])


def _opened(source: Any, image: _Image) -> Image.Image:
    if isinstance(source, np.ndarray):
        array = source[int(image.member)]
        return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    try:
        content = source.read(image.member) if isinstance(source, zipfile.ZipFile) else (source / image.member).read_bytes()
        opened = Image.open(io.BytesIO(content))
        opened.load()
    except (OSError, UnidentifiedImageError, zipfile.BadZipFile) as error:
        raise DataError(
            f"`{image.member}` must be an image; found {error}.", hint="take it out, or mend it", place=str(image.path)
        ) from error
    if opened.mode not in EIGHT_BIT:
        raise DataError(
            f"`{image.member}` must have 8 bits a channel; found mode {opened.mode}.",
            hint="convert it to 8 bits",
            place=str(image.path),
        )
    return ImageOps.exif_transpose(opened)


def _pixels(image: Image.Image, size: int, channels: int, invert: bool) -> Array:
    """[channels, size, size] uint8."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Pillow's bilinear filter widens with the scale, so that thin strokes are averaged and not skipped.
    small = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(small).reshape(size, size, channels).transpose(2, 0, 1)
    return 255 - array if invert else array


def _part(pool: ClassPool, rows: Tensor, labels: Tensor, task: Task) -> Part:
    """Rows of a pool with labels that hold in one episode."""
    batch = pool.read(rows, ())
    return Part(replace(batch, targets={task.name: labels}, labelled={task.name: torch.ones(len(rows), dtype=torch.bool)}), (task.name,))


def _shuffled(rows: Tensor, *key: object) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator(*key))]
