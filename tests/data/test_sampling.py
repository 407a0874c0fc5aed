"""Frame selection against the protocol's test vectors and against the reference's own samplers.

`golden/sampling.json` was made by running the reference's `extract_ssim_stage1` (OpenCV 4.13, scikit-image
0.26), `MGSampler` and `UniformSampler` on `golden/sampling.mp4` and on seeded random differences.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lary_policy.data.larybench.sampling import (
    frame_differences,
    is_short,
    motion_indices,
    pad_indices,
    select_frames,
    similarity,
    small_grey,
    uniform_indices,
)
from lary_policy.errors import DatasetError, ShapeError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "sampling.json").read_text())


def test_vectors_of_the_protocol():
    assert motion_indices(np.random.default_rng(0).random(40) * 0.1, 9) == [3, 7, 11, 16, 22, 26, 29, 34, 38]
    assert uniform_indices(18, 9) == list(range(0, 17, 2))
    assert uniform_indices(7, 9) == [0, 0, 1, 2, 3, 3, 4, 5, 6]
    assert pad_indices(uniform_indices(7, 9), 9) == (0, 1, 2, 3, 4, 5, 6, 6, 6)
    assert motion_indices(np.zeros(30), 9) == [1] * 9
    spike = np.zeros(30)
    spike[10] = 0.4
    assert set(motion_indices(spike, 9)) == {1, 11}
    assert pad_indices(motion_indices(spike, 9), 9) == (1, *[11] * 8)
    negative = np.full(30, 0.1)
    negative[4] = -1e-16
    assert motion_indices(negative, 9) == [1] * 9


def test_random_differences_give_the_references_indices(golden):
    for case in golden["motion"]:
        assert motion_indices(case["differences"], case["num_frames"]) == case["motion"]
    for case in golden["uniform"]:
        assert uniform_indices(case["frames"], case["num_frames"]) == case["uniform"]


def test_a_video_gives_the_references_differences_and_indices(golden):
    expected = golden["clips"]["sampling.mp4"]
    found = frame_differences(GOLDEN / "sampling.mp4")
    np.testing.assert_allclose(found, expected["differences"], rtol=0, atol=1e-12)
    assert motion_indices(found, 9) == expected["motion"]


def test_similarity_of_an_image_with_itself_is_one_and_falls_with_noise():
    rng = np.random.default_rng(0)
    image = small_grey(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    assert image.shape == (224, 224)
    assert similarity(image, image) == pytest.approx(1, abs=1e-12)
    noisy = [np.clip(image + rng.normal(0, s, image.shape), 0, 255) for s in (5, 20, 60)]
    scores = [similarity(image, n) for n in noisy]
    assert 1 > scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize(("frames", "short"), [(0, True), (18, True), (19, False)])
def test_short_videos(frames, short):
    assert is_short(frames) is short


def test_native_names_why_frames_are_spaced_evenly():
    still = select_frames(np.zeros(39), 40)
    assert still.method == "uniform_static"
    assert still.indices == tuple(sorted(uniform_indices(40, 9)))
    for bad in (np.nan, np.inf, -1e-9):
        differences = np.full(39, 0.1)
        differences[3] = bad
        assert select_frames(differences, 40).method == "uniform_invalid"
    assert select_frames(None, 12).method == "uniform_short"
    assert select_frames(np.full(39, 0.1), 40).method == "motion"


def test_lary_lets_them_collapse_as_the_reference():
    assert select_frames(np.zeros(39), 40, protocol="lary").indices == (1,) * 9
    assert select_frames(np.zeros(39), 40, protocol="lary").method == "motion"


def test_a_single_frame_is_refused_and_lengths_must_fit():
    for frames in (0, 1):
        with pytest.raises(DatasetError, match="more than the first frame"):
            select_frames(None, frames)
    with pytest.raises(ShapeError, match="39 differences of 40 frames"):
        select_frames(np.zeros(38), 40)


@given(st.lists(st.floats(1e-6, 1.0), min_size=18, max_size=200), st.integers(2, 16))
def test_indices_are_inside_the_clip_and_never_frame_0(differences, num_frames):
    chosen = select_frames(differences, len(differences) + 1, num_frames=num_frames)
    assert chosen.method == "motion"
    assert len(chosen.indices) == num_frames
    assert list(chosen.indices) == sorted(chosen.indices)
    assert 1 <= chosen.indices[0] <= chosen.indices[-1] <= len(differences)


@given(st.integers(1, 400), st.integers(1, 20))
def test_uniform_indices_stay_inside(frames, num_frames):
    indices = uniform_indices(frames, num_frames)
    assert indices == sorted(indices)
    assert 0 == indices[0] <= indices[-1] < frames
