"""The whole suite on an encoder of pairs: a toy UniVLA on a few episodes of reach."""

from __future__ import annotations

import pytest
import torch

from lary_policy.compose import compose
from lary_policy.errors import ConfigError
from lary_policy.latents.store import LatentStore
from lary_policy.stages.config import suite_config
from lary_policy.stages.context import RunContext
from lary_policy.stages.extract import load_split
from lary_policy.stages.suite import run_suite

ENCODERS = "encoders=[{name:univla,weights:tiny-random,image_px:56}]"


@pytest.fixture(scope="module")
def config(tmp_path_factory, suite_settings):
    """Return the function from further overrides to the configuration."""
    root = tmp_path_factory.mktemp("pairs") / "outputs"
    few = ("episodes=2", "num_worlds=2", "demos={train:3,val:2,test:2}", f"output_dir={root}")
    return lambda *more: suite_config(compose("suite", [*suite_settings, *few, ENCODERS, *more]))


@pytest.fixture(scope="module")
def outcome(config):
    return run_suite(config("run=first"))


def test_every_probe_and_rollout_is_scored(outcome):
    scores = outcome.results.scores()
    probes = {(s.mode, s.target) for s in scores if s.stage == "probe" and s.metric in ("mse", "top1")}
    assert probes == {("pair", "absolute"), ("policy", "relative"), ("atomic", "class")}
    cells = {(s.head == "random", s.mode) for s in scores if s.metric == "success" and s.encoder == "univla"}
    assert cells == {(random, mode) for random in (False, True) for mode in ("subgoal", "policy")}
    episodes = [e for r in outcome.results.rollout if r["encoder"] == "univla" for e in r["episodes"]]
    assert {e["failure"] for e in episodes} <= {None, "out_of_range_action"}


def test_pairs_are_encoded_once_each_and_their_codes_counted(outcome):
    (extracted,) = outcome.results.extract
    assert extracted["unit"] == "pair"
    assert extracted["encoded"] == extracted["unique"] > 0
    health = extracted["codebook"]
    assert (health["codes"], health["tokens"]) == (16, 4 * extracted["unique"])
    assert health["used"] + len(health["dead"]) == 16
    page = outcome.report.read_text()
    assert "Codebooks" in page
    assert "unique pairs" in page


def test_heads_see_one_latent_a_pair(outcome, config):
    context = RunContext.create(config())
    split = load_split(context, outcome.results.data[0], context.config.encoders[0], "test")
    latent = context.encoder(context.config.encoders[0]).latent
    assert split.table.of_pairs
    assert split.table.change().shape[1:] == split.table.present().shape[1:] == (1, 1)
    assert split.table.bank.shape[1:] == (latent.tokens, latent.width)
    # Row by row, what changed up to a source frame is what changed in the row before.
    episodes = split.pairs.episodes()
    same = torch.nonzero(episodes[1:] == episodes[:-1]).flatten()
    assert torch.equal(split.table.index[same + 1, 0], split.table.index[same, 1])


def test_a_second_run_computes_nothing(outcome, config):
    cache = outcome.folder.parent / "cache"
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()}
    again = run_suite(config("run=second"))
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()} == before
    assert again.results.scores() == outcome.results.scores()


def test_another_output_is_another_store(outcome, config):
    context = RunContext.create(config(ENCODERS.replace("56", "56,output:quantised")))
    encoder = context.encoder(context.config.encoders[0])
    (store,) = (outcome.folder.parent / "cache" / "latents").iterdir()
    assert LatentStore.open(store).fingerprint != encoder.fingerprint
    assert encoder.latent.quantised


def test_an_unknown_output_is_refused_before_anything_runs(config):
    wrong = config(ENCODERS.replace("56", "56,output:colourful"))
    with pytest.raises(ConfigError, match="colourful"):
        RunContext.create(wrong)
