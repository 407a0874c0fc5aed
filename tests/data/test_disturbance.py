import pytest
import torch

from lary_policy.data.simulated.recorder import Disturbance

STRIDE = 5


def run(seeds, steps=2000, std_m=0.01, std_rad=0.05, enabled=True, free=lambda step: True, arms=1):
    noise = Disturbance(seeds, arms, STRIDE, std_m=std_m, std_rad=std_rad, enabled=[enabled] * len(seeds))
    offsets = [noise.offsets(s, torch.tensor([free(s)] * len(seeds))) for s in range(steps)]
    return torch.stack(offsets, 1).flatten(2)  # [w, steps, 7 A]


def test_offsets_are_held_within_one_chunk_and_never_in_two_running():
    (offsets,) = run([3]).unbind(0)
    chunks = offsets.reshape(-1, STRIDE, 7)
    held = chunks.any(-1).sum(-1)
    assert set(held.tolist()) == {0, 3, 4, 5}
    assert not bool(((held[1:] > 0) & (held[:-1] > 0)).any())
    for chunk, count in zip(chunks, held.tolist(), strict=True):
        assert torch.equal(chunk[:count], chunk[:1].expand(count, -1))
        assert not chunk[count:].any()
    # A chunk that may be disturbed is so half the time: a Markov chain with a share of 1/3.
    assert 0.25 < float((held > 0).float().mean()) < 0.42


def test_standard_deviations_are_as_asked_and_the_gripper_is_left_alone():
    offsets = run([1, 2, 3, 4], steps=5000)
    starts = offsets[:, ::STRIDE].flatten(0, 1)
    drawn = starts[starts.any(-1)]
    assert len(drawn) > 1000
    torch.testing.assert_close(drawn[:, :3].std(0), torch.full((3,), 0.01), rtol=0.1, atol=0)
    torch.testing.assert_close(drawn[:, 3:6].std(0), torch.full((3,), 0.05), rtol=0.1, atol=0)
    assert not offsets[..., 6].any()


def test_a_world_depends_on_its_seed_alone():
    together = run([5, 6, 7], steps=200)
    for world, seed in enumerate((5, 6, 7)):
        assert torch.equal(run([seed], steps=200)[0], together[world])
    assert not torch.equal(together[0], together[1])


def test_contact_ends_a_disturbance_for_the_rest_of_its_chunk():
    free = run([3], steps=1000)[0].reshape(-1, STRIDE, 7)
    touched = run([3], steps=1000, free=lambda step: step % STRIDE != 2)[0].reshape(-1, STRIDE, 7)
    assert torch.equal(touched[:, :2], free[:, :2])
    assert not touched[:, 2:].any()


@pytest.mark.parametrize(
    "options", [{"std_m": 0.0, "std_rad": 0.0}, {"enabled": False}, {"free": lambda step: False}]
)
def test_no_noise_where_none_is_wanted(options):
    assert not run([1, 2], steps=100, **options).any()


def test_two_arms_are_disturbed_independently():
    offsets = run([1], arms=2)[0].unflatten(-1, (2, 7))
    held = offsets[offsets.flatten(1).any(-1)]
    assert held[:, 0, :6].any()
    assert not torch.equal(held[:, 0], held[:, 1])
    assert not offsets[..., 6].any()
