import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.heads.pool import Pool, PoolConfig

SHAPE = (2, 3, 16, 8)  # t c n d


def latents(batch=5, shape=SHAPE):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "features"),
    [
        (PoolConfig("flatten"), 2 * 3 * 16 * 8),
        (PoolConfig("mean"), 2 * 3 * 8),
        (PoolConfig("grid", grid=2), 2 * 3 * 4 * 8),
        (PoolConfig("project", width=5), 2 * 3 * 16 * 5),
        (PoolConfig("keypoints", width=5), 2 * 3 * 5 * 2),
    ],
)
def test_output_has_the_announced_size(config, features):
    pool = Pool(config, SHAPE, (4, 4))
    assert pool.out_features == features
    assert pool(latents()).shape == (5, features)


def test_flatten_keeps_every_number_in_order():
    assert torch.equal(Pool(PoolConfig("flatten"), SHAPE)(latents()), latents().reshape(5, -1))


@settings(max_examples=20)
@given(st.permutations(range(16)))
def test_mean_does_not_depend_on_the_order_of_tokens(order):
    pool = Pool(PoolConfig("mean"), SHAPE)
    torch.testing.assert_close(pool(latents()[..., list(order), :]), pool(latents()))


@pytest.mark.parametrize("kind", ["flatten", "mean", "grid", "project"])
def test_frames_and_cameras_stay_apart(kind):
    pool = Pool(PoolConfig(kind, width=3, grid=2), SHAPE, (4, 4))
    changed = latents()
    changed[:, 1, 2] += 1
    moved = (pool(changed) - pool(latents())).abs().view(5, 2, 3, -1).amax((0, 3))
    assert (moved > 0).tolist() == [[False, False, False], [False, False, True]]


def test_keypoints_are_those_of_lerobots_spatial_softmax():
    from lerobot.policies.diffusion.modeling_diffusion import SpatialSoftmax

    pool = Pool(PoolConfig("keypoints", width=6), (1, 2, 12, 8), (3, 4))
    theirs = SpatialSoftmax((8, 3, 4), num_kp=6)
    with torch.no_grad():
        theirs.nets.weight.copy_(pool.projection.scores.weight[..., None, None])
    values = latents(5, (1, 2, 12, 8))
    maps = pool.projection.norm(values)[:, 0].unflatten(2, (3, 4)).movedim(-1, 2)  # [b c d h w]
    expected = theirs(maps.flatten(0, 1)).reshape(5, 2, 6, 2)
    torch.testing.assert_close(pool(values).view(5, 2, 6, 2), expected)


def test_keypoints_find_a_token_and_follow_it():
    pool = Pool(PoolConfig("keypoints", width=1), (1, 1, 16, 2), (4, 4))
    with torch.no_grad():
        pool.projection.scores.weight.copy_(torch.tensor([[40.0, -40.0]]))
    for place, where in ((0, (-1, -1)), (3, (1, -1)), (13, (-1 / 3, 1))):
        shown = torch.tensor([0.0, 1.0]).repeat(1, 1, 1, 16, 1)
        shown[..., place, :] = torch.tensor([1.0, 0.0])
        torch.testing.assert_close(pool(shown)[0], torch.tensor(where, dtype=torch.float32))


def test_keypoints_need_a_grid():
    with pytest.raises(ConfigError, match=r"a token grid .* for the pool 'keypoints'"):
        Pool(PoolConfig("keypoints"), SHAPE, None)


def test_grid_of_a_constant_is_that_constant():
    pooled = Pool(PoolConfig("grid", grid=3), SHAPE, (4, 4))(torch.full((2, *SHAPE), 1.5))
    torch.testing.assert_close(pooled, torch.full_like(pooled, 1.5))


def test_grid_averages_quadrants_of_each_time_step():
    shape = (1, 1, 32, 2)
    values = latents(3, shape)
    pooled = Pool(PoolConfig("grid", grid=2), shape, (2, 4, 4))(values).view(3, 2, 2, 2, 2)
    maps = values.view(3, 2, 4, 4, 2)
    for row in range(2):
        for column in range(2):
            block = maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(pooled[:, :, row, column], block.mean((2, 3)))


def test_grid_of_full_resolution_is_flatten():
    full = Pool(PoolConfig("grid", grid=4), SHAPE, (1, 4, 4))(latents())
    torch.testing.assert_close(full, latents().flatten(1))


def test_project_is_one_matrix_for_all_tokens():
    pool = Pool(PoolConfig("project", width=5), SHAPE)
    expected = torch.einsum("btcnd,pd->btcnp", latents(), pool.projection.weight) + pool.projection.bias
    torch.testing.assert_close(pool(latents()), expected.flatten(1))


@pytest.mark.parametrize("grid", [None, (4, 5), (2, 2, 2, 2), (16,)])
def test_grid_needs_a_layout_of_its_tokens(grid):
    with pytest.raises(ConfigError, match="16 tokens"):
        Pool(PoolConfig("grid", grid=2), SHAPE, grid)


def test_grid_cannot_grow():
    with pytest.raises(ConfigError, match="at most 4"):
        Pool(PoolConfig("grid", grid=5), SHAPE, (4, 4))


def test_unknown_kind_and_bad_sizes_are_refused():
    with pytest.raises(ConfigError, match="flatten, grid, mean, project"):
        PoolConfig("max")
    with pytest.raises(ConfigError, match="positive"):
        PoolConfig("project", width=0)


def test_latents_of_another_encoder_are_refused():
    with pytest.raises(ShapeError, match=r"2, 3, 16, 8.*2, 3, 16, 9"):
        Pool(PoolConfig("mean"), SHAPE)(latents(5, (2, 3, 16, 9)))
