"""Atomic primitives: cumulative displacement, labels, twins and splits, on every source of trajectories."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from larybench_files import make_agibotbeta, make_calvin, make_clips, make_robocoin

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.data.atomic import PRIMITIVES, AtomicConfig, atomic_pairs, chains, mirrored, opposite
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.registry import open_source
from lary_policy.data.splits import split_of
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError

ARM7 = load_embodiment("arm7")
STRIDE = 5


def table_of(poses, *, episode="0"):
    """Make a table of chained pairs out of one pose `[7]` a step; anchors are measured."""
    poses = torch.as_tensor(poses, dtype=torch.float32)
    frames = [Path(f"/images/ep_{episode}/frame_{i:06d}.png") for i in range(len(poses))]
    steps = range(0, len(poses) - STRIDE, STRIDE)
    rows = [
        PairRow(i, episode, s, s + STRIDE, (frames[s],), (frames[s + STRIDE],), Path(f"{s}.npy"), "", 0)
        for i, s in enumerate(steps)
    ]
    actions = torch.stack([poses[s + 1 : s + STRIDE + 1] for s in steps])
    anchors = torch.stack([poses[s] for s in steps])
    return PairTable(tuple(rows), ("main",), (), Path("x.csv"), True, False, actions, actions, anchors)


def straight(steps, per_step, gripper=None):
    poses = torch.zeros(steps + 1, 7)
    poses[:, :3] = torch.arange(steps + 1).unsqueeze(1) * torch.tensor(per_step)
    if gripper is not None:
        poses[:, 6] = torch.tensor(gripper, dtype=torch.float32).repeat_interleave(STRIDE + 1)[: steps + 1]
    return table_of(poses)


def spans(table):
    return [(r.src_step, r.tgt_step, r.label) for r in table.rows]


def test_every_chunk_is_a_segment_unless_displacement_is_cumulated():
    table = straight(20, (0.004, 0, 0.001))  # 2 cm forward and 0.5 cm up a chunk
    config = AtomicConfig(threshold_m=0.01, twins=False)
    assert spans(atomic_pairs(table, ARM7, config)) == [(s, s + 5, "Forward") for s in (0, 5, 10, 15)]
    far = replace(config, segment_m=0.04)
    assert spans(atomic_pairs(table, ARM7, far)) == [(0, 10, "Forward_Up"), (10, 20, "Forward_Up")]
    assert spans(atomic_pairs(table, ARM7, replace(far, segment_m=0.06))) == [(0, 15, "Forward_Up")]


def test_directions_are_those_of_the_robot():
    poses = torch.zeros(21, 4)
    poses[:, :3] = torch.arange(21).unsqueeze(1) * torch.tensor((0.004, -0.004, 0.004))
    config, sawyer = AtomicConfig(twins=False), load_embodiment("sawyer4")
    words = {"+x": "Forward_Right_Up", "-x": "Backward_Left_Up", "+y": "Backward_Right_Up"}
    for axis, word in {**words, "-y": "Forward_Left_Up"}.items():
        table = atomic_pairs(table_of(poses), replace(sawyer, forward=axis), config)
        assert table.labels() == (word,) * 4
    assert (sawyer.forward, ARM7.forward) == ("+y", "+x")
    with pytest.raises(UnknownNameError, match="axis that a robot faces"):
        replace(sawyer, forward="x")


def test_an_effort_of_a_gripper_closes_nothing_by_itself():
    """MetaWorld's experts command an effort of 0, an opening of 0.5, from the first step: nothing moves."""
    poses = torch.zeros(26, 4)
    poses[:, 1] = torch.arange(26) * 0.004
    table = table_of(poses)
    rest = torch.tensor([0.0, 0.0, 0.0, 0.5])
    still = replace(
        table,
        action_values=table.action_values + rest,
        anchor_values=table.anchor_values + torch.tensor([0.0, 0.0, 0.0, 1.0]),
    )
    config, sawyer = AtomicConfig(twins=False), load_embodiment("sawyer4")
    assert atomic_pairs(still, sawyer, config).labels() == ("Forward",) * 5
    assert atomic_pairs(still, replace(sawyer, gripper="opening"), config).labels() == ("Close",) * 5
    closing = still.anchor_values.clone()
    closing[2:, 3] -= torch.tensor([0.2, 0.4, 0.4])  # no command changes; the fingers do
    moved = atomic_pairs(replace(still, anchor_values=closing), sawyer, config)
    assert moved.labels() == ("Forward", "Close", "Close", "Forward", "Forward")


def test_a_gripper_ends_a_segment_and_slow_motions_are_left_out():
    poses = torch.zeros(21, 7)
    poses[8:, 6] = 1.0
    poses[:, 2] = -torch.arange(21) * 0.002
    config = AtomicConfig(segment_m=0.03, twins=False)
    assert spans(atomic_pairs(table_of(poses), ARM7, config)) == [(0, 10, "Open")]
    slow = straight(40, (0.0001, 0, 0))
    with pytest.raises(DatasetError, match="Lower threshold_m"):
        atomic_pairs(slow, ARM7, replace(config, max_chunks=2))


