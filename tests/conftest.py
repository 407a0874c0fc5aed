"""Shared settings of the test run."""

import os

# Before torch is imported: tiny operations are several times slower with two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
