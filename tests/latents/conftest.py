"""The small dataset in the LARYBench layout and a real, tiny encoder."""

from shared_files import shared_url  # noqa: F401
from synthetic_pairs import arm7, make_encoder, make_synthetic, pool_encoder, synthetic  # noqa: F401
