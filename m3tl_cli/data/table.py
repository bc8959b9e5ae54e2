"""Tables: columns that are modalities, columns that are tasks, and a column that says which of many like tasks a row belongs to."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from m3tl_cli.core.contracts import Modality, ModalityInfo, Progress, Task, TaskName, quiet, stable_seed
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.folders import cache_folder
from m3tl_cli.data.base import BLOCKS, Block, Data, SplitName
from m3tl_cli.data.columns import Columns, read_tables, words
from m3tl_cli.data.splits import check_fractions, split_groups, split_samples
from m3tl_cli.data.store import Array, Column, Store, StorePool

READER = 1  # of the store's content: another number wherever the same files would give other numbers
EVERYTHING = "all"  # the one domain of data that names none
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

Unit = TypeVar("Unit", int, str)


class Table(Data):
    """Read rows of numbers and words from .csv, .mat or .npz files, with as many modalities and tasks as they have columns for.

    Names of columns are those of the file; of several files, `<file's stem>.<column>`; of arrays see `data/columns.py`. A column of words
    in a modality becomes an indicator (0 or 1) per word. Every column is standardised by mean and deviation over the training rows of
    the source, of all tasks together; a missing cell stays NaN, which encoders of tables know. A row that lacks all columns of a modality
    lacks the modality.

    What a task is follows from its labels: words and whole numbers are classes, other numbers a regression; `kinds` overrules that.

    With `task_index` the rows belong to like tasks, one for each value of that column, called `<task>_<value>`: each row is labelled for
    one of them. They share classes, or mean and deviation of the labels, so that one model could serve all of them (`sharing=pooled`).
    The splits are then drawn within each of them.

    Args:
        files: One or more.
        key: Column by which rows of several files belong together; None: line i belongs to line i.
        modalities: Columns by modality; patterns allowed, `*` is every column that has no other use. No column is in two.
        tasks: Column by task.
        kinds: `binary`, `multiclass` or `regression` by task, where its labels do not say it. Of the two values of a binary task the
            one that sorts last is yes.
        task_index: Column that says which of the like tasks a row belongs to; None: every task is labelled wherever its column is.
        domain: Column whose values are the domains; None: one domain, `all`.
        source_domains: Domains on which tasks are learnt; None: all that no other block names.
        validation_domains: Domains on which choices about adaptation are made.
        target_domains: Domains on which adaptation is judged.
        groups: Column of which no value may be in two splits (a patient, a class of a school); None: rows are split one by one.
        stratify: Column whose values every split gets evenly; None: chance decides. Not together with groups.
        fractions: Shares of train, val and test within every domain and like task; above 0, summing to 1.
        train_rows: Rows of every like task (without a `task_index`: of every domain) that training gets, at least 1; the others go to
            test. Validation keeps its share, and more rows hold the fewer. None: its whole share.
        num_folds: Cross-validation: test is one of so many parts, at least 2, and train and val share the rest as their fractions say.
            None: test has its share.
        fold: Which part is test, from 0; not read without `num_folds`.
        seed: Of the splits.

    Raises:
        ConfigError: The numbers do not fit, or two ways of splitting exclude one another.
    """

    def __init__(
        self,
        *,
        files: list[str],
        key: str | None,
        modalities: dict[str, list[str]],
        tasks: dict[str, str],
        kinds: dict[str, Literal["binary", "multiclass", "regression"]],
        task_index: str | None,
        domain: str | None,
        source_domains: list[str] | None,
        validation_domains: list[str],
        target_domains: list[str],
        groups: str | None,
        stratify: str | None,
        fractions: dict[str, float],
        train_rows: Annotated[int, Ge(1)] | None,
        num_folds: Annotated[int, Ge(2)] | None,
        fold: Annotated[int, Ge(0)],
        seed: int,
    ) -> None:
        self._files = [Path(f).expanduser() for f in files]
        self._key, self._index, self._domain, self._groups, self._stratify = key, task_index, domain, groups, stratify
        self._patterns = {str(m): [str(p) for p in patterns] for m, patterns in modalities.items()}
        self._labels = {str(t): str(c) for t, c in tasks.items()}
        self._kinds = {str(t): str(k) for t, k in kinds.items()}
        self._asked: dict[Block, Sequence[str] | None] = {
            "pretrain": (),
            "source": None if source_domains is None else tuple(map(str, source_domains)),
            "validation": tuple(map(str, validation_domains)),
            "target": tuple(map(str, target_domains)),
        }
        self._fractions = {str(k): float(v) for k, v in fractions.items()}
        self._train_rows, self._num_folds, self._fold, self._seed = train_rows, num_folds, fold, seed
        check_fractions(self._fractions)
        for name, found in (("files", self._files), ("modalities", self._patterns), ("tasks", self._labels)):
            if not found:
                raise ConfigError(f"`{name}` must name one at least; found none.", place=f"data.{name}")
        for task, kind in self._kinds.items():
            if task not in self._labels or kind not in ("binary", "multiclass", "regression"):
                raise ConfigError(
                    f"`kinds` must give tasks ({', '.join(self._labels)}) binary, multiclass or regression; found {task}: {kind}.",
                    place="data.kinds",
                )
        if num_folds is not None and fold >= num_folds:
            raise ConfigError(f"`fold` must be below `num_folds` = {num_folds}; found {fold}.", place="data.fold")
        ways = {"groups": groups, "stratify": stratify, "train_rows": train_rows, "num_folds": num_folds}
        for first, second in (("groups", "stratify"), ("train_rows", "groups"), ("train_rows", "num_folds")):
            if ways[first] is not None and ways[second] is not None:
                raise ConfigError(
                    f"`{first}` must be null where `{second}` is not; found {ways[first]}.",
                    hint=f"data.{first}=null",
                    place=f"data.{first}",
                )
        self._store: Store | None = None
        self._statistics: dict[TaskName, Task] = {}

    def prepare(self, progress: Progress = quiet, *, pretrain: bool = False) -> bool:  # noqa: ARG002 (there is no such block)
        """Split and standardise, unless the store is there; True where it had to be made.

        Raises:
            DataError: A file is absent or damaged, or a part of the rows is too small to be split.
        """
        rows = self._rows
        train = torch.cat([self._splits[name]["train"] for name in rows.blocks["source"]])
        key = Store.key(
            reader=READER,
            files=[[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in self._files],
            joined=self._key,
            columns=rows.columns,
            train=train.tolist(),
        )

        def fill(arrays: Mapping[str, Array]) -> None:
            for i, (modality, x) in enumerate(rows.inputs.items()):
                progress("standardising", i, len(rows.inputs))
                arrays[f"input.{modality}"][:] = _standardised(x, train.numpy())
            progress("standardising", len(rows.inputs), len(rows.inputs))

        store, made = Store.create(
            cache_folder() / "store" / key,
            rows=len(rows.domain),
            columns={f"input.{m}": Column("float32", (x.shape[1],)) for m, x in rows.inputs.items()},
            fill=fill,
        )
        # Like tasks read one and the same array, which is small beside the inputs: it stays in memory.
        self._store = Store(
            folder=store.folder, columns={**store.columns, **{f"target.{t}": rows.targets[k] for t, k in rows.labels.items()}}
        )
        self._statistics = self._with_statistics(train)
        return made

    @property
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        """Tables, in config order; reads the files."""
        return {m: ModalityInfo(m, "table", channels=x.shape[1]) for m, x in self._rows.inputs.items()}

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Every task; reads the files."""
        return self._statistics or self._rows.tasks

    @property
    def domains(self) -> Sequence[str]:
        """Domains, in the order of their names."""
        return self._rows.domains

    @property
    def blocks(self) -> Mapping[Block, tuple[str, ...]]:
        """Domains of every block; none for pretraining."""
        return self._rows.blocks

    def pool(self, split: SplitName, at: Block = "source") -> StorePool:
        """Rows of a split of a block's domains; `Batch.index` counts the lines of the first file.

        Raises:
            DataError: `prepare` was not called, or there are no such domains.
        """
        rows = self._rows
        if not rows.blocks[at]:
            hint = "a table has no rows to pretrain on" if at == "pretrain" else f"data.{at}_domains=[{rows.domains[-1]}]"
            raise DataError(f"the data must have {at} domains to be read there; found none.", hint=hint, place="data")
        if self._store is None:
            raise DataError("the table must be prepared before it is read; found that it is not.", hint="m3tl data prepare")
        index = torch.cat([self._splits[name][split] for name in rows.blocks[at]])
        return StorePool(
            store=self._store,
            rows=index,
            modalities=self.modalities,
            domain=rows.domain[index],
            labelled={t: known[index] for t, known in rows.labelled.items()},
            present={m: torch.from_numpy(~np.isnan(x).all(1))[index] for m, x in rows.inputs.items()},
        )

    @cached_property
    def _rows(self) -> _Rows:
        columns = read_tables(self._files, self._key)
        used = [*self._labels.values(), *(c for c in (self._index, self._domain, self._groups, self._stratify, self._key) if c)]
        for where, name in {
            **{f"tasks.{t}": c for t, c in self._labels.items()},
            "task_index": self._index,
            "domain": self._domain,
            "groups": self._groups,
            "stratify": self._stratify,
        }.items():
            if name is not None and name not in columns:
                raise ConfigError(f"`{where}` must be a column ({_some(columns)}); found {name!r}.", place=f"data.{where}")
        chosen = _chosen(columns, self._patterns, used)
        lengths = {c: len(columns[c]) for c in [*(c for names in chosen.values() for c in names), *used]}
        if len(set(lengths.values())) > 1:
            odd = {length: name for name, length in lengths.items()}
            raise DataError(
                f"columns in use must be of one length; found {', '.join(f'{n}: {k}' for k, n in odd.items())}.", place="data.files"
            )
        size = next(iter(lengths.values()))
        place = [EVERYTHING] * size if self._domain is None else _named(columns, self._domain)
        domains = tuple(_in_order(place))
        blocks = _assigned(self._asked, domains)
        domain = torch.tensor([domains.index(d) for d in place])
        belongs = [""] * size if self._index is None else _named(columns, self._index)
        tasks: dict[TaskName, Task] = {}
        targets: dict[str, Array] = {}
        labels: dict[TaskName, str] = {}
        labelled: dict[TaskName, Tensor] = {}
        of = np.array(belongs)
        for name, column in self._labels.items():
            task, target, known = _labelled(name, self._kinds.get(name), columns, column)
            for value in _in_order(belongs):
                own = f"{name}_{re.sub(r'[^0-9A-Za-z]+', '_', value)}" if self._index is not None else name
                if own in tasks:
                    raise DataError(f"tasks must differ in their names; found `{own}` twice.", place=f"data.{self._index}")
                here = torch.from_numpy(known & (of == value))
                there = {domains[i] for i in domain[here].unique().tolist()}
                at = tuple(b for b in BLOCKS if there & set(blocks[b]))
                tasks[own], labels[own], labelled[own] = replace(task, name=own, at=at), name, here
            targets[name] = target
        inputs = {m: np.concatenate([_numbers(columns[c]) for c in names], axis=1) for m, names in chosen.items()}
        groups = None if self._groups is None else _named(columns, self._groups)
        strata = None if self._stratify is None else _named(columns, self._stratify)
        return _Rows(chosen, inputs, domains, domain, blocks, tasks, labels, targets, labelled, belongs, groups, strata)

    @cached_property
    def _splits(self) -> dict[str, dict[SplitName, Tensor]]:
        """Rows of every split, by domain."""
        found = {}
        for number, name in enumerate(self._rows.domains):
            here = (self._rows.domain == number).nonzero()[:, 0].tolist()
            try:
                parts = self._split(here)
            except DataError as error:
                where = self._index or self._stratify or "the table"
                raise DataError(f"{error.message} Each value of {where} is split by itself.", hint=error.hint, place="data") from None
            found[name] = {split: torch.tensor(sorted(parts[split]), dtype=torch.int64) for split in SPLITS}
        return found

    def _split(self, here: Sequence[int]) -> dict[SplitName, list[int]]:
        """Split the rows of one domain."""
        rows = self._rows
        parts: dict[SplitName, list[int]] = {split: [] for split in SPLITS}
        fractions = self._fractions
        if self._num_folds is not None:
            parts["test"] = self._fold_of(here, self._num_folds)
            test = set(parts["test"])
            here = [row for row in here if row not in test]
            learning = fractions["train"] + fractions["val"]
            fractions = {split: fractions[split] / learning for split in ("train", "val")}
        if rows.groups is not None:
            groups = rows.groups
            for split, found in split_groups([groups[row] for row in here], fractions, self._seed).items():
                parts[split] += [here[i] for i in found.tolist()]  # type: ignore[index]
            return parts
        if self._train_rows is not None:
            for like in self._strata(here, stratified=False):
                for split, taken in self._few(like, self._train_rows).items():
                    parts[split] += taken
            return parts
        for stratum in self._strata(here):
            for split, found in split_samples(stratum, fractions, self._seed).items():
                parts[split] += [stratum[i] for i in found.tolist()]  # type: ignore[index]
        return parts

    def _strata(self, here: Sequence[int], *, stratified: bool = True) -> list[list[int]]:
        """Rows of one like task, and where `stratified` of one value of `stratify`, which every split gets evenly."""
        rows = self._rows
        strata_of = rows.strata if stratified else None
        strata: dict[Hashable, list[int]] = {}
        for row in here:
            strata.setdefault((rows.belongs[row], strata_of[row] if strata_of is not None else ""), []).append(row)
        return list(strata.values())

    def _few(self, like: Sequence[int], number: int) -> dict[SplitName, list[int]]:
        """`number` rows for training, of any number the first, and the last for validation, whatever the number is."""
        # Any stretch of this order has of every stratum its share, to a row: the k-th of m stands at (k + .5) / m.
        place = {row: (k + 0.5) / len(rows) for rows in self._strata(like) for k, row in enumerate(self._hashed(rows))}
        hashed = {row: k for k, row in enumerate(self._hashed(like))}
        order = sorted(like, key=lambda row: (place[row], hashed[row]))
        val = max(1, round(self._fractions["val"] * len(order)))
        if len(order) < val + number + 1:
            name = self._rows.belongs[like[0]] or "the table"
            raise DataError(
                f"`train_rows` must leave a row for test beside {val} for validation; found {number} for the {len(order)} rows of {name}.",
                hint=f"data.train_rows={max(1, len(order) - val - 1)}",
            )
        return {"train": order[:number], "test": order[number : len(order) - val], "val": order[len(order) - val :]}

    def _fold_of(self, here: Sequence[int], num_folds: int) -> list[int]:
        """Every `num_folds`-th row, or group of rows, of an order in which what is alike stands together."""
        groups = self._rows.groups
        if groups is None:
            order = [row for stratum in self._strata(here) for row in self._hashed(stratum)]
            return order[self._fold :: num_folds]
        chosen = set(self._hashed(sorted({groups[row] for row in here}))[self._fold :: num_folds])
        return [row for row in here if groups[row] in chosen]

    def _hashed(self, values: Sequence[Unit]) -> list[Unit]:
        """In an order that does not follow where they stand."""
        return sorted(values, key=lambda value: stable_seed(self._seed, "order", value))

    def _with_statistics(self, train: Tensor) -> dict[TaskName, Task]:
        """Tasks with mean and deviation of the labels of these rows, over all like tasks."""
        rows, found = self._rows, {}
        for name, task in rows.tasks.items():
            if task.kind == "regression":
                values = rows.targets[rows.labels[name]][train.numpy(), 0].astype(np.float64)
                values = values[~np.isnan(values)]
                mean, std = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
                task = replace(task, mean=(mean,), std=(std or 1.0,))
            found[name] = task
        return found


