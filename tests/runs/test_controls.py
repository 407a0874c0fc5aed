"""Controls through all stages, episodes until a question is decided, and layers through one pass."""

from __future__ import annotations

from lary_policy.report.compare import is_control
from lary_policy.runs.run import run_suite

PROBES = (
    "probes=[{mode:pair,target:absolute,head:mlp-small},"
    "{mode:policy,target:relative,head:mlp-small,proprio:true}]"
)
VIEW = "pixels@components6,noise0.5"


def test_a_control_is_driven_until_a_question_is_decided_or_there_are_enough_episodes(shared_copy):
    """Nothing is decided by two waves of two episodes, and the plain cells of before stay as they are."""
    before = {p: t for p, t in shared_copy.snapshot().items() if p.startswith("rollout/")}
    words = ("encoders=[pixels,{name:pixels,components:6,noise:0.5}]", PROBES, "stop_when_decided=true")
    outcome = shared_copy.run(*words, "num_worlds=2", "run=auto")
    after = shared_copy.snapshot()
    assert all(after[path] == when for path, when in before.items())
    scores = [s for s in outcome.results.scores() if s.metric == "success"]
    assert is_control(VIEW)
    assert {s.mode for s in scores if s.encoder == VIEW} == {"subgoal", "policy"}
    assert {s.split for s in scores} == {"seeds 300000-300003"}
    assert [row["latent"] for row in outcome.results.probe if row["encoder"] == VIEW] == [[1, 6]] * 2
    asked = {(r["encoder"], r["head"]): r.get("question") for r in outcome.results.rollout}
    assert asked["-", "expert"] is None
    head = next(head for view, head in asked if view == VIEW)
    assert asked["pixels", head] is None  # the first encoder is what others are compared with
    assert asked[VIEW, head]["differs_from"] == "pixels"
    assert asked[VIEW, head]["episodes"] == 4
    assert asked[VIEW, head]["evidence"] < 20
    page = (outcome.folder / "report.html").read_text()
    assert "after 4 episodes success is not told apart from that of pixels" in page


def test_layers_of_one_encoder_are_encoded_together(shared_copy):
    views = ",".join(f"{{name:dinov2-small,weights:tiny-random,layer:{k}}}" for k in (1, 2))
    config = shared_copy.config(f"encoders=[{views}]", "run=layers")
    first, second = run_suite(config, until="extract", verb="extract").results.extract
    assert first["encoded"] == first["unique"] == second["unique"]
    assert (second["encoded"], second["reused"]) == (0, second["unique"])
    assert first["fingerprint"] != second["fingerprint"]
