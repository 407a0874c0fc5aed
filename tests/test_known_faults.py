"""Every fault that was once found here has a test of the right value; those of no other place stand here.

`HELD` names, in a sentence each, what was wrong once and the tests that hold the right value now. A fault is
of a kind: beside the input that showed it, the tests try others of the same kind.
"""

from __future__ import annotations

import ast
import functools
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from lerobot_files import write_lerobot

from lary_policy import cli
from lary_policy.cli.compose import compose
from lary_policy.data.registry import list_sources, open_source
from lary_policy.data.simulated.collect import ExpertSession, collect_demonstrations
from lary_policy.errors import ConfigError, LaryPolicyError, StoreError
from lary_policy.latents.reference import read_npz
from lary_policy.runs.cells import Cell, point_latest, run_folder
from lary_policy.runs.config import run_config
from lary_policy.runs.context import RunContext

ROOT = Path(__file__).resolve().parents[1]
TINY = ("cameras=[front]", "image_px=28", "demos={train:1,val:1,test:1}", "episodes=1", "num_worlds=2")

NUMBERS = {
    "pictures of the same names in another folder, or corrected in place, are other data": (
        "data/test_identity.py::test_two_folders_of_the_same_names_with_other_pictures_are_two_datasets",
        "data/test_identity.py::test_a_picture_or_label_that_was_corrected_in_place_is_noticed",
        "data/test_identity.py::test_a_video_that_was_corrected_is_noticed",
        "data/test_to_lerobot.py::test_what_was_corrected_in_place_is_never_taken_for_what_was_written_before",
    ),
    "a frame of a video is that of its time, as LeRobot decodes it": (
        "data/test_lerobot_time.py::test_tables_at_10_hz_beside_a_video_at_30_fps",
        "data/test_lerobot_time.py::test_video_at_29_97_fps",
        "data/test_lerobot_time.py::test_a_video_of_changing_rate",
        "data/test_lerobot_time.py::test_offsets",
        "data/test_lerobot_metadata.py::test_steps_that_contradict_themselves_are_set_aside",
    ),
    "pixels of a published model are those of its own processor": (
        "encoders/test_auto.py::test_pixels_are_those_of_the_models_own_processor",
        "encoders/test_auto.py::test_processors_that_no_pipeline_equals_are_refused",
        "encoders/test_auto.py::test_timms_own_transform_decides_the_pixels",
    ),
    "arguments of a timm model are honoured, tensors that nobody claims are refused": (
        "encoders/test_auto.py::test_timms_model_arguments_are_honoured",
        "encoders/test_auto.py::test_a_tensor_that_nobody_claims_is_refused",
        "encoders/test_auto.py::test_quantised_weights_are_not_read_without_their_scale",
    ),
    "one recording has no interval and supports no claim": (
        "scores/test_intervals.py::test_over_one_recording_there_is_no_interval_and_it_says_why",
        "scores/test_intervals.py::test_few_recordings_support_no_claim",
        "report/test_statements.py::test_one_recording_supports_no_claim",
    ),
    "depth is no colour, and 16 bits are no 8": (
        "data/test_lerobot_metadata.py::test_depth_maps_are_no_colour_cameras_however_they_are_marked",
        "data/test_lerobot_metadata.py::test_images_of_more_than_8_bits_are_refused_by_name",
    ),
    "names of numbers are read alike by sources and policies": (
        "data/test_lerobot_metadata.py::test_names_are_read_in_every_spelling",
        "data/test_lerobot_metadata.py::test_a_source_reads_them_the_same_way",
        "policy/test_relative_actions.py::test_names_are_read_in_every_spelling_of_datasets",
    ),
    "an idle joint is not scaled up, and a number that fills the error is named": (
        "actions/test_floors.py::test_an_idle_joint_of_unknown_unit_is_not_scaled_up",
        "scores/test_warnings.py::test_a_number_with_over_a_third_of_the_mse_is_named",
    ),
    "villa-X sees clips and pairs each as the reference shows them": (
        "encoders/test_villax.py::test_lary_reads_clips_with_the_models_own_resize_and_pairs_with_pillows",
    ),
    "heads of the reference compute in float32 wherever they run": (
        "heads/test_head_config.py::test_reference_heads_compute_as_the_reference_does_whatever_the_machine_offers",
    ),
    "a playlist or PostScript called a video or picture leads nowhere": (
        "data/test_media_formats.py::test_playlists_lead_nowhere_whatever_they_are_called",
        "data/test_media_formats.py::test_postscript_starts_nothing",
    ),
    "any change of what we wrote is found, in data and heads": (
        "data/test_verify.py::test_any_change_of_what_we_wrote_is_found_and_named",
        "data/test_verify.py::test_any_change_of_an_export_is_found_and_named",
        "runs/test_corruption.py::test_a_change_is_found_and_named",
        "runs/test_corruption.py::test_a_cell_of_an_earlier_version_is_not_wrong_and_never_read",
        "heads/test_checkpoint.py::test_any_flipped_byte_is_found",
        "data/test_verify.py::test_whole_numbers_as_actions_are_named_in_files_of_others",
    ),
    "a head that says the same of everything is named, beside the majority": (
        "scores/test_warnings.py::test_a_head_that_names_one_class_is_collapsed_beside_the_majority",
        "scores/test_warnings.py::test_a_head_that_predicts_the_mean_is_collapsed_beside_the_mean_s_own_error",
        "runs/test_report.py::test_what_an_evaluation_warns_of_stands_before_the_numbers",
    ),
}
CODE = {
    "a processor step of a checkpoint imports and runs nothing": (
        "policy/test_hostile_checkpoints.py::test_no_step_runs_code",
        "policy/test_hostile_checkpoints.py::test_the_commands_refuse_before_they_run_anything",
        "policy/test_hostile_checkpoints.py::test_settings_written_by_hand_are_settings_of_others",
    ),
    "an own encoder that a file names is not imported from the working directory": (
        "policy/test_hostile_checkpoints.py::test_an_own_encoder_needs_the_users_word",
        "encoders/test_own.py::test_a_name_out_of_a_file_imports_nothing_from_the_working_directory",
    ),
}
USE = {
    "settings may be called as folders of configs are": (
        "test_cli.py::test_a_setting_named_like_a_folder_of_configs_is_a_setting",
    ),
    "LeRobot's cache of links and videos on another disk are datasets": (
        "data/test_lerobot_metadata.py::test_the_hubs_cache_of_links_is_a_dataset_like_any_other",
        "data/test_lerobot_metadata.py::test_videos_on_another_disk_may_be_linked",
        "data/test_lerobot_metadata.py::test_paths_inside_the_description_stay_inside_the_folder",
    ),
    "every source is verified and has statistics": (
        "test_known_faults.py::test_every_source_is_verified_and_has_statistics",
    ),
    "a verb checks only the encoders that it loads": (
        "test_known_faults.py::test_demonstrations_may_have_a_size_that_no_encoder_takes",
    ),
    "a head trains on every question that it fits": (
        "heads/test_every_head.py::test_a_head_trains_on_every_question_it_fits_and_is_refused_elsewhere",
    ),
    "two that collect or export into one folder at once both end well": (
        "data/test_simulated.py::test_two_that_collect_into_one_folder_at_once_both_end_well",
        "runs/test_twice_and_killed.py::test_two_at_once_both_end_well_and_one_computes",
    ),
    "runs of one second have folders of their own": (
        "test_known_faults.py::test_runs_of_one_second_have_folders_of_their_own",
    ),
    "the help of a source lists its settings": (
        "runs/test_source_suite.py::test_help_of_a_source_lists_its_settings",
    ),
    "a report shows what is finished, and there is none of nothing": (
        "runs/test_stage_verbs.py::test_report_shows_what_is_finished_and_names_what_is_not",
        "runs/test_stage_verbs.py::test_report_of_nothing_is_a_named_error",
    ),
    "sweeps and seeds work for tasks as for files": (
        "test_known_faults.py::test_tasks_are_swept_over_and_take_several_seeds",
        "runs/test_source_suite.py::test_a_sweep_runs_every_combination_once",
    ),
    "options of one encoder stand inside the list, as errors advise": (
        "test_cli.py::test_settings_of_encoders_reach_one_or_all",
        "runs/test_own_encoder.py::test_lists_take_them_too",
        "test_bad_input.py::test_absent_weights_say_how_to_get_them_and_random_ones_are_not_taken",
    ),
    "an older LeRobot dataset is converted where it lies": (
        "data/test_lerobot_metadata.py::test_an_older_format_is_converted_where_it_is",
        "policy/test_train_policy.py::test_bad_input_is_named",
    ),
    "a policy with relative actions runs on a robot": (
        "policy/test_on_a_robot.py::test_a_relative_policy_reaches_its_planned_poses",
        "policy/test_on_a_robot.py::test_real_time_chunking_is_refused_by_name",
    ),
    "folders may be called anything": ("test_cli.py::test_any_name_of_a_folder_is_taken_as_it_stands",),
    "no traceback of a decoder that is not used": (
        "policy/test_train_policy.py::test_no_decoder_is_looked_for_at_length",
    ),
    "install lines work as they are written": (
        "test_packaging.py::test_install_lines_of_the_readme_need_no_index_that_lacks_the_package",
    ),
    "processors are built before there are statistics": (
        "policy/test_relative_actions.py::test_statistics_are_required_not_invented",
        "policy/drop_in/test_drop_in_refusals.py::test_missing_statistics_are_refused_when_a_value_needs_them",
    ),
    "environments are copied, refuse a step before a reset, and flat ones train": (
        "envs/test_gym_contract.py::test_copies_are_made_again_and_act_alike",
        "envs/test_gym_contract.py::test_nothing_is_stepped_or_shown_before_a_reset_or_after_closing",
        "envs/test_gym_contract.py::test_stable_baselines3_checks_and_trains",
    ),
    "usual heads fit the size of the data, and a run is never silent for long": (
        "runs/test_source_suite.py::test_usual_heads_fit_the_number_of_rows",
        "runs/test_source_suite.py::test_few_rows_are_said_with_what_trains_the_other_heads",
        "test_console.py::test_a_long_step_says_where_it_is_and_a_short_one_only_that_it_ended",
    ),
}
DAMAGE = {
    "headers of npy files": (
        "data/test_actions.py::test_damage_is_named",
        "data/test_actions.py::test_rows_that_are_no_actions_are_refused",
    ),
    "npz files: damaged, encrypted, or expanding to gigabytes": (
        "test_known_faults.py::test_a_damaged_archive_of_latents_is_a_named_error",
    ),
    "pt and bin files": (
        "encoders/test_weights.py::test_every_damaged_byte_of_a_small_file_is_a_named_error",
        "encoders/test_weights.py::test_a_pickle_that_would_run_code_is_refused",
    ),
    "video metadata that are no text": (
        "data/test_media_formats.py::test_a_container_with_broken_metadata_still_shows_its_frames",
    ),
    "results and resume files of another shape": (
        "test_known_faults.py::test_a_result_of_another_shape_is_a_named_error",
        "runs/test_stage_embodiments.py::test_a_damaged_progress_file_is_named",
        "heads/test_resume.py::test_checkpoints_of_another_shape_are_named_errors",
    ),
    "a gripper without a number, a task that is not in the table": (
        "data/test_lerobot_metadata.py::test_a_gripper_without_any_number_and_a_task_that_is_not_there",
        "data/test_lerobot_metadata.py::test_descriptions_that_contradict_themselves_are_refused",
    ),
    "settings of another type": (
        "data/test_simulated_source.py::test_settings_are_never_read_as_another_type",
        "test_known_faults.py::test_settings_of_sources_are_of_their_type",
    ),
    "null in statistics, no episodes": ("policy/test_train_policy.py::test_bad_input_is_named",),
    "a pipe where a picture should be": (
        "data/test_media_formats.py::test_pipes_devices_and_folders_are_refused_not_waited_for",
        "data/test_integrity.py::test_a_pipe_is_named_and_not_waited_for",
    ),
    "a folder called latest": (
        "test_known_faults.py::test_a_folder_called_latest_is_named_before_anything_runs",
    ),
    "a small file of a huge picture": (
        "data/test_media_formats.py::test_a_small_file_of_a_huge_picture_is_refused_before_it_unpacks",
    ),
}
BOOKS = {
    "a film shows the seeds that it says, resumed or not": (
        "rollout/test_waves.py::test_the_films_of_an_interrupted_and_of_a_whole_rollout_are_alike",
        "rollout/test_tile_video.py::test_a_film_shows_its_seeds_whatever_waves_they_ran_in",
        "runs/test_report.py::test_a_film_says_which_episodes_it_shows",
    ),
    "what killed processes left is removed and never read": (
        "test_paths.py::test_what_killed_writers_left_is_swept_and_what_is_being_written_stays",
        "test_paths.py::test_a_sweep_between_making_and_locking_a_file_costs_its_writer_nothing",
        "data/test_verify.py::test_unfinished_files_of_a_killed_process_are_never_read",
        "runs/test_twice_and_killed.py::test_killed_at_any_moment_it_goes_on_to_the_same_result",
    ),
    "episodes without a row are counted, and a NaN names its episode": (
        "data/test_lerobot_metadata.py::test_episodes_without_a_row_are_counted",
        "data/test_lerobot_metadata.py::test_one_number_that_is_none_names_its_episode",
        "data/test_to_lerobot.py::test_damaged_episodes_are_left_out_and_named",
        "policy/test_lary_train.py::test_a_number_that_is_none_is_named_before_training",
    ),
    "a kill while demonstrations are published simulates nothing again": (
        "test_known_faults.py::test_a_kill_while_publishing_simulates_nothing_again",
    ),
    "a resumed training sees the frames of a whole one": (
        "policy/test_train_policy.py::test_a_run_resumed_after_its_first_epoch_sees_the_same_frames",
        "policy/test_train_policy.py::test_the_order_of_a_resumed_run_is_reset_by_lerobot_not_by_us",
    ),
    "what num_worlds changes is said, and nothing where asked": (
        "rollout/test_batch_invariance.py::test_alone_an_episode_is_the_same_in_a_wave_of_1_4_and_7",
        "runs/test_policy_rollout.py"
        "::test_batch_invariant_plans_are_those_of_lerobot_eval_one_world_at_a_time",
        "runs/test_policy_rollout.py"
        "::test_batch_invariant_episodes_are_equal_to_the_last_bit_on_any_number_of_worlds",
    ),
    "memory stays within its budget": (
        "heads/test_stored_samples.py::test_memory_stays_flat_while_probing_a_store_larger_than_its_budget",
        "runs/test_latents_memory.py::test_the_default_is_a_quarter_of_what_is_free",
    ),
}
HELD = {**NUMBERS, **CODE, **USE, **DAMAGE, **BOOKS}
COUNTS = (13, 2, 19, 11, 7)


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the tests of a file below tests/."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_known_fault_has_tests_that_exist():
    assert tuple(map(len, (NUMBERS, CODE, USE, DAMAGE, BOOKS))) == COUNTS
    assert len(HELD) == sum(COUNTS)  # no sentence twice
    assert all(HELD.values())
    missing = [node for nodes in HELD.values() for node in nodes if not _exists(*node.split("::"))]
    assert missing == []


