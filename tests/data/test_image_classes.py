"""Classes of images: read once, from anything; held out by class; asked for in episodes. The official runs, to the file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from m3tl_cli.core.contracts import Episode, Task
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.data.base import BLOCKS
from m3tl_cli.data.image_classes import ClassPool, ImageClasses

DOMAINS = {"Greek": 6, "Korean": 8}  # classes
IMAGES = 8  # of a class


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))


def shade(domain: int, label: int, image: int) -> int:
    """The grey value that says which image it is."""
    return 100 * domain + 10 * label + image


def draw(path: Path, value: int, size: tuple[int, int] = (12, 12)) -> None:
    """One value, and a lighter top left quarter by which a rotation shows."""
    pixels = np.full(size, value, dtype=np.uint8)
    pixels[: size[0] // 2, : size[1] // 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for d, (domain, classes) in enumerate(DOMAINS.items()):
        for c in range(classes):
            for i in range(IMAGES):
                draw(root / domain / f"character{c:02d}" / f"{i:02d}.png", shade(d, c, i))
    return root


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, Path(inside) / file.relative_to(folder))
    return path


def classes_of(*folders: Path, **overrides: Any) -> ImageClasses:
    given: dict[str, Any] = {
        "folders": [str(f) for f in folders],
        "target_folders": [],
        "runs": None,
        "size": 12,
        "channels": 1,
        "invert": False,
        "rotations": [0],
        "validation_classes": 0.25,
        "num_ways": 3,
        "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
        "seed": 1,
    }
    return ImageClasses(**(given | overrides))


def prepared(*folders: Path, **overrides: Any) -> ImageClasses:
    data = classes_of(*folders, **overrides)
    data.prepare()
    return data


def everything(pool: ClassPool) -> Tensor:
    return pool.read(torch.arange(len(pool))).inputs["image"]


def corner(images: Tensor) -> Tensor:
    """The value at the bottom right, 0 to 255."""
    return (images[:, 0, -1, -1] * 255).round().long()


def ways(data: ImageClasses, at: Any = "validation", number: int = 5, **asked: Any) -> Sequence[Episode]:
    given = {"num_shots": 1, "num_query": 6, "number": number, "per_class": True, "seed": 1}
    return data.episodes(at, [data.tasks["way"]], **(given | asked))


# Reading


def test_folders_are_domains_and_classes(folder: Path) -> None:
    data = prepared(folder, validation_classes=0.0)
    assert data.domains == ("Greek", "Korean")
    assert data.tasks["character"].classes[:2] == ("Greek/character00", "Greek/character01")
    assert data.tasks["character"].num_outputs == 14
    for split in ("train", "val", "test"):
        pool = data.pool(split)  # type: ignore[arg-type]
        values = corner(everything(pool))
        assert torch.equal(values // 100, pool.domain)
        batch = pool.read(torch.arange(len(pool)))
        assert torch.equal(batch.targets["character"], torch.where(pool.domain == 0, values // 10, 6 + (values - 100) // 10))
        assert torch.equal(batch.targets["character"], pool.classes)


@pytest.mark.parametrize("inside", ["", "top", "a/b"])
def test_a_zip_gives_what_its_folder_gives(folder: Path, tmp_path: Path, inside: str) -> None:
    plain, packed = prepared(folder), prepared(zipped(folder, tmp_path / "packed.zip", inside))
    assert packed.tasks == plain.tasks
    assert packed.domains == plain.domains
    for at in ("source", "validation"):
        assert torch.equal(everything(packed.pool("train", at)).sort(0).values, everything(plain.pool("train", at)).sort(0).values)
    assert not list((tmp_path).glob("packed/*")), "read where it lies"


def test_what_operating_systems_leave_in_a_zip_is_not_read(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder, tmp_path / "packed.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/Greek/character00/._00.png", b"junk")
        archive.writestr("Greek/character00/.hidden.png", b"junk")
        archive.writestr("Greek/character00/notes.txt", b"junk")
    assert len(prepared(path).pool("train")) == len(prepared(folder).pool("train"))


def test_arrays_give_what_they_hold(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8)[:, None, None] * np.ones((1, 12, 12), dtype=np.uint8)
    labels = np.repeat(np.arange(4), 6)
    np.savez(tmp_path / "toys.npz", images=images, labels=labels)
    data = prepared(tmp_path / "toys.npz", validation_classes=0.0)
    assert data.domains == ("toys",)
    assert data.tasks["character"].classes == ("toys/0", "toys/1", "toys/2", "toys/3")
    pool = data.pool("train")
    assert torch.equal(corner(everything(pool)) // 6, pool.classes)
    np.savez(tmp_path / "two.npz", images=images, labels=labels % 2, domains=np.where(labels < 2, "a", "b"))
    data = prepared(tmp_path / "two.npz", validation_classes=0.0)
    assert data.domains == ("a", "b")
    assert data.tasks["character"].num_outputs == 4


def test_a_class_in_two_sources_is_one_class_and_a_file_in_both_one_image(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for i in range(IMAGES):
        draw(other / "Greek" / "character00" / f"{i:02d}.png", shade(0, 0, i))  # the same files
    draw(other / "Greek" / "character00" / "07.png", 99)  # but for this one
    for i in range(IMAGES):
        draw(other / "Latin" / "character00" / f"{i:02d}.png", 200 + i)
    data = prepared(folder, zipped(other, tmp_path / "other.zip"), validation_classes=0.0)
    assert data.domains == ("Greek", "Korean", "Latin")
    assert data.tasks["character"].num_outputs == 14 + 1
    values = torch.cat([corner(everything(data.pool(s))) for s in ("train", "val", "test")])  # type: ignore[arg-type]
    assert sorted(values.tolist()) == sorted(
        [shade(d, c, i) for d, n in enumerate(DOMAINS.values()) for c in range(n) for i in range(IMAGES)] + [99] + [*range(200, 208)]
    )


def test_images_are_resized_inverted_and_scaled(folder: Path) -> None:
    plain, small = prepared(folder), prepared(folder, size=6, invert=True, channels=3)
    assert small.modalities["image"].size == (6, 6)
    assert small.modalities["image"].channels == 3
    a, b = everything(plain.pool("train")), everything(small.pool("train"))
    assert b.shape[1:] == (3, 6, 6)
    assert torch.equal(b[:, 0], b[:, 2])
    assert torch.equal(corner(a), 255 - corner(b))
    assert (b[:, 0, 0, 0] == 0).all()


def test_thin_strokes_are_averaged_and_not_skipped(tmp_path: Path) -> None:
    stroke = np.full((40, 40), 255, dtype=np.uint8)
    stroke[:, 17] = 0
    for c in range(3):
        for i in range(3):
            path = tmp_path / "thin" / "x" / str(c) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stroke).save(path)
    rows = everything(prepared(tmp_path / "thin", size=10, invert=True, validation_classes=0.0).pool("train"))[0, 0]
    assert (rows.sum(1) - 1 / 4).abs().max() < 0.02, "a stroke of one pixel in 40 is a quarter of a pixel in 10"


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    for c in range(3):
        for i in range(3):
            path = tmp_path / "ink" / "x" / str(c) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (12, 12), (0, 0, 0, 0)).save(path)
    assert (everything(prepared(tmp_path / "ink", validation_classes=0.0).pool("train")) == 1).all()


# The store


def test_the_store_is_made_once_and_does_not_depend_on_what_is_held_out(folder: Path) -> None:
    assert classes_of(folder).prepare()
    assert not classes_of(folder).prepare()
    assert not classes_of(folder, validation_classes=0.5, seed=2, num_ways=2).prepare()
    assert classes_of(folder, size=10).prepare()
    assert classes_of(folder, rotations=[0, 90]).prepare()
    draw(folder / "Greek" / "character00" / "00.png", 77)
    assert classes_of(folder).prepare(), "another image"


def test_preparing_says_how_far_it_is(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    classes_of(folder).prepare(lambda *args: told.append(args))
    assert told[0] == ("reading images", 0, 14 * IMAGES)
    assert told[-1] == ("reading images", 14 * IMAGES, 14 * IMAGES)


def test_constructing_reads_nothing(tmp_path: Path) -> None:
    data = classes_of(tmp_path / "nowhere")
    with pytest.raises(DataError, match="found nothing at"):
        data.prepare()


# Blocks


def test_no_class_is_in_two_blocks_and_no_image_in_two_splits(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for c in range(4):
        for i in range(IMAGES):
            draw(target / "Latin" / str(c) / f"{i}.png", shade(2, c, i))
    data = prepared(folder, target_folders=[str(target)])
    assert list(data.blocks) == list(BLOCKS)
    assert data.blocks["pretrain"] == ()
    assert data.blocks["target"] == ("Latin",)
    classes: dict[str, set[int]] = {}
    for at in ("source", "validation", "target"):
        seen = [data.pool(split, at) for split in ("train", "val", "test")]  # type: ignore[arg-type]
        classes[at] = {c for pool in seen for c in pool.classes.tolist()}
        rows = torch.cat([pool.rows for pool in seen])
        assert len(rows.unique()) == len(rows) == IMAGES * len(classes[at])
        assert {data.domains[d] for pool in seen for d in pool.domain.tolist()} == set(data.blocks[at])  # type: ignore[index]
        for pool, share in zip(seen, (4, 2, 2), strict=True):
            assert (pool.count_C[sorted(classes[at])] == share).all()
    assert not classes["source"] & classes["validation"]
    assert not (classes["source"] | classes["validation"]) & classes["target"]
    # A quarter of 6 and of 8, rounded: 2 + 2; 10 are left.
    assert [len(classes[at]) for at in ("source", "validation", "target")] == [10, 4, 4]
    assert classes["source"] == set(range(10)), "labels of `character` have no gap"


def test_held_out_classes_follow_from_seed_and_names_only(folder: Path) -> None:
    def held_out(**overrides: Any) -> set[int]:
        return set((corner(everything(prepared(folder, **overrides).pool("train", "validation"))) // 10).tolist())

    assert held_out() == held_out(size=10, rotations=[0, 180])
    assert any(held_out() != held_out(seed=seed) for seed in (2, 3))


def test_each_rotation_of_a_training_class_is_a_class(folder: Path) -> None:
    plain, data = prepared(folder), prepared(folder, rotations=[0, 90, 180, 270])
    assert data.tasks["character"].num_outputs == 4 * plain.tasks["character"].num_outputs
    pool = data.pool("train")
    images = everything(pool)
    step = plain.tasks["character"].num_outputs
    assert len(pool) == 4 * len(plain.pool("train"))
    for turn in range(4):
        here = images[pool.classes // step == turn]
        assert torch.equal(torch.rot90(here, -turn, (2, 3)), everything(plain.pool("train")))
    assert data.tasks["character"].classes[step] == f"{data.tasks['character'].classes[0]}@90"
    assert torch.equal(everything(data.pool("train", "validation")), everything(plain.pool("train", "validation")))


def test_way_has_labels_in_episodes_only_and_character_at_the_source_only(folder: Path) -> None:
    data = prepared(folder)
    assert data.tasks["way"].at == ("source", "validation")
    assert data.tasks["character"].at == ("source",)
    assert data.pretrain_tasks == ()
    assert list(data.pool("train", "validation").labelled) == []
    pool = data.pool("train")
    assert list(pool.labelled) == ["character"]
    assert pool.labelled["character"].all()
    batch = pool.read(torch.tensor([3, 0]))
    assert list(batch.targets) == list(batch.labelled) == ["character"]
    assert batch.targets["character"].tolist() == pool.classes[[3, 0]].tolist()


# Episodes


def check(episode: Episode, shots: int, query: int, num_ways: int = 3) -> None:
    for parts, each in ((episode.support, shots), (episode.query, query)):
        (part,) = parts
        assert part.tasks == ("way",)
        assert torch.equal(part.batch.targets["way"], torch.arange(num_ways).repeat_interleave(each))
        assert part.batch.labelled["way"].all()
    a, b = episode.support[0].batch, episode.query[0].batch
    assert not torch.isin(a.index, b.index).any()
    kinds = corner(torch.cat((a.inputs["image"], b.inputs["image"]))) // 10
    labels = torch.cat((a.targets["way"], b.targets["way"]))
    assert len(set(zip(kinds.tolist(), labels.tolist(), strict=True))) == num_ways, "one class a label, one label a class"


def test_an_episode_holds_n_classes_of_the_block(folder: Path) -> None:
    data = prepared(folder)
    allowed = set((corner(everything(data.pool("train", "validation"))) // 10).tolist())
    episodes = ways(data, number=20)
    assert len({e.uid for e in episodes}) == 20
    for episode in episodes:
        check(episode, shots=1, query=2)
        assert set((corner(episode.query[0].batch.inputs["image"]) // 10).tolist()) <= allowed
    seen = {int(c) for e in episodes for c in corner(e.support[0].batch.inputs["image"]) // 10}
    assert seen == allowed


def test_at_the_source_support_is_of_the_training_split_and_query_of_the_test_split(folder: Path) -> None:
    data = prepared(folder)
    train, test = data.pool("train").rows, data.pool("test").rows
    for episode in ways(data, "source"):
        check(episode, shots=1, query=2)
        assert torch.isin(episode.support[0].batch.index, train).all()
        assert torch.isin(episode.query[0].batch.index, test).all()


@pytest.mark.parametrize("at", ["source", "validation"])
def test_more_shots_hold_fewer_and_the_query_stays(folder: Path, at: Any) -> None:
    data = prepared(folder)
    for one, three in zip(ways(data, at), ways(data, at, num_shots=3), strict=True):
        check(three, shots=3, query=2)
        assert torch.equal(one.query[0].batch.index, three.query[0].batch.index)
        assert torch.equal(three.support[0].batch.index[::3], one.support[0].batch.index)


def test_an_episode_follows_from_seed_and_number(folder: Path) -> None:
    data = prepared(folder)

    def rows(episodes: Sequence[Episode]) -> list[list[int]]:
        return [e.support[0].batch.index.tolist() for e in episodes]

    assert rows(ways(data, number=3)) == rows(ways(data, number=6))[:3]
    assert rows(ways(data, seed=2)) != rows(ways(data))
    assert rows(ways(data, per_class=False)) == rows(ways(data))


def test_a_query_that_is_too_large_is_cut_to_what_the_classes_have(folder: Path) -> None:
    data = prepared(folder)
    check(ways(data, "source", num_query=300)[0], shots=1, query=2)
    check(ways(data, "validation", num_query=300)[0], shots=1, query=IMAGES // 2)


def test_another_task_is_drawn_as_for_any_data(folder: Path) -> None:
    data = prepared(folder)
    asked: Mapping[str, Any] = {"num_shots": 2, "num_query": 5, "number": 2, "per_class": False, "seed": 1}
    episodes = data.episodes("source", [data.tasks["character"]], **asked)
    assert [len(e.query[0].batch) for e in episodes] == [5, 5]
    with pytest.raises(ConfigError, match="`way` must be the only task"):
        data.episodes("source", list(data.tasks.values()), **asked)


# The official runs


def write_runs(root: Path, pairs: Mapping[str, Sequence[int]]) -> Path:
    """Run by run: the class of each image to classify. Class c of run r is drawn at 50 r + c, its query at 50 r + c + 20."""
    for r, (run, of) in enumerate(pairs.items()):
        lines = []
        for c in range(3):
            draw(root / run / "training" / f"class{c + 1:02d}.png", 50 * r + c)
        for i, c in enumerate(of):
            draw(root / run / "test" / f"item{i + 1:02d}.png", 50 * r + c + 20)
            lines.append(f"{run}/test/item{i + 1:02d}.png {run}/training/class{c + 1:02d}.png\n")
        (root / run / "class_labels.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_the_target_is_the_official_runs_to_the_file(folder: Path, tmp_path: Path, packed: bool) -> None:
    runs = write_runs(tmp_path / "all_runs", {"run01": [2, 0, 1], "run02": [1, 1, 0]})
    data = prepared(folder, runs=str(zipped(runs, tmp_path / "all_runs.zip") if packed else runs), rotations=[0, 90])
    assert data.blocks["target"] == ("run01", "run02")
    assert data.tasks["way"].at == ("source", "validation", "target")
    first, second = ways(data, "target", number=20)
    for r, episode, of in ((0, first, [2, 0, 1]), (1, second, [1, 1, 0])):
        (support,), (query,) = episode.support, episode.query
        assert support.batch.targets["way"].tolist() == [0, 1, 2]
        assert corner(support.batch.inputs["image"]).tolist() == [50 * r, 50 * r + 1, 50 * r + 2]
        assert query.batch.targets["way"].tolist() == of
        assert corner(query.batch.inputs["image"]).tolist() == [50 * r + c + 20 for c in of]
        assert {data.domains[d] for d in query.batch.domain.tolist()} == {f"run0{r + 1}"}
    assert len(ways(data, "target", number=1)) == 1
    pool = data.pool("test", "target")
    assert list(pool.labelled) == ["way"]
    assert pool.labelled["way"].all()
    assert len(data.pool("val", "target")) == 0
    source = {c for s in ("train", "val", "test") for c in data.pool(s).classes.tolist()}  # type: ignore[arg-type]
    assert not source & set(pool.classes.tolist())


def test_the_runs_have_one_shot_and_their_own_number_of_classes(folder: Path, tmp_path: Path) -> None:
    runs = str(write_runs(tmp_path / "all_runs", {"run01": [2, 0, 1]}))
    with pytest.raises(ConfigError, match=r"`num_shots` must be 1 in the official runs.*found 5"):
        ways(prepared(folder, runs=runs), "target", num_shots=5)
    with pytest.raises(ConfigError, match="3 in run01; found 4"):
        prepared(folder, runs=runs, num_ways=4)


def test_a_table_of_runs_that_names_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "all_runs", {"run01": [2, 0, 1]})
    (runs / "run01" / "training" / "class02.png").unlink()
    with pytest.raises(DataError, match=r"must pair a file to classify.*class02"):
        prepared(folder, runs=str(runs))


# Refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"folders": []}, "must name each source once"),
        ({"folders": ["a", "b"], "target_folders": ["a"]}, "must name each source once"),
        ({"runs": "a", "target_folders": ["b"]}, "must be empty where `runs` are the target"),
        ({"rotations": [90]}, "with 0 among them; found \\[90\\]"),
        ({"rotations": [0, 45]}, "must be of 0, 90, 180 and 270"),
        ({"rotations": [0, 0]}, "each once"),
        ({"fractions": {"train": 1.0}}, "`fractions` must name train, val, test"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_refused(overrides: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classes_of(Path("images"), **overrides)


def test_what_is_no_source_is_refused(tmp_path: Path, folder: Path) -> None:
    def refused(path: Path, message: str, **overrides: Any) -> None:
        with pytest.raises(DataError, match=message):
            prepared(path, **overrides)

    (tmp_path / "text.txt").write_text("no")
    refused(tmp_path / "text.txt", "must be a folder, a .zip or an .npz")
    (tmp_path / "broken.zip").write_bytes(b"no")
    refused(tmp_path / "broken.zip", "must be a whole .zip")
    (tmp_path / "broken.npz").write_bytes(b"no")
    refused(tmp_path / "broken.npz", "must be a whole .npz")
    np.savez(tmp_path / "names.npz", x=np.zeros(3))
    refused(tmp_path / "names.npz", "must hold `images` and `labels`; found neither")
    np.savez(tmp_path / "floats.npz", images=np.zeros((3, 8, 8)), labels=np.zeros(3))
    refused(tmp_path / "floats.npz", "must be uint8")
    np.savez(tmp_path / "short.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.zeros(2))
    refused(tmp_path / "short.npz", "`labels` must be one for each of 3 images")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "must hold images")
    draw(tmp_path / "flat" / "0.png", 0)
    refused(tmp_path / "flat", "must lie in a folder that is named after its class")
    draw(tmp_path / "few" / "a" / "0.png", 0)
    draw(tmp_path / "few" / "b" / "0.png", 0)
    refused(tmp_path / "few", "must have at least 3 images.*found 1 in few/a", num_ways=2, validation_classes=0.0)
    refused(folder, "found 99 for 10", num_ways=99)
    (folder / "Greek" / "character00" / "00.png").write_bytes(b"no")
    refused(folder, "`Greek/character00/00.png` must be an image")
    Image.fromarray(np.full((12, 12), 9, dtype=np.uint16)).save(folder / "Greek" / "character00" / "00.png")
    refused(folder, "must have 8 bits a channel")


def test_a_class_of_the_target_must_not_be_one_of_the_source(folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / "target" / "Greek" / "character03" / f"{i}.png", i)
        draw(tmp_path / "target" / "Latin" / "a" / f"{i}.png", i)
    with pytest.raises(DataError, match="found Greek/character03 in both"):
        prepared(folder, target_folders=[str(tmp_path / "target")])


def test_nothing_is_read_before_it_is_prepared_or_where_there_is_none(folder: Path) -> None:
    data = classes_of(folder)
    with pytest.raises(DataError, match="must be prepared"):
        data.pool("train")
    data.prepare()
    with pytest.raises(DataError, match="the block `target` must have classes; found none"):
        ways(data, "target")
    with pytest.raises(DataError, match="`num_ways` must be at most the classes of block `validation` with 7 images"):
        ways(data, num_shots=7)


def test_its_task_is_one_that_the_program_can_hold(folder: Path) -> None:
    task = prepared(folder).tasks["way"]
    assert task == Task("way", "multiclass", 3, dense=False, classes=("way_1", "way_2", "way_3"), at=("source", "validation"))
    assert Task.from_json(task.to_json()) == task


# Real input


@pytest.fixture
def omniglot(shared_data: Path) -> Path:
    if not (shared_data / "omniglot").is_dir():
        pytest.skip(f"no Omniglot at {shared_data / 'omniglot'}")
    return shared_data / "omniglot"


def test_omniglot_is_242_characters_of_8_alphabets_and_20_runs(omniglot: Path) -> None:
    backgrounds = [omniglot / f"images_background_small{n}.zip" for n in (1, 2)]
    data = prepared(*backgrounds, runs=str(omniglot / "all_runs.zip"), num_ways=20, size=28, invert=True, validation_classes=0.15)
    assert len(data.domains) == 8 + 20
    classes = {at: {c for s in ("train", "val", "test") for c in data.pool(s, at).classes.tolist()} for at in ("source", "validation")}  # type: ignore[arg-type]
    assert len(classes["source"]) + len(classes["validation"]) == 242
    assert sum(len(data.pool(s, at)) for s in ("train", "val", "test") for at in classes) == 4840  # type: ignore[arg-type]
    episodes = ways(data, "target", number=20)
    assert len(episodes) == 20
    # Pixel distance, the simplest there is: chance is 5 %.
    right = total = 0
    for episode in episodes:
        support, query = episode.support[0].batch, episode.query[0].batch
        assert len(support) == len(query) == 20
        assert sorted(query.targets["way"].tolist()) == list(range(20))
        nearest = torch.cdist(query.inputs["image"].flatten(1), support.inputs["image"].flatten(1)).argmin(1)
        right += int((support.targets["way"][nearest] == query.targets["way"]).sum())
        total += len(query)
    assert total == 400
    assert 0.10 < right / total < 0.35
