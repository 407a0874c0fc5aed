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
