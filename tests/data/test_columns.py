"""Files that the test writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from m3tl_cli.core.errors import DataError
from m3tl_cli.data.columns import read_csv, read_mat, read_npz, read_table, read_tables, words


def cells(*arrays: np.ndarray) -> np.ndarray:
    made = np.empty((1, len(arrays)), dtype=object)
    made[0, :] = arrays
    return made


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_column_is_of_numbers_where_every_known_cell_is(tmp_path: Path) -> None:
    found = read_csv(write(tmp_path / "t.csv", '"a",b,c\n1,x,\n2.5,,NA\nnan,"y, z",3\n'))
    assert list(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["a"], [1, 2.5, np.nan])
    assert list(found["b"]) == ["x", None, "y, z"]
    np.testing.assert_array_equal(found["c"], [np.nan, np.nan, 3])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_that_of_the_header(separator: str, tmp_path: Path) -> None:
    found = read_csv(write(tmp_path / "t.csv", f"\ufeffa{separator}b\n1{separator}2\n\n"))
    assert {n: c.tolist() for n, c in found.items()} == {"a": [1.0], "b": [2.0]}


def test_cell_arrays_are_put_below_one_another_and_counted_from_1(tmp_path: Path) -> None:
    savemat(
        tmp_path / "t.mat",
        {"X": cells(np.array([[1, 2], [3, 4]], np.uint8), np.array([[5.5, 6.0]])), "Y": cells(np.array([[0], [1]]), np.array([[1]]))},
    )
    found = read_mat(tmp_path / "t.mat")
    assert {n: c.tolist() for n, c in found.items()} == {
        "cell": [1, 1, 2], "X.0": [1, 3, 5.5], "X.1": [2, 4, 6], "Y": [0, 1, 1],
    }  # fmt: skip


def test_matrices_vectors_and_words_become_columns(tmp_path: Path) -> None:
    savemat(tmp_path / "t.mat", {"m": np.eye(3), "row": np.array([[1.0, 2.0, 3.0]]), "cube": np.zeros((2, 2, 2))})
    found = read_mat(tmp_path / "t.mat")
    assert list(found) == ["m.0", "m.1", "m.2", "row"]
    assert found["row"].tolist() == [1, 2, 3]
    np.savez(tmp_path / "t.npz", x=np.arange(4).reshape(2, 2), y=np.array([True, False]), w=np.array(["a", ""]), image=np.zeros((2, 3, 3)))
    arrays = read_npz(tmp_path / "t.npz")
    assert list(arrays) == ["x.0", "x.1", "y", "w"]
    assert arrays["y"].tolist() == [1, 0]
    assert list(arrays["w"]) == ["a", None]


def test_files_are_joined_line_by_line_under_their_names(tmp_path: Path) -> None:
    paths = [write(tmp_path / "genes.csv", "0,1\n1,2\n3,4\n"), write(tmp_path / "diet.csv", "diet\nfish\nsun\n")]
    found = read_tables(paths, None)
    assert list(found) == ["genes.0", "genes.1", "diet.diet"]
    write(tmp_path / "diet.csv", "diet\nfish\n")
    with pytest.raises(DataError, match=r"as many lines each.*'genes': 2, 'diet': 1"):
        read_tables(paths, None)


def test_a_key_finds_the_lines_that_belong_together(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "id,x,w\n7,1,p\n8,2,q\n9,3,r\n")
    second = write(tmp_path / "b.csv", "y,id,v\n30,9,k\n10,7,\n")
    found = read_tables([first, second], "id")
    assert list(found) == ["id", "a.x", "a.w", "b.y", "b.v"]
    assert found["a.x"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found["b.y"], [10, np.nan, 30])
    assert list(found["b.v"]) == [None, None, "k"]
    write(tmp_path / "b.csv", "y,id\n1,7\n2,7\n")
    with pytest.raises(DataError, match=r"another value in every line.*b\.csv"):
        read_tables([first, second], "id")
    with pytest.raises(DataError, match=r"found no `nr` in a\.csv"):
        read_tables([first, second], "nr")


def test_words_are_whole_numbers_without_a_point() -> None:
    assert words(np.array([1.0, 2.5, np.nan])) == ["1", "2.5", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,a\n1,2\n", "`a` twice"),
        ("t.csv", b"a,b\n1,2\n3\n", "2 cells; found 1 in line 3"),
        ("t.csv", b"a,b\n", "hold a row"),
        ("t.csv", b"", "hold a row"),
        ("t.csv", b"\xff\xfe\xfa", "UTF-8"),
        ("t.mat", b"not a matrix", "version 5 to 7"),
        ("t.npz", b"not a zip", "arrays of numbers or words"),
        ("t.xlsx", b"", r"found t\.xlsx"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


def test_an_absent_file_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must exist"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="differ in their names"):
        read_tables([write(tmp_path / "t.csv", "a\n1\n"), write(tmp_path / "sub" / "t.csv", "a\n1\n")], None)
