"""Clips that the test writes, and the spoken digits where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.io import wavfile

from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.data.audio_clips import AudioClips, read_wav

SMALL: dict[str, Any] = {
    "pattern": r"(?P<word>\w+)-(?P<who>[a-z]+)-\d+\.wav",
    "table": None,
    "table_key": "who",
    "tasks": {"word": "word", "who": "who"},
    "domain": "who",
    "source_domains": None,
    "validation_domains": ["cid"],
    "target_domains": ["dora"],
    "sample_rate": 8000,
    "num_mels": 16,
    "num_frames": 10,
    "hop": 10.0,
    "window": 25.0,
    "min_decibels": -80.0,
    "max_decibels": 0.0,
    "fractions": {"train": 0.6, "val": 0.2, "test": 0.2},
    "seed": 0,
}
WHO = ("anna", "bert", "cid", "dora")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of each speaker: words 2, 10 and the rest by turns, told apart by their pitch."""
    folder = tmp_path_factory.mktemp("clips")
    for w, who in enumerate(WHO):
        for i in range(10):
            word = ("2", "10")[i % 2]
            tone = np.sin(2 * np.pi * (500 + 1500 * (i % 2) + 50 * w) * np.arange(1000) / 8000)
            wavfile.write(folder / f"{word}-{who}-{i}.wav", 8000, (tone * 20000).astype(np.int16))
    (folder / "notes.wav").write_bytes(b"its name does not match, so nobody reads it")
    (folder / "about.json").write_text(json.dumps({who: {"town": "Ulm" if who in ("anna", "dora") else "Bari"} for who in WHO}))
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path_factory.getbasetemp() / "audio-cache"))


def _data(at: Path, **changed: Any) -> AudioClips:
    data = AudioClips(**{**SMALL, "folder": str(at), **changed})
    data.prepare()
    return data


def test_names_give_tasks_domains_and_blocks_before_anything_is_read(clips: Path) -> None:
    data = AudioClips(**{**SMALL, "folder": str(clips)})
    assert data.domains == WHO
    assert data.blocks == {"pretrain": (), "source": ("anna", "bert"), "validation": ("cid",), "target": ("dora",)}
    word, who = data.tasks["word"], data.tasks["who"]
    assert word.classes == ("2", "10")
    assert word.at == ("source", "validation", "target")
    assert who.classes == ("anna", "bert")  # constant within a domain: none of the target's classes can be learnt
    assert who.at == ("source",)
    assert data.modalities["audio"].size == (16, 10)
    assert data.modalities["audio"].channels == 1
    assert data.pretrain_tasks == ()


def test_splits_are_whole_disjoint_and_of_every_domain(clips: Path) -> None:
    data = _data(clips)
    rows = []
    for at, count in (("source", 2), ("validation", 1), ("target", 1)):
        for split, size in zip(SPLITS, (6, 2, 2), strict=True):
            pool = data.pool(split, at)  # type: ignore[arg-type]
            assert torch.bincount(pool.domain, minlength=4)[pool.domain.unique()].tolist() == [size] * count
            rows.append(pool.rows)
    assert sorted(torch.cat(rows).tolist()) == list(range(40))


def test_a_batch_holds_what_the_names_say(clips: Path) -> None:
    data = _data(clips)
    pool = data.pool("train")
    batch = pool.read(torch.arange(len(pool)))
    assert batch.inputs["audio"].shape == (12, 1, 16, 10)
    assert batch.inputs["audio"].dtype == torch.float32
    assert 0 <= batch.inputs["audio"].min() < batch.inputs["audio"].max() <= 1
    names = [data.names[i] for i in batch.index]
    assert [data.tasks["word"].classes[i] for i in batch.targets["word"]] == [name.split("-")[0] for name in names]
    assert [data.tasks["who"].classes[i] for i in batch.targets["who"]] == [name.split("-")[1] for name in names]
    loudest = batch.inputs["audio"][:, 0].mean(2).argmax(1)
    assert loudest[batch.targets["word"] == 0].min() > loudest[batch.targets["word"] == 1].max()  # the lower pitch is further down
    target = data.pool("test", "target").read(torch.arange(2))
    assert target.labelled["word"].all()
    assert not target.labelled["who"].any()
    assert target.domain.tolist() == [3, 3]