def test_twins_are_the_same_frames_backwards_under_the_opposite_label():
    table = atomic_pairs(straight(20, (0.004, -0.004, 0.004)), ARM7, AtomicConfig())
    assert table.labels() == ("Forward_Right_Up", "Backward_Left_Down") * 4
    for row, twin in zip(table.rows[::2], table.rows[1::2], strict=True):
        assert (twin.src_frames, twin.tgt_frames) == (row.tgt_frames, row.src_frames)
        assert twin.episode == row.episode
        assert mirrored(twin) == row
    assert table.actions().shape == (8, 0, 0)


def test_opposites_are_an_involution_over_all_primitives():
    for label in (*PRIMITIVES, "", *(f"left_{p}" for p in PRIMITIVES), "right_Open"):
        assert opposite(opposite(label)) == label
        assert label == "" or opposite(label) != label
    assert {opposite(p) for p in PRIMITIVES} == set(PRIMITIVES)
    assert opposite("left_Left") == "left_Right"
    with pytest.raises(UnknownNameError, match="Sideways"):
        opposite("Sideways_Up")


def test_order_of_rows_does_not_matter_and_gaps_end_a_segment():
    table = straight(40, (0.004, 0, 0))
    config = AtomicConfig(segment_m=0.04, twins=False)
    expected = spans(atomic_pairs(table, ARM7, config))
    shuffled = table.select(torch.tensor([3, 7, 0, 5, 1, 6, 2, 4]))
    assert sorted(spans(atomic_pairs(shuffled, ARM7, config))) == expected
    gap = table.select([0, 2, 3])
    assert spans(atomic_pairs(gap, ARM7, config)) == [(10, 20, "Forward")]
    assert sorted(i for chain in chains(shuffled) for i in chain) == list(range(8))


def test_a_loop_of_rows_is_cut_open_once():
    table = straight(10, (0.004, 0, 0))
    first, second = table.rows
    loop = replace(table, rows=(first, replace(second, tgt_frames=first.src_frames)))
    assert list(chains(loop)) == [[0, 1]]


def test_actions_that_are_steps_are_summed_up():
    poses = straight(20, (0.004, 0, 0))
    steps = replace(
        poses,
        action_values=torch.cat([torch.full((4, 5, 1), 0.004), torch.zeros(4, 5, 6)], 2),
        anchor_values=torch.zeros(4, 7),
    )
    config = AtomicConfig(twins=False, delta=True)
    assert atomic_pairs(steps, ARM7, config).labels() == ("Forward",) * 4
    assert (
        atomic_pairs(steps, ARM7, replace(config, delta=False, threshold_m=0.003)).labels()
        == ("Forward",) * 4
    )


@pytest.mark.parametrize(
    ("key", "make", "sides"),
    [("calvin", make_calvin, {""}), ("agibotbeta", make_agibotbeta, {"left", "right"}),
     ("robocoin", make_robocoin, {"left", "right"})],
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["native", "lary"])
def test_any_source_of_trajectories_can_be_labelled(tmp_path, key, make, sides, protocol):
    make(tmp_path)
    plain = open_source(key, data_dir=tmp_path, protocol=protocol)
    source = open_source(key, data_dir=tmp_path, protocol=protocol, atomic=AtomicConfig(threshold_m=0.05))
    assert (source.spec.embodiment, source.spec.stride, source.spec.kind) == (None, None, "pairs")
    assert source.spec.splits == plain.spec.splits
    table = source.pairs(source.spec.train_split)
    words = {label.split("_")[0] if sides != {""} else "" for label in table.labels()}
    assert words <= sides
    assert {label.removeprefix("left_").removeprefix("right_") for label in table.labels()} <= set(PRIMITIVES)
    assert set(table.frame_paths()) <= set(plain.pairs(source.spec.train_split).frame_paths())
    with pytest.raises(DatasetError, match="a source of pairs"):
        source.clips("train")


def test_d8_twins_are_never_in_two_splits(tmp_path):
    """Defect D8: in LIBERO's own files most validation segments have their mirrored twin in training."""
    make_calvin(tmp_path, train=30)
    source = open_source("calvin", data_dir=tmp_path, atomic=AtomicConfig(threshold_m=0.05))
    seen = {
        split: {frozenset((r.src_frames, r.tgt_frames)) for r in source.pairs(split).rows}
        for split in ("train", "val", "test")
    }
    assert all(len(found) > 0 for found in seen.values())
    assert not seen["train"] & seen["val"]
    assert not (seen["train"] | seen["val"]) & seen["test"]
    table = source.pairs("val")
    assert {split_of(r.episode, test_share=0.0) for r in table.rows} == {"val"}
    assert len(table) == 2 * len(seen["val"])


def test_sources_without_trajectories_and_bad_thresholds_are_refused(tmp_path):
    make_clips(tmp_path)
    with pytest.raises(DatasetError, match="a source of clips with classes"):
        open_source("robot_1st", data_dir=tmp_path, atomic=AtomicConfig())
    make_calvin(tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'threshold_m'"):
        open_source("calvin", data_dir=tmp_path, atomic={"treshold_m": 0.1})
    same = open_source("calvin", data_dir=tmp_path, atomic={"threshold_m": 0.05}).pairs("train")
    assert (
        same.rows == open_source("calvin", data_dir=tmp_path, atomic=AtomicConfig(0.05)).pairs("train").rows
    )
    for bad in ({"threshold_m": 0.0}, {"gripper_threshold": -1.0}, {"max_chunks": 0}, {"segment_m": -0.1}):
        with pytest.raises(ConfigError, match="above 0"):
            AtomicConfig(**bad)
