"""A folder of short recordings whose names say what they are, as log-mel spectrograms."""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt
from scipy.io import wavfile
from torch import Tensor

from m3tl_cli.core.contracts import Modality, ModalityInfo, Progress, Task, TaskName, quiet
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.folders import cache_folder
from m3tl_cli.data.base import BLOCKS, Block, Data, SplitName
from m3tl_cli.data.log_mel import Samples, log_mel, mel_filters
from m3tl_cli.data.splits import check_fractions, split_samples
from m3tl_cli.data.store import Array, Column, Store, StorePool

READER = 1  # of the store's content: another number wherever the same clips would give other spectrograms
MODALITY = "audio"
EVERYTHING = "all"  # the one domain of data that names none
TOLD_EVERY = 50  # clips, about 50 ms


class AudioClips(Data):
    """Turn every .wav below a folder into a log-mel spectrogram, once, and take its labels from its name.

    `pattern` is matched against the path below the folder, in full; its named groups say what a clip is, and a JSON `table` may say
    more of the values of one group. A clip whose path does not match is left out. Example, the Free Spoken Digit Dataset:
    `0_jackson_12.wav` under the default pattern is digit 0 by jackson, and its speakers.json gives the accent of jackson.

    Modality `audio`: an image [1, num_mels, num_frames] in [0, 1], the lowest frequencies in the last row, silence 0. See `log_mel`.
    Each task is a choice among the values of a group or of a column of the table; classes are in the order of their values. A task that
    is constant within every domain, such as the speaker where speakers are the domains, could be told from the domain alone: it is
    labelled at the source only, and its classes are those of the source.

    Args:
        folder: Where the clips are.
        pattern: Regular expression of Python with named groups.
        table: JSON file below the folder, {value of `table_key`: {column: value}}; None: there is none.
        table_key: Group whose values the table's rows are about; not read without a table.
        tasks: Group or column by task.
        domain: Group or column whose values are the domains; None: one domain, `all`.
        source_domains: Domains on which tasks are learnt; None: all that no other block names.
        validation_domains: Domains on which choices about adaptation are made.
        target_domains: Domains on which adaptation is judged.
        sample_rate: Hz; clips of another rate are resampled.
        num_mels: Bands, from 0 Hz to half the sample rate.
        num_frames: Frames of a spectrogram; shorter clips are padded with silence and longer ones cut, evenly at both ends.
        hop: Milliseconds from one frame to the next. window: of a frame.
        min_decibels: Level that becomes 0, relative to full scale. max_decibels: that which becomes 1.
        fractions: Shares of train, val and test within every domain; above 0, summing to 1.
        seed: Of the splits.

    Raises:
        ConfigError: The pattern cannot be read, or the numbers do not fit.
    """

    def __init__(
        self,
        *,
        folder: str,
        pattern: str,
        table: str | None,
        table_key: str,
        tasks: dict[str, str],
        domain: str | None,
        source_domains: list[str] | None,
        validation_domains: list[str],
        target_domains: list[str],
        sample_rate: Annotated[int, Ge(100)],
        num_mels: Annotated[int, Ge(1)],
        num_frames: Annotated[int, Ge(1)],
        hop: Annotated[float, Gt(0)],
        window: Annotated[float, Gt(0)],
        min_decibels: float,
        max_decibels: float,
        fractions: dict[str, float],
        seed: int,
    ) -> None:
        self._folder = Path(folder).expanduser()
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"`pattern` must be a regular expression of Python; found {pattern!r}: {error}.", place="data.pattern"
            ) from None
        self._table, self._table_key = table, table_key
        self._groups = {str(name): str(group) for name, group in tasks.items()}
        self._domain_group = domain
        self._asked: dict[Block, Sequence[str] | None] = {
            "pretrain": (),
            "source": None if source_domains is None else tuple(map(str, source_domains)),
            "validation": tuple(map(str, validation_domains)),
            "target": tuple(map(str, target_domains)),
        }
        self._fractions, self._seed = {str(k): float(v) for k, v in fractions.items()}, seed
        check_fractions(self._fractions)
        if not self._groups:
            raise ConfigError("`tasks` must name a task; found none.", hint="data.tasks={digit: digit}", place="data.tasks")
        if max_decibels <= min_decibels:
            raise ConfigError(
                f"`max_decibels` must be above `min_decibels` = {min_decibels:g}; found {max_decibels:g}.", place="data.max_decibels"
            )
        self._sample_rate, self._num_frames, self._decibels = sample_rate, num_frames, (float(min_decibels), float(max_decibels))
        self._hop, self._window = (max(1, round(sample_rate * ms / 1000)) for ms in (hop, window))
        # Twice as fine as the window resolves, so that the narrow bands at the bottom hold a frequency each.
        num_fft = 2 ** ((2 * self._window - 1).bit_length())
        self._filters = mel_filters(num_mels=num_mels, num_fft=num_fft, sample_rate=sample_rate)
        empty = int((self._filters.max(axis=1) == 0).sum())
        if empty:
            raise ConfigError(
                f"`num_mels` must be so small that every band holds one of {num_fft // 2 + 1} frequencies; found {num_mels}, of which "
                f"{empty} would be empty.",
                hint="fewer data.num_mels, or a longer data.window",
                place="data.num_mels",
            )
        self._modalities = {MODALITY: ModalityInfo(MODALITY, "image", channels=1, size=(num_mels, num_frames))}
        self._store: Store | None = None

    def prepare(self, progress: Progress = quiet, *, pretrain: bool = False) -> bool:  # noqa: ARG002 (there is no such block)
        """Read the clips and make their spectrograms unless the store is there; True where it had to be made.

        Raises:
            DataError: The folder is absent or holds no clip that fits, or a clip cannot be read.
        """
        clips = self._clips
        stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (self._folder / name for name in clips.names)]
        key = Store.key(
            reader=READER,
            clips=[*zip(clips.names, stamps, strict=True)],
            sample_rate=self._sample_rate,
            size=self._modalities[MODALITY].size,
            hop=self._hop,
            window=self._window,
            decibels=self._decibels,
        )
        store, made = Store.create(
            cache_folder() / "store" / key,
            rows=len(clips.names),
            columns={f"input.{MODALITY}": Column("float32", (1, *self._modalities[MODALITY].size))},
            fill=lambda arrays: self._fill(arrays, progress),
        )
        # Labels are read from the names each time, so that another task or domain leaves the store as it is.
        targets = {f"target.{name}": clips.targets[name].numpy() for name in self._groups}
        self._store = Store(folder=store.folder, columns={**store.columns, **targets})
        return made

    @property
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        """`audio`."""
        return self._modalities

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Every task, with its classes; reads the names of the clips, and none of them."""
        return self._clips.tasks

    @property
    def domains(self) -> Sequence[str]:
        """Domains in use, in the order of their names."""
        return self._clips.domains

    @property
    def blocks(self) -> Mapping[Block, tuple[str, ...]]:
        """Domains of every block; none for pretraining."""
        return self._clips.blocks

    @property
    def names(self) -> Sequence[str]:
        """Path of every clip below the folder; `Batch.index` counts them."""
        return self._clips.names

    def pool(self, split: SplitName, at: Block = "source") -> StorePool:
        """Clips of a split of a block's domains; each domain is split by itself.

        Raises:
            DataError: `prepare` was not called, or there are no such domains.
        """
        clips = self._clips
        if not clips.blocks[at]:
            hint = "such data has no clips to pretrain on" if at == "pretrain" else f"data.{at}_domains=[{clips.domains[-1]}]"
            raise DataError(f"the data must have {at} domains to be read there; found none.", hint=hint, place="data")
        if self._store is None:
            raise DataError("the clips must be prepared before they are read; found that they are not.", hint="m3tl data prepare")
        parts = []
        for name in clips.blocks[at]:
            here = (clips.domain == clips.domains.index(name)).nonzero()[:, 0]
            parts.append(here[split_samples([clips.names[i] for i in here.tolist()], self._fractions, self._seed)[split]])
        rows = torch.cat(parts)
        return StorePool(
            store=self._store,
            rows=rows,
            modalities=self._modalities,
            domain=clips.domain[rows],
            labelled={name: clips.targets[name][rows] >= 0 for name in self._groups},
            present={MODALITY: torch.ones(len(rows), dtype=torch.bool)},
        )

    @cached_property
    def _clips(self) -> _Clips:
        names, values = self._listed()
        for key, group in {**{f"tasks.{t}": g for t, g in self._groups.items()}, "domain": self._domain_group}.items():
            if group is not None and group not in values[0]:
                raise ConfigError(
                    f"`{key}` must be a group of the pattern or a column of the table ({', '.join(values[0])}); found {group!r}.",
                    place=f"data.{key}",
                )
        place = [EVERYTHING if self._domain_group is None else value[self._domain_group] for value in values]
        blocks = self._assigned(tuple(_in_order(place)))
        used = {d for block in blocks.values() for d in block}
        kept = [i for i, d in enumerate(place) if d in used]
        names, values, place = ([column[i] for i in kept] for column in (names, values, place))  # type: ignore[assignment]
        domains = tuple(_in_order(place))
        tasks, targets = {}, {}
        for task, group in self._groups.items():
            labels = [value[group] for value in values]
            constant = len(domains) > 1 and len(set(zip(place, labels, strict=True))) == len(domains)
            known = {label for label, d in zip(labels, place, strict=True) if d in blocks["source"] or not constant}
            classes = tuple(_in_order(known))
            if len(classes) < 2:
                raise DataError(
                    f"task `{task}` must have two classes or more; found {', '.join(classes)} only.",
                    hint=f"+data.tasks.{task}=another group, or more domains at the source",
                    place=f"data.tasks.{task}",
                )
            at = tuple(b for b in BLOCKS if blocks[b] and (b == "source" or not constant))
            tasks[task] = Task(task, "multiclass", num_outputs=len(classes), dense=False, classes=classes, at=at)
            number = {label: i for i, label in enumerate(classes)}
            targets[task] = torch.tensor(
                [number[label] if d in blocks["source"] or not constant else -1 for label, d in zip(labels, place, strict=True)]
            )
        return _Clips(tuple(names), domains, torch.tensor([domains.index(d) for d in place]), blocks, tasks, targets)

    def _listed(self) -> tuple[list[str], list[dict[str, str]]]:
        """Path below the folder, and values of groups and columns, of every clip that matches."""
        if not self._folder.is_dir():
            raise DataError(
                f"`folder` must be a folder of .wav files; found none at {self._folder}.",
                hint="data.folder=path/to/clips",
                place="data.folder",
            )
        table = self._read_table()
        every = sorted(p.relative_to(self._folder).as_posix() for p in self._folder.rglob("*") if p.suffix.lower() == ".wav")
        names, values = [], []
        for name in every:
            match = self._pattern.fullmatch(name)
            if match is None:
                continue
            value = {group: text for group, text in match.groupdict().items() if text is not None}
            if table:
                row = table.get(value.get(self._table_key, ""))
                if row is None:
                    raise DataError(
                        f"`{self._table}` must have a row for `{self._table_key}` of every clip; found none for {name}.",
                        hint="complete the table, or data.table=null",
                        place="data.table",
                    )
                value |= {column: str(entry) for column, entry in row.items()}
            names.append(name)
            values.append(value)
        if not names:
            example = f", such as {every[0]}" if every else ""
            raise DataError(
                f"`pattern` must match the path of a clip below {self._folder}; found none among {len(every)} .wav files{example}.",
                hint="data.pattern='.*(?P<label>[a-z]+)_(?P<speaker>[a-z]+).wav'",
                place="data.pattern",
            )
        return names, values

    def _read_table(self) -> dict[str, dict[str, object]]:
        if self._table is None:
            return {}
        path = self._folder / self._table
        try:
            table = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"`table` must be a JSON file; found {error}.", hint="data.table=null", place=str(path)) from None
        if not isinstance(table, dict) or not table or not all(isinstance(row, dict) for row in table.values()):
            raise DataError("`table` must be {value: {column: value}}; found something else.", hint="data.table=null", place=str(path))
        return table

    def _assigned(self, known: Sequence[str]) -> dict[Block, tuple[str, ...]]:
        """Domains of every block, in the order of their names."""
        named = [d for domains in self._asked.values() for d in domains or ()]
        for block, domains in self._asked.items():
            for d in domains or ():
                if d not in known:
                    raise ConfigError(
                        f"`{block}_domains` must be among the domains ({', '.join(known)}); found {d!r}.", place=f"data.{block}_domains"
                    )
                if named.count(d) > 1:
                    raise ConfigError(
                        f"`{block}_domains` must be apart from those of other blocks; found {d} twice.", place=f"data.{block}_domains"
                    )
        blocks = {b: tuple(d for d in known if (d not in named if domains is None else d in domains)) for b, domains in self._asked.items()}
        if not blocks["source"]:
            raise ConfigError(
                "`source_domains` must name a domain; found none.",
                hint="fewer target and validation domains" if self._asked["source"] is None else "data.source_domains=null",
                place="data.source_domains",
            )
        return blocks

    def _fill(self, arrays: Mapping[str, Array], progress: Progress) -> None:
        column, names = arrays[f"input.{MODALITY}"], self._clips.names
        for i, name in enumerate(names):
            if i % TOLD_EVERY == 0:
                progress("reading clips", i, len(names))
            column[i, 0] = log_mel(
                read_wav(self._folder / name, self._sample_rate),
                filters=self._filters,
                num_frames=self._num_frames,
                hop=self._hop,
                window=self._window,
                decibels=self._decibels,
            )
        progress("reading clips", len(names), len(names))


@dataclass(frozen=True)
class _Clips:
    """What the names of the clips say.

    Args:
        names: Path of each clip below the folder, of the domains in use.
        domains: Names. domain: [N] index into them.
        blocks: Domains of every block.
        tasks: By name. targets: [N] int64 class per task, -1 where there is no label.
    """

    names: tuple[str, ...]
    domains: tuple[str, ...]
    domain: Tensor
    blocks: dict[Block, tuple[str, ...]]
    tasks: dict[TaskName, Task]
    targets: dict[TaskName, Tensor]


def read_wav(path: Path, sample_rate: int) -> Samples:
    """Samples [N] of a PCM or float .wav file in [-1, 1], its channels averaged, at a sample rate.

    Args:
        path: The file.
        sample_rate: Hz; another rate of the file is converted by polyphase filtering.

    Raises:
        DataError: The file is no .wav, is empty, or is compressed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks about title and artist
            rate, values = wavfile.read(path)
    except (OSError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"a clip must be a PCM .wav file; found {error}.", hint="convert it, or take it away", place=str(path)) from None
    if not len(values):
        raise DataError("a clip must hold a sample; found none.", hint="take it away", place=str(path))
    samples = values.astype(np.float64)
    if values.dtype == np.uint8:
        samples = (samples - 128) / 128
    elif values.dtype.kind == "i":
        samples /= 2.0 ** (8 * values.dtype.itemsize - 1)
    if samples.ndim > 1:
        samples = samples.mean(axis=1)
    if rate != sample_rate:
        from scipy.signal import resample_poly  # half a second to import, which only other rates cost

        common = gcd(rate, sample_rate)
        samples = resample_poly(samples, sample_rate // common, rate // common)
    return samples


def _in_order(values: Sequence[str] | set[str]) -> list[str]:
    """Every value once: whole numbers by size, before words by spelling."""
    return sorted(set(values), key=lambda v: (0, int(v), v) if v.isascii() and v.isdigit() else (1, 0, v))