def _exists(path: str, name: str) -> bool:
    return (ROOT / "tests" / path).is_file() and name in names_in(path)


def test_every_source_is_verified_and_has_statistics(lerobot, tmp_path, capsys):
    simulated = tmp_path / "sim"
    collect_demonstrations(
        simulated, "reach", splits={"train": [0], "val": [1], "test": [2]}, image_px=28, num_worlds=3
    )
    out = f"output_dir={tmp_path / 'out'}"
    for settings in (("source=lerobot", f"root={lerobot}"), ("source=simulated", f"data_dir={simulated}")):
        key = settings[0].partition("=")[2]
        assert key in list_sources()
        assert cli.main(["data", "verify", *settings, "workers=0", out]) == 0
        assert cli.main(["data", "statistics", *settings, out]) == 0
        capsys.readouterr()
        found = json.loads((tmp_path / "out" / "statistics" / f"{key}.json").read_text())
        assert "mean" in json.dumps(found)


def test_demonstrations_may_have_a_size_that_no_encoder_takes():
    config = run_config(
        compose("data", ["env=reach", "image_px=100", "encoder=dinov2-small", "encoder.image_px=101"])
    )
    assert RunContext.create(config, until="data").config.image_px == 100
    with pytest.raises(LaryPolicyError, match="101"):
        RunContext.create(config, until="extract")


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "20300102-030405")
    first, second = (run_folder(tmp_path, None, "suite") for _ in range(2))
    assert (first.name, second.name) == ("suite-20300102-030405", "suite-20300102-030405_2")
    assert run_folder(tmp_path, "mine", "suite") == run_folder(tmp_path, "mine", "suite")


