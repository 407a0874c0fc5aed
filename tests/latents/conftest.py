"""The small dataset in the LARYBench layout and a real, tiny encoder."""

from synthetic_pairs import arm7, make_encoder, make_synthetic, pool_encoder, synthetic  # noqa: F401
