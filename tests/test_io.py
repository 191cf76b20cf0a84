"""Tables survive the way to disk and back, errors name file and column, and nothing is ever half-written."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hamflow.errors import InputError
from hamflow.io import atomic_path, check_table_path, read_table, write_table

TABLE = np.random.default_rng(0).normal(size=(7, 3)) * 10.0 ** np.arange(-8, 10, 6)
NAMES = ["a", "b c", "d"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".npz", ".parquet", ".CSV"])
def test_round_trip(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, TABLE, NAMES)
    table, names = read_table(path)
    assert names == NAMES
    assert table.dtype == np.float64
    assert table.flags.writeable
    np.testing.assert_allclose(table, TABLE, rtol=1e-15)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_npy_gives_names_of_its_own(tmp_path: Path) -> None:
    write_table(tmp_path / "table.npy", TABLE.astype(np.float32), NAMES)
    table, names = read_table(tmp_path / "table.npy")
    assert names == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(table, TABLE.astype(np.float32))


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("1,2\n3,4\n", ["x0", "x1"], [1, 2]),
        ("a,b\n1,2\n", ["a", "b"], [1, 2]),
        ("a;b\n1;2\n", ["a", "b"], [1, 2]),
        ("1,5;2,5\n3,0;4,0\n", ["x0", "x1"], [1.5, 2.5]),
        ("a\tb\n1\t2\n", ["a", "b"], [1, 2]),
        ("1 2  3\n4 5  6\n", ["x0", "x1", "x2"], [1, 2, 3]),
        ("height in m\n1.5\n", ["height in m"], [1.5]),
        ("1.5\n2.5\n", ["x0"], [1.5]),
        ('"a, in m",b\n1,2\n', ["a, in m", "b"], [1, 2]),
        ("\ufeffa,b\r\n1,2\r\n", ["a", "b"], [1, 2]),
        ("\n\na, b\n 1, -2e-3\n\n", ["a", "b"], [1, -2e-3]),
    ],
)
def test_text_of_many_kinds(text: str, names: list[str], first: list[float], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table, found = read_table(path)
    assert found == names
    np.testing.assert_array_equal(table[0], first)


def test_columns_are_picked_in_order(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("kind,a,b\nx,1,2\ny,3,4\n")
    table, names = read_table(path, ["b", "a"])
    np.testing.assert_array_equal(table, [[2, 1], [4, 3]])
    assert names == ["b", "a"]


def test_a_file_without_names_takes_those_given(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    np.save(path, TABLE)
    table, names = read_table(path, NAMES)
    assert names == NAMES
    np.testing.assert_array_equal(table, TABLE)
    np.testing.assert_array_equal(read_table(path, ["x2"])[0], TABLE[:, 2:])


def test_npz_with_several_arrays_needs_a_key(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, train=TABLE, test=2 * TABLE)
    with pytest.raises(InputError, match="train, test"):
        read_table(path)
    with pytest.raises(InputError, match="key = 'other'"):
        read_table(path, key="other")
    np.testing.assert_array_equal(read_table(path, key="test")[0], 2 * TABLE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "0 rows"),
        ("a,b\n1,2\n3,red\n", "column 'b' holds text or dates .'red' in row 1"),
        ("a,b\n1,2\n,4\n", "column 'a' has 1 missing or infinite entries, the first in row 1"),
        ("1,2\n3,inf\n", "column 'x1' has 1 missing or infinite"),
        ("1,,3\n4,5,6\n", "column 'x1' has 1 missing"),
        ("a,b\n1,2\n3", "column 'b' has 1 missing"),
        ("a,b\n1,2\n3,4,5\n", "as many cells in every row"),
        ("a,b\n1,2,3\n4,5,6\n", "as many cells in every row"),
        (",a,b\n0,1,2\n1,3,4\n", "column 0 has no name"),
        ("a,b\n2020-01-01,2\n", "column 'a' holds text or dates"),
    ],
)
def test_bad_text(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".csv.gz"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_truncated_file(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, np.random.default_rng(1).normal(size=(500, 3)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="is not a whole") as caught:
        read_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet", ".csv.gz"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02\xff" * 50])
def test_empty_file_and_junk(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is empty|is not a whole"):
        read_table(path)


@pytest.mark.parametrize(("shape", "hint"), [((3,), "a single column has shape"), ((2, 3, 1, 4, 4), "--model hgn")])
def test_an_array_of_another_rank_gets_a_hint(shape: tuple[int, ...], hint: str, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(shape))
    with pytest.raises(InputError, match=hint):
        read_table(tmp_path / "array.npy")


def test_missing_folder_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(InputError, match=r"suffix '\.xlsx', expected one of \.csv"):
        check_table_path(tmp_path / "table.xlsx")
    with pytest.raises(InputError, match="no column 'z'"):
        write_table(tmp_path / "t.csv", TABLE, NAMES)
        read_table(tmp_path / "t.csv", ["a", "z"])
    with pytest.raises(InputError, match="columns is empty"):
        read_table(tmp_path / "t.csv", [])
    with pytest.raises(InputError, match="is no NPZ file"):
        read_table(tmp_path / "t.csv", key="x")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npy"
    np.save(path, np.array([[1, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="arrays of objects are not read"):
        read_table(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\), expected \(n, dim\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array([["a"]]), "expected real numbers"),
        (np.zeros((3, 1), complex), "expected real numbers"),
        (np.zeros((0, 2)), "0 rows"),
    ],
)
def test_bad_arrays(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "bad.npy")


def test_text_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).to_parquet(path)
    with pytest.raises(InputError, match="column 'b' holds text"):
        read_table(path)
    assert read_table(path, ["a"])[0].shape == (2, 1)


def test_write_checks_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 names, expected 3"):
        write_table(tmp_path / "t.csv", TABLE, ["a", "b"])
    with pytest.raises(InputError, match=r"shape \(7,\)"):
        write_table(tmp_path / "t.csv", TABLE[:, 0])
    with pytest.raises(InputError, match="suffix"):
        write_table(tmp_path / "t.doc", TABLE)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


def test_atomic_path_makes_folders_and_names_obstacles(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "folder" / "file.gz") as temporary:
        assert temporary.suffix == ".gz"
        temporary.write_bytes(gzip.compress(b"x"))
    assert (tmp_path / "new" / "folder" / "file.gz").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "file" / "below.txt"):
        pass
    with pytest.raises(InputError, match="is a folder"), atomic_path(tmp_path / "new"):
        pass


def test_numbers_that_may_be_names(tmp_path: Path) -> None:
    path = tmp_path / "years.csv"
    path.write_text("2019,2020,2021\n0.5,1,-2\n1.5,2.5,3\n")
    with pytest.raises(InputError, match=r"first line \(2019, 2020, 2021, ...\) may be names or numbers"):
        read_table(path)
    named, names = read_table(path, header=True)
    assert names == ["2019", "2020", "2021"]
    assert named.shape == (2, 3)
    assert read_table(path, header=False)[0].shape == (3, 3)
    # Whoever knows the names needs no hint.
    np.testing.assert_array_equal(read_table(path, ["2021", "2019"])[0], named[:, [2, 0]])
    path.write_text("1,2,3\n4,5,6\n")
    assert read_table(path)[0].shape == (2, 3)