@dataclass(frozen=True)
class _Rows:
    """What the files say.

    Args:
        columns: Names by modality. inputs: [N, C] float64 by modality, not yet standardised.
        domains: Names. domain: [N] index into them. blocks: Domains of every block.
        tasks: By name. labels: Key of `targets` by task, one for all like tasks. labelled: [N] bool by task.
        targets: [N] int64 class, -1 for none, or [N, 1] float32, NaN for none.
        belongs: [N] value of the task index. groups, strata: [N] values, or None.
    """

    columns: dict[Modality, list[str]]
    inputs: dict[Modality, Array]
    domains: tuple[str, ...]
    domain: Tensor
    blocks: dict[Block, tuple[str, ...]]
    tasks: dict[TaskName, Task]
    labels: dict[TaskName, str]
    targets: dict[str, Array]
    labelled: dict[TaskName, Tensor]
    belongs: list[str]
    groups: list[str] | None
    strata: list[str] | None


def _chosen(columns: Columns, patterns: Mapping[Modality, Sequence[str]], used: Sequence[str]) -> dict[Modality, list[str]]:
    """Names of every modality's columns; those with another use are its own only where it names them in full."""
    chosen: dict[Modality, list[str]] = {}
    for modality, wanted in patterns.items():
        found: list[str] = []
        for pattern in wanted:
            matched = [pattern] if pattern in columns else [c for c in columns if c not in used and fnmatchcase(c, pattern)]
            if not matched:
                raise ConfigError(
                    f"`modalities.{modality}` must name columns ({_some(columns)}); found {pattern!r}, which matches none.",
                    place=f"data.modalities.{modality}",
                )
            found += [c for c in matched if c not in found]
        chosen[modality] = found
    every = [c for names in chosen.values() for c in names]
    twice = next((c for c in every if every.count(c) > 1), None)
    if twice is not None:
        raise ConfigError(f"`modalities` must share no column; found `{twice}` in two.", place="data.modalities")
    return chosen