def test_a_folder_called_latest_is_named_before_anything_runs(tmp_path):
    point_latest(tmp_path, run_folder(tmp_path, "one", "suite"))
    assert run_folder(tmp_path, "two", "suite").is_dir()  # a link is no hindrance
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    with pytest.raises(StoreError, match="Rename"):
        run_folder(tmp_path, "three", "suite")
    assert not (tmp_path / "three").exists()


def test_tasks_are_swept_over_and_take_several_seeds(tmp_path, capsys):
    assert run_config(compose("probe", ["env=reach", "encoder=pixels", "seeds=[0,1,2]"])).every_seed == (
        0,
        1,
        2,
    )
    sweep = ["data", "--multirun", "env=reach", *TINY, "stride=4,5", f"output_dir={tmp_path}"]
    assert cli.main(sweep) == 0
    capsys.readouterr()
    found = [json.loads(p.read_text())["stride"] for p in tmp_path.glob("cache/data/*/dataset.json")]
    assert set(found) == {4, 5}


def _archive(path: Path, how: str) -> Path:
    np.savez_compressed(path, tokens=np.random.default_rng(0).normal(size=(6, 4)).astype("float32"))
    raw = bytearray(path.read_bytes())
    if how == "a flipped stream":
        raw[90:130] = bytes(byte ^ 0x55 for byte in raw[90:130])
    elif how == "encrypted":
        for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            raw[raw.rfind(header) + flags] |= 1
    elif how == "cut":
        raw = raw[: len(raw) // 2]
    path.write_bytes(bytes(raw))
    if how == "zeros of gigabytes":
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
            file.open("tokens.npy", "w", force_zip64=True) as out,
        ):
            np.lib.format.write_array_header_1_0(
                out, {"descr": "<f4", "fortran_order": False, "shape": (1 << 19, 1 << 12)}
            )
            out.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("how", ["a flipped stream", "encrypted", "cut", "zeros of gigabytes"])
