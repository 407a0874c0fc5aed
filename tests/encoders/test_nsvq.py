"""NSVQ against golden tensors of the reference class.

Recipe of tests/golden/laq_nsvq.safetensors: LARYBench's `NSVQ` (commit 2092d20) on the CPU with dim 6, 8
codes of width 4 and random weights, once for every code_seq_len (on a 16 x 16 grid too for 16). `first` and
`last` are random tokens of two pairs; `encoded_first` is what `encode` makes of one frame, `decoded_first`
what `decode` makes of that, `quantised` and `indices` come from `inference`, `lary` from `forward` with the
drawn `noise` recorded, and `continuous` is `decode` of the difference of two encodings.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lary_policy.encoders.families.lapa.quantiser import CODE_NETWORKS, NSVQ, code_tokens
from lary_policy.errors import ConfigError, ShapeError

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "laq_nsvq.safetensors")
CASES = sorted({key.partition(".")[0] for key in GOLDEN})


@pytest.fixture(params=CASES)
def golden(request):
    prefix = f"{request.param}."
    return {key.removeprefix(prefix): value for key, value in GOLDEN.items() if key.startswith(prefix)} | {
        "code_seq_len": int(request.param.partition("_")[0][1:])
    }


@pytest.fixture
def vq(golden):
    vq = NSVQ(dim=6, codes=8, code_width=4, code_seq_len=golden["code_seq_len"])
    state = {k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")}
    vq.load_state_dict(state)
    return vq.requires_grad_(False)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_golden_covers_every_network():
    assert {int(case.partition("_")[0][1:]) for case in CASES} == set(CODE_NETWORKS)


def test_encode_and_decode_memory_order_equal_the_reference(vq, golden):
    encoded = vq.encode(golden["first"])
    close(encoded, golden["encoded_first"])
    close(vq.decode(encoded), golden["decoded_first"])


def test_inference_path_equals_the_reference(vq, golden):
    indices = vq.nearest(vq.difference(golden["first"], golden["last"]))
    assert torch.equal(indices, golden["indices"])
    close(vq.decode(vq.codebooks[indices]), golden["quantised"])


def test_training_path_with_given_noise_equals_the_reference(vq, golden):
    difference = vq.difference(golden["first"], golden["last"])
    close(vq.decode(vq.substitute_noise(difference, golden["noise"])), golden["lary"])
    close(vq.decode(difference), golden["continuous"])


def test_number_of_codes_is_the_one_promised(golden):
    side = round(golden["first"].shape[1] ** 0.5)
    assert code_tokens(golden["code_seq_len"], side) == golden["indices"].shape[1]


@pytest.mark.parametrize(
    ("code_seq_len", "grid", "tokens"),
    # The reference's names hold on the grids they were made for; these are the counts on the others.
    [
        *[(1, 8, 1), (2, 8, 2), (4, 7, 4), (4, 8, 4), (16, 14, 16), (16, 16, 16), (49, 14, 49), (64, 14, 64)],
        *[(256, 32, 256), (256, 14, 49), (4, 14, 25), (1, 14, 16), (49, 16, 64), (64, 16, 81), (16, 7, 4)],
    ],
)
def test_number_of_codes_follows_the_grid(code_seq_len, grid, tokens):
    assert code_tokens(code_seq_len, grid) == tokens
    vq = NSVQ(dim=3, codes=2, code_width=2, code_seq_len=code_seq_len)
    assert vq.encode(torch.randn(1, grid * grid, 3)).shape == (1, tokens, 2)


def test_decode_reads_the_numbers_of_a_pair_by_columns():
    vq = NSVQ(dim=3, codes=2, code_width=3, code_seq_len=4)
    torch.nn.init.eye_(vq.project_out.weight)
    torch.nn.init.zeros_(vq.project_out.bias)
    vectors = torch.arange(12.0).view(1, 4, 3)
    token, channel = 2, 1
    assert vq.decode(vectors)[0, token, channel] == channel * 4 + token
    assert not torch.equal(vq.decode(vectors), vectors)


def test_noise_is_as_long_as_the_quantisation_error():
    torch.manual_seed(0)
    vq = NSVQ(dim=3, codes=5, code_width=4, code_seq_len=4).requires_grad_(False)
    difference = torch.randn(6, 4, 4)
    error = difference - vq.codebooks[vq.nearest(difference)]
    noise = vq.substitute_noise(difference, torch.randn(6, 4, 4)) - difference
    torch.testing.assert_close(noise.norm(dim=-1), error.norm(dim=-1))


def test_nearest_is_nearest():
    torch.manual_seed(0)
    vq = NSVQ(dim=3, codes=9, code_width=4, code_seq_len=4).requires_grad_(False)
    difference = torch.randn(7, 5, 4)
    distances = (difference[:, :, None] - vq.codebooks).norm(dim=-1)
    assert torch.equal(vq.nearest(difference), distances.argmin(dim=-1))


def test_unknown_network_tiny_grid_and_odd_grid_are_named_errors():
    with pytest.raises(ConfigError, match="1, 2, 4, 16, 49, 64, 256"):
        code_tokens(9, 14)
    with pytest.raises(ConfigError, match="4 x 4"):
        code_tokens(1, 4)
    with pytest.raises(ShapeError, match="197 tokens"):
        NSVQ(dim=3, codes=2, code_width=2, code_seq_len=16).encode(torch.randn(1, 197, 3))
