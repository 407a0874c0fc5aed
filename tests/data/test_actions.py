"""Reading of .npy files without unpickling: every layout that numpy writes, and every kind of damage."""

import numpy as np
import pytest

from lary_policy.data.arrays import PlainChunks, read_chunk, read_steps
from lary_policy.errors import DatasetError

VALUES = np.random.default_rng(0).normal(size=(5, 7))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_layout_equals_numpys_own_reading(tmp_path, dtype, order, version):
    path = tmp_path / "a.npy"
    array = np.asarray(VALUES * 9).astype(dtype, order=order)
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    expected = np.load(path).astype(np.float32)
    np.testing.assert_array_equal(read_chunk(path, 5, 7), expected)
    np.testing.assert_array_equal(read_steps(path, 7), np.load(path).astype(np.float64))
    assert read_chunk(path, 5, 7).flags.writeable


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: whole[:-1], "bytes of data"),
        (lambda whole: whole[:40], "got "),
        (lambda whole: whole[:7], "no .npy file"),
        (lambda whole: b"", "no .npy file"),
        (lambda whole: whole.replace(b"'<f4'", b"'|O8'"), "dtype object"),
        (lambda whole: whole.replace(b"(5, 7)", b"(9, 7)"), "bytes of data"),
        (lambda whole: whole.replace(b"(5, 7)", b"(-1,7)"), "got "),
        (lambda whole: whole + b"x" * 10**6, "of at most"),
    ],
)
def test_damage_is_named(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    np.save(path, VALUES.astype(np.float32))
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"a numeric \.npy array") as raised:
        read_chunk(path, 5, 7)
    assert reason in str(raised.value)


def test_sizes_and_values_are_checked(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 7), np.float32))
    with pytest.raises(DatasetError, match="5 x 7 = 35"):
        read_chunk(path, 5, 7)
    assert read_steps(path, 7).shape == (4, 7)
    with pytest.raises(DatasetError, match="multiple of 5"):
        read_steps(path, 5)
    np.save(path, np.zeros((0, 7), np.float32))
    with pytest.raises(DatasetError, match="multiple of 7"):
        read_steps(path, 7)


@pytest.mark.parametrize("shape", [(7, 5), (1, 7, 5), (7, 5, 1), (5, 7, 1), (35,), (1, 35), (5, 1, 7)])
def test_rows_that_are_no_actions_are_refused(tmp_path, shape):
    """Seven rows of five numbers are no five actions of seven; flat they may be."""
    path = tmp_path / "a.npy"
    np.save(path, VALUES.astype(np.float32).reshape(shape))
    rows = [side for side in shape if side != 1]
    if rows == [7, 5]:
        assert PlainChunks(5, 7).read(str(path)) is None
        for read in (lambda: read_chunk(path, 5, 7), lambda: read_steps(path, 7)):
            with pytest.raises(DatasetError, match=r"shape \("):
                read()
    else:
        np.testing.assert_array_equal(read_chunk(path, 5, 7), VALUES.astype(np.float32).reshape(5, 7))