def test_a_damaged_archive_of_latents_is_a_named_error(tmp_path, how):
    with pytest.raises(StoreError, match="Extract this row again"):
        read_npz(_archive(tmp_path / "a.npz", how))


@pytest.mark.parametrize("content", ["[]", "{}", "null", '"x"', '{"scores": 3}', "", "{"])
def test_a_result_of_another_shape_is_a_named_error(tmp_path, content):
    cell = Cell("extract", "x", "0123456789ab", tmp_path)
    cell.finish({"scores": []})
    (cell.folder / "result.json").write_text(content)
    with pytest.raises(StoreError, match=r"Delete .*start the"):
        cell.result()


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("lerobot") / "set", video=False, steps=12)


WRONG = (
    {"stride": 2.5}, {"cameras": "front"}, {"action_keys": "action"}, {"clip_s": "abc"}, {"kind": 3},
    {"atomic": 5}, {"gripper_open": ["high"]}, {"embodiment": 7},
)  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=lambda options: next(iter(options)))
def test_settings_of_sources_are_of_their_type(lerobot, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        open_source("lerobot", data_dir=lerobot, **options)


def test_a_kill_while_publishing_simulates_nothing_again(tmp_path, monkeypatch):
    options = {"splits": {"train": [0], "val": [1]}, "image_px": 28, "num_worlds": 2}
    root = tmp_path / "reach"

    def killed(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        collect_demonstrations(root, "reach", **options)
    assert not root.exists()
    monkeypatch.setattr(ExpertSession, "__init__", lambda *_: pytest.fail("simulated again"))
    assert collect_demonstrations(root, "reach", **options).episodes == {"train": 1, "val": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["reach"]
