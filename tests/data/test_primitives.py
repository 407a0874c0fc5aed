import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lary_policy.data.atomic import CLOSE, DIRECTIONS, OPEN, PRIMITIVES, derive_primitives
from lary_policy.errors import ShapeError

# Class list of LARYBench's LIBERO set, protocol section 1.6.
LIBERO = {
    "Open", "Close", "Forward", "Backward", "Left", "Right", "Up", "Down",
    "Forward_Up", "Forward_Down", "Backward_Up", "Backward_Down", "Forward_Left", "Forward_Right",
    "Backward_Left", "Backward_Right", "Left_Up", "Left_Down", "Right_Up", "Right_Down",
    "Forward_Left_Up", "Forward_Left_Down", "Forward_Right_Up", "Forward_Right_Down",
    "Backward_Left_Up", "Backward_Left_Down", "Backward_Right_Up", "Backward_Right_Down",
}  # fmt: skip
OPPOSITE = {"Forward": "Backward", "Left": "Right", "Up": "Down"} | {
    "Backward": "Forward",
    "Right": "Left",
    "Down": "Up",
}


def one(x, y, z, gripper=0.0, **options):
    return derive_primitives(torch.tensor([[x, y, z]]), torch.tensor([gripper]), **options)[0]


def test_the_names_are_those_of_the_benchmark():
    assert set(PRIMITIVES) == LIBERO
    assert len(PRIMITIVES) == 28
    assert len(DIRECTIONS) == 26


@pytest.mark.parametrize(
    ("displacement", "label"),
    [
        ((0.02, 0.02, 0.02), "Forward_Left_Up"),
        ((-0.02, -0.02, -0.02), "Backward_Right_Down"),
        ((0.0, 0.0, 0.5), "Up"),
        ((0.009, -0.011, 0.0), "Right"),
        ((0.01, 0.0, -0.0099), "Forward"),
        ((0.009, 0.009, -0.009), ""),
    ],
)
def test_axes_count_from_the_threshold_on(displacement, label):
    assert one(*displacement, threshold_m=0.01) == label


def test_gripper_wins_and_needs_its_own_threshold():
    assert one(0.05, 0, 0, gripper=1.0) == OPEN
    assert one(0.05, 0, 0, gripper=-1.0) == CLOSE
    assert one(0.05, 0, 0, gripper=-0.2) == "Forward"
    assert one(0, 0, 0, gripper=-0.2, gripper_threshold=0.1) == CLOSE


lengths = st.floats(-0.125, 0.125, allow_nan=False, width=32)


@given(st.tuples(lengths, lengths, lengths))
def test_the_mirrored_motion_has_the_opposite_label(displacement):
    forward, back = one(*displacement), one(*(-v for v in displacement))
    assert back == "_".join(OPPOSITE[word] for word in forward.split("_") if word)
    assert forward == "" or forward in DIRECTIONS


@given(st.tuples(lengths, lengths, lengths), st.sampled_from([2**-9, 2**-7, 2**-5]))
def test_each_word_stands_for_an_axis_beyond_the_threshold(displacement, threshold):
    words = [w for w in one(*displacement, threshold_m=threshold).split("_") if w]
    moved = torch.tensor(displacement).abs() >= threshold
    assert len(words) == int(moved.sum())


@pytest.mark.parametrize(
    ("displacement", "gripper", "threshold"),
    [
        (torch.zeros(2, 3), torch.zeros(3), 0.01),
        (torch.zeros(2, 2), torch.zeros(2), 0.01),
        (torch.full((2, 3), float("nan")), torch.zeros(2), 0.01),
        (torch.zeros(2, 3), torch.zeros(2), 0.0),
    ],
)
def test_bad_input_is_a_shape_error(displacement, gripper, threshold):
    with pytest.raises(ShapeError):
        derive_primitives(displacement, gripper, threshold_m=threshold)