def _labelled(name: TaskName, kind: str | None, columns: Columns, column: str) -> tuple[Task, Array, Array]:
    """A task, its targets, and where they are known."""
    values = columns[column]
    if kind is None:
        whole = values.dtype == object or all(float(v).is_integer() for v in values[~np.isnan(values)])
        kind = "multiclass" if whole else "regression"
    if kind == "regression":
        if values.dtype == object:
            word = next(v for v in values if v is not None)
            raise DataError(f"`{column}` must hold numbers to be a regression; found {word!r}.", place=f"data.kinds.{name}")
        return Task(name, kind, num_outputs=1, dense=False), values.astype(np.float32)[:, None], ~np.isnan(values)
    labels = words(values)
    classes = tuple(_in_order([v for v in labels if v is not None]))
    if len(classes) < 2 or (kind == "binary" and len(classes) > 2):
        raise DataError(
            f"task `{name}` must have two classes{'' if kind == 'binary' else ' or more'}; found {_some(classes)}.",
            hint=f"+data.kinds.{name}=regression, or another column",
            place=f"data.tasks.{name}",
        )
    number = {label: i for i, label in enumerate(classes)}
    target = np.array([-1 if v is None else number[v] for v in labels])
    return Task(name, kind, num_outputs=1 if kind == "binary" else len(classes), dense=False, classes=classes), target, target >= 0