def test_episodes_of_the_target_hold_every_word(clips: Path) -> None:
    data = _data(clips)
    episodes = data.episodes("target", [data.tasks["word"]], num_shots=2, num_query=2, number=3, per_class=True, seed=1)
    for episode in episodes:
        assert sorted(episode.support[0].batch.targets["word"].tolist()) == [0, 0, 1, 1]
        assert not set(episode.support[0].batch.index.tolist()) & set(episode.query[0].batch.index.tolist())


def test_a_table_adds_columns_and_other_tasks_leave_the_store_as_it_is(clips: Path) -> None:
    first = _data(clips, num_mels=12)
    other = AudioClips(
        **{**SMALL, "folder": str(clips), "num_mels": 12, "table": "about.json", "tasks": {"town": "town"}, "domain": None}
        | {"validation_domains": [], "target_domains": []}
    )
    assert not other.prepare()
    assert other.domains == ("all",)
    assert other.tasks["town"].classes == ("Bari", "Ulm")
    assert other.tasks["town"].at == ("source",)
    rows = torch.cat([other.pool(split).rows for split in SPLITS])  # type: ignore[arg-type]
    assert len(rows) == len(first.names) == 40


def test_it_is_made_once_and_again_where_a_clip_or_a_number_has_changed(clips: Path, tmp_path: Path) -> None:
    for path in clips.glob("*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data, told = AudioClips(**{**SMALL, "folder": str(tmp_path)}), []
    assert data.prepare(lambda *a: told.append(a))
    assert told == [("reading clips", 0, 40), ("reading clips", 40, 40)]
    assert not AudioClips(**{**SMALL, "folder": str(tmp_path), "seed": 5}).prepare()
    assert AudioClips(**{**SMALL, "folder": str(tmp_path), "hop": 12.0}).prepare()
    wavfile.write(tmp_path / "2-anna-0.wav", 8000, np.zeros(700, dtype=np.int16))
    assert AudioClips(**{**SMALL, "folder": str(tmp_path)}).prepare()


def test_every_format_reads_alike(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)
    formats = {
        "int16": (tone * 2**15).astype(np.int16),
        "int32": (tone * 2**31).astype(np.int32),
        "uint8": (tone * 128 + 128).round().astype(np.uint8),
        "float32": tone.astype(np.float32),
        "stereo": np.stack([tone, np.zeros(4000)], axis=1).astype(np.float32) * 2,
    }
    for name, values in formats.items():
        wavfile.write(tmp_path / f"{name}.wav", 8000, values)
        assert read_wav(tmp_path / f"{name}.wav", 8000) == pytest.approx(tone, abs=0.005), name
    fast = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    wavfile.write(tmp_path / "fast.wav", 16000, fast.astype(np.float32))
    found = read_wav(tmp_path / "fast.wav", 8000)
    assert len(found) == 4000
    assert found[100:-100] == pytest.approx(tone[100:-100], abs=0.005)


def test_a_clip_that_cannot_be_read_is_named(clips: Path, tmp_path: Path) -> None:
    broken = tmp_path / "2-anna-0.wav"
    broken.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"2-anna-0.wav: a clip must be a PCM .wav file"):
        read_wav(broken, 8000)
    wavfile.write(broken, 8000, np.zeros(0, dtype=np.int16))
    with pytest.raises(DataError, match="a clip must hold a sample"):
        read_wav(broken, 8000)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pattern": "(?P<word"}, "`pattern` must be a regular expression"),
        ({"tasks": {}}, "`tasks` must name a task"),
        ({"tasks": {"word": "wrd"}}, r"`tasks.word` must be a group of the pattern .*\(word, who\); found 'wrd'"),
        ({"domain": "town"}, "`domain` must be a group"),
        ({"target_domains": ["doris"]}, r"`target_domains` must be among the domains \(anna, bert, cid, dora\); found 'doris'"),
        ({"target_domains": ["cid"]}, "found cid twice"),
        ({"source_domains": ["dora"]}, "found dora twice"),
        ({"target_domains": ["anna", "bert", "dora"]}, "`source_domains` must name a domain"),
        ({"max_decibels": -80.0}, "`max_decibels` must be above"),
        ({"num_mels": 300}, "`num_mels` must be so small"),
        ({"fractions": {"train": 1.0}}, "`fractions` must name"),
    ],
)
def test_what_cannot_be_is_refused(clips: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = AudioClips(**{**SMALL, "folder": str(clips), **wrong}).tasks


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folder": "/nowhere"}, "`folder` must be a folder of .wav files"),
        ({"pattern": "no"}, r"`pattern` must match the path of a clip.*found none among 41 .wav files, such as 10-anna-1.wav"),
        ({"table": "absent.json"}, "`table` must be a JSON file"),
        (
            {"table": "about.json", "table_key": "word"},
            "`about.json` must have a row for `word` of every clip; found none for 10-anna-1.wav",
        ),
        ({"source_domains": ["anna"], "tasks": {"who": "who"}}, "task `who` must have two classes or more; found anna only"),
    ],
)
def test_data_that_does_not_fit_is_refused(clips: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = AudioClips(**{**SMALL, "folder": str(clips), **wrong}).tasks


def test_blocks_that_are_not_there_are_refused(clips: Path) -> None:
    with pytest.raises(DataError, match="must be prepared"):
        AudioClips(**{**SMALL, "folder": str(clips)}).pool("train")
    with pytest.raises(DataError, match="must have pretrain domains"):
        _data(clips).pool("train", "pretrain")


@pytest.fixture(scope="module")
def digits() -> Path:
    shared = Path(os.environ.get("M3TL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "fsdd"
    if not shared.is_dir():
        pytest.skip(f"the spoken digits are not at {shared}")
    return shared


def _option() -> dict[str, Any]:
    option = yaml.safe_load((Path(__file__).parents[2] / "conf" / "data" / "audio_clips.yaml").read_text())
    kinds = {key.rpartition(".")[2]: kind for d in option.pop("defaults")[:-1] for key, kind in d.items()}
    assert option.pop("_target_") == "m3tl_cli.data.audio_clips.AudioClips"
    assert kinds == dict.fromkeys(option["tasks"], "multiclass")
    return option


def test_the_option_reads_the_spoken_digits_by_their_names(digits: Path) -> None:
    data = AudioClips(**{**_option(), "folder": str(digits), "table": "speakers.json", "tasks": {"digit": "digit", "accent": "accent"}})
    assert len(data.names) == 3000
    assert data.tasks["digit"].classes == tuple("0123456789")
    assert data.tasks["accent"].classes == ("BEL/French", "DEU/German", "USA/neutral")
    assert data.tasks["accent"].at == ("source",)
    assert data.blocks["target"] == ("george",)
    assert len(data.blocks["source"]) == 5


@pytest.mark.slow
def test_a_linear_classifier_of_the_spoken_digits_reaches_what_is_known_of_it(digits: Path) -> None:
    """README of the shared data: digit .930 and speaker .977 on the official split (index 0 to 4 is the test set). With a speaker left
    out, .20 to .87: which speaker is how hard depends on the spectrogram (here nicolas is not, of whom it has .20), but for george and
    lucas, who are among the three hardest there and hardest here."""
    linear = pytest.importorskip("sklearn.linear_model")
    data = _data(digits, **{**_option(), "domain": None, "target_domains": []} | {"folder": str(digits)})
    pools = [data.pool(split) for split in SPLITS]  # type: ignore[arg-type]
    batches = [pool.read(torch.arange(len(pool))) for pool in pools]
    x, digit, speaker, index = (
        torch.cat(parts).numpy()
        for parts in zip(*((b.inputs["audio"].flatten(1), b.targets["digit"], b.targets["speaker"], b.index) for b in batches), strict=True)
    )
    _, _, axes = torch.pca_lowrank(torch.from_numpy(x), q=200, niter=2)
    x = (x @ axes.numpy()).astype(np.float64)  # the same classifier in a tenth of the time
    test = np.array([int(data.names[i].removesuffix(".wav").split("_")[-1]) < 5 for i in index])
    assert test.sum() == 300

    def score(labels: Any, held_out: Any) -> float:
        fitted = linear.LogisticRegression(C=0.1, max_iter=3000).fit(x[~held_out], labels[~held_out])
        return float(fitted.score(x[held_out], labels[held_out]))

    assert score(digit, test) >= 0.93
    assert score(speaker, test) >= 0.97
    left_out = {name: score(digit, speaker == i) for i, name in enumerate(data.tasks["speaker"].classes)}
    assert sorted(sorted(left_out, key=lambda name: left_out[name])[:2]) == ["george", "lucas"], left_out
    assert 0.4 < min(left_out.values()) < max(left_out.values()) < score(digit, test) - 0.05, left_out
