"""Codebook health against numbers worked out by hand."""

import json
import math

import pytest
import torch

from lary_policy.encoders.codebook import CodebookCounter, CodebookHealth, codebook_health, nearest_codes
from lary_policy.errors import ShapeError


def test_even_use_has_the_codebooks_size_as_perplexity():
    health = codebook_health(torch.arange(8).repeat(3).view(4, 6), 8)
    assert (health.tokens, health.used, health.usage, health.dead) == (24, 8, 1.0, ())
    assert health.perplexity == pytest.approx(8)


def test_one_code_alone_has_perplexity_one():
    health = codebook_health(torch.full((5, 2), 3), 4)
    assert (health.used, health.usage, health.dead, health.counts) == (1, 0.25, (0, 1, 2), (0, 0, 0, 10))
    assert health.perplexity == pytest.approx(1)


def test_uneven_use_by_hand():
    # Shares 1/2, 1/4, 1/4: entropy 1/2 ln 2 + 2 (1/4 ln 4) = 1.5 ln 2, perplexity 2^1.5.
    health = codebook_health(torch.tensor([0, 0, 2, 5]), 6)
    assert health.perplexity == pytest.approx(2**1.5)
    assert health.dead == (1, 3, 4)
    assert str(health) == "3 of 6 codes used, perplexity 2.8"


def test_without_tokens_nothing_is_used():
    health = codebook_health(torch.empty(0, 4, dtype=torch.int64), 3)
    assert (health.tokens, health.used, health.perplexity, health.dead) == (0, 0, 0.0, (0, 1, 2))


def test_batches_count_like_the_whole():
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(0, 13, (50, 4), generator=generator)
    counter = CodebookCounter(16)
    for batch in indices.split(7):
        counter.update(batch)
    assert counter.health() == codebook_health(indices, 16)
    shares = torch.bincount(indices.flatten()).double() / 200
    assert math.log(counter.health().perplexity) == pytest.approx(float(-(shares * shares.log()).sum()))


def test_it_survives_json():
    health = codebook_health(torch.tensor([1, 1, 0]), 4)
    row = json.loads(json.dumps(health.to_dict()))
    assert row["usage"] == 0.5
    assert CodebookHealth.from_dict(row) == health


@pytest.mark.parametrize(
    ("indices", "codes"),
    [(torch.tensor([4]), 4), (torch.tensor([-1]), 4), (torch.tensor([0.5]), 4), (torch.tensor([0]), 0)],
)
def test_codes_outside_the_codebook_are_refused(indices, codes):
    with pytest.raises(ShapeError):
        codebook_health(indices, codes)


def test_nearest_codes_by_hand():
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    vectors = torch.tensor([[[0.4, 0.1], [0.9, 0.4]], [[0.1, 1.5], [-3.0, -3.0]]])
    found, indices = nearest_codes(vectors, codes)
    assert indices.tolist() == [[0, 1], [2, 0]]
    assert torch.equal(found, codes[indices])
    half, _ = nearest_codes(vectors.bfloat16(), codes.bfloat16())
    assert half.dtype == torch.bfloat16