def _numbers(column: Array) -> Array:
    """[N, 1] numbers; of words [N, W], an indicator per word, NaN where missing."""
    if column.dtype != object:
        return column[:, None]
    found = _in_order([v for v in column if v is not None])
    return np.array([[np.nan if v is None else float(v == word) for word in found] for v in column])


def _standardised(x: Array, train: Array) -> Array:
    """Columns with mean 0 and deviation 1 over the rows `train`; a column that is constant there is only centred."""
    known = ~np.isnan(x[train])
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, x[train], 0.0).sum(0) / count
    deviation = np.sqrt(np.square(np.where(known, x[train] - mean, 0.0)).sum(0) / count)
    return (x - mean) / np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)


def _named(columns: Columns, name: str) -> list[str]:
    values = words(columns[name])
    if None in values:
        line = values.index(None)
        raise DataError(f"`{name}` must have a value in every row; found none in row {line}.", place=f"data.{name}")
    return [v for v in values if v is not None]


def _assigned(asked: Mapping[Block, Sequence[str] | None], known: Sequence[str]) -> dict[Block, tuple[str, ...]]:
    """Domains of every block, in the order of their names."""
    named = [d for domains in asked.values() for d in domains or ()]
    for block, domains in asked.items():
        for d in domains or ():
            if d not in known:
                raise ConfigError(
                    f"`{block}_domains` must be among the domains ({_some(known)}); found {d!r}.", place=f"data.{block}_domains"
                )
            if named.count(d) > 1:
                raise ConfigError(
                    f"`{block}_domains` must be apart from those of other blocks; found {d} twice.", place=f"data.{block}_domains"
                )
    blocks = {b: tuple(d for d in known if (d not in named if domains is None else d in domains)) for b, domains in asked.items()}
    if not blocks["source"]:
        raise ConfigError("`source_domains` must name a domain; found none.", hint="data.source_domains=null", place="data.source_domains")
    return blocks


def _some(names: Sequence[str] | Columns) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "") or "none"


def _in_order(values: Sequence[str]) -> list[str]:
    """Every value once: whole numbers by size, before words by spelling."""
    return sorted(set(values), key=lambda v: (0, int(v), v) if re.fullmatch(r"-?[0-9]+", v) else (1, 0, v))
