"""`benchmarks/run.py probes`: figures at tiny settings, and a baseline that computes the same function."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.registry import build_module

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(BENCHMARKS))
        for path in BENCHMARKS.glob("*.py"):
            sys.modules.pop(path.stem, None)


def test_every_figure_has_both_sides(load):
    (case,) = [c for c in load("run").CASES if c.name == "probes"]
    tiny = {
        "encoder": "pixels", "image_px": 28, "episodes": 1, "rows": 24, "head": "mlp-small", "clips": 1,
        "clip_frames": 20, "repeats": 1, "parts": "extraction,clips",
    }  # fmt: skip
    figures = {f.metric: f for f in load(case.module).run(**{**case.settings, **tiny}, device="cpu")}
    assert {"unique_encodes", "extraction_wall", "storage", "regression_epoch", "clip_decode"} <= set(figures)
    assert all(f.baseline and f.ratio > 0 for f in figures.values())
    assert (figures["unique_encodes"].value, figures["unique_encodes"].baseline) == (13, 24)


def test_the_baseline_of_the_sweep_is_the_same_function(load):
    probe = build_module(AttentiveProbeConfig(width=32, num_heads=4), (3, 1, 4, 8), num_classes=5, seed=3)
    plain = load("reference_pattern").PlainProbe(8, 5, width=32, num_heads=4)
    weights = probe.state_dict()
    renamed = {k.removeprefix("cross_attention_block."): v for k, v in weights.items()}
    renamed["temporal"], renamed["query"] = (
        renamed.pop("temporal_embed"),
        renamed.pop("query_tokens")[None, None],
    )
    plain.load_state_dict(renamed)
    latents = torch.randn(2, 3, 1, 4, 8)
    assert torch.allclose(plain(latents.squeeze(2)), probe(latents), atol=1e-5)


def test_rows_of_the_baseline_are_what_was_written(load, tmp_path):
    import numpy as np

    from lary_policy.encoders.base import load_encoder

    pattern, cases = load("reference_pattern"), load("cases_probes")
    pairs = cases._chained_pairs(tmp_path / "images", 1)
    encoder = load_encoder("pixels", image_px=28)
    files = pattern.extract_rows(pairs, encoder, tmp_path)
    np.save(tmp_path / "a.npy", np.full((5, 7), 3.0))
    rows = pattern.NpzRows(files, [tmp_path / "a.npy"] * len(files), np.ones(7), np.full(7, 2.0))
    first, second = rows[0][0], rows[1][0]
    assert torch.equal(first[1], second[0])
    assert rows[0][1].unique().tolist() == [1.0]
