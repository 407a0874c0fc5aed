"""The whole suite on an encoder of pairs: a toy UniVLA on a few episodes of reach."""

from __future__ import annotations

import pytest
import torch

from lary_policy.cli.compose import compose
from lary_policy.errors import ConfigError
from lary_policy.latents.store import LatentStore
from lary_policy.runs.collect import open_task
from lary_policy.runs.config import run_config
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import load_splits
from lary_policy.runs.run import run_suite

LABEL = "univla@tiny-random,56px"
ENCODERS = "encoders=[{name:univla,weights:tiny-random,image_px:56}]"


@pytest.fixture(scope="module")
def config(tmp_path_factory, suite_settings):
    """Return the function from further overrides to the configuration."""
    root = tmp_path_factory.mktemp("pairs") / "outputs"
    few = ("episodes=2", "num_worlds=2", "demos={train:3,val:2,test:2}", f"output_dir={root}")
    return lambda *more: run_config(compose("suite", [*suite_settings, *few, ENCODERS, *more]))


@pytest.fixture(scope="module")
def outcome(config):
    return run_suite(config("run=first"))


def test_every_probe_and_rollout_is_scored(outcome):
    scores = outcome.results.scores()
    probes = {(s.mode, s.target) for s in scores if s.stage == "probe" and s.metric in ("mse", "top1")}
    assert probes == {("pair", "absolute"), ("policy", "relative"), ("atomic", "class")}
    cells = {(s.head == "random", s.mode) for s in scores if s.metric == "success" and s.encoder == LABEL}
    assert cells == {(random, mode) for random in (False, True) for mode in ("subgoal", "policy")}
    episodes = [e for r in outcome.results.rollout if r["encoder"] == LABEL for e in r["episodes"]]
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
    data = open_task(context, "reach")
    table = load_splits(context, data, context.config.encoders[0])["test"]
    latent = context.shelf.load(context.config.encoders[0]).latent
    assert table.of_pairs
    assert table.change().shape[1:] == table.present().shape[1:] == (1, 1)
    assert table.bank.shape[1:] == (latent.tokens, latent.width)
    # Row by row, what changed up to a source frame is what changed in the row before.
    episodes = data.table("test").episodes()
    same = torch.nonzero(episodes[1:] == episodes[:-1]).flatten()
    assert torch.equal(table.index[same + 1, 0], table.index[same, 1])


def test_a_second_run_computes_nothing(outcome, config):
    cache = outcome.folder.parent / "cache"
    files = [p for p in cache.rglob("*") if p.is_file() and "digests" not in p.name]
    before = {p: p.stat().st_mtime_ns for p in files}
    again = run_suite(config("run=second"))
    after = [p for p in cache.rglob("*") if p.is_file() and "digests" not in p.name]
    assert {p: p.stat().st_mtime_ns for p in after} == before
    assert again.results.scores() == outcome.results.scores()


def test_another_output_is_another_store(outcome, config):
    context = RunContext.create(config(ENCODERS.replace("56", "56,output:quantised")))
    encoder = context.shelf.load(context.config.encoders[0])
    (store,) = (outcome.folder.parent / "cache" / "latents").iterdir()
    assert LatentStore.open(store).fingerprint != encoder.fingerprint
    assert encoder.latent.quantised


def test_an_unknown_output_is_refused_before_anything_runs(config):
    wrong = config(ENCODERS.replace("56", "56,output:colourful"))
    with pytest.raises(ConfigError, match="colourful"):
        RunContext.create(wrong)
