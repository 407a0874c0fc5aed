"""`lary data`: demonstrations of simulated tasks, and actions on datasets and latent stores of any kind."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lary_policy.cli.compose import compose, typed, wants_help
from lary_policy.cli.help import action_help, run_help, settings_rows
from lary_policy.cli.run import main as run_main
from lary_policy.console import busy
from lary_policy.errors import UnknownNameError
from lary_policy.machine import require_one_process
from lary_policy.settings import check_names, setting

PROTOCOL = ("native", "lary")
UNKNOWN = ("error", "pool", "identity")
CODECS = ("h264", "av1", "hevc")
_DATA = "folder with classification/ and regression/"
_CSVS = "folder of the benchmark's CSVs; null = data_dir, data_dir/data or data_dir/metadata"


@dataclass(frozen=True)
class VerifySettings:
    """Settings of `lary data verify`."""

    source: str | None = setting(None, "kind of files to check; null = all datasets and stores of output_dir")
    data_dir: Path | None = setting(None, "folder of the source")
    options: dict[str, Any] = setting(dict, "further settings of the source")
    protocol: str = setting("lary", "whose splits must not share recordings, frames or twins", PROTOCOL)
    workers: int = setting(2, "processes that read files")
    timeout_s: float = setting(30.0, "seconds for one file")
    limit: int | None = setting(None, "rows of each table, for a quick look; null = all")
    output_dir: Path = setting(Path("outputs"), "verify-<what>-<date>.json goes there")


@dataclass(frozen=True)
class IndicesSettings:
    """Settings of `lary data indices`."""

    source: str | None = setting(None, "human_1st or robot_1st; null = csv and media_dir")
    data_dir: Path | None = setting(None, _DATA)
    csv_dir: Path | None = setting(None, _CSVS)
    csv: Path | None = setting(None, "one CSV with a column video_path")
    media_dir: Path | None = setting(None, "folder that its paths start from")
    protocol: str = setting(
        "native", "static clips: native samples evenly and says so; lary takes frame 1", PROTOCOL
    )
    num_frames: int = setting(9, "frames of a clip (LARYBench)")
    workers: int = setting(2, "processes, one clip each")
    timeout_s: float = setting(120.0, "seconds for one clip")
    output_dir: Path = setting(Path("outputs"), "indices/<name of the CSV> goes there")


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of `lary data prepare`."""

    source: str = setting("human_1st", "whose clips are cut")
    data_dir: Path | None = setting(None, "folder with classification/, where the clips go")
    csv_dir: Path | None = setting(None, _CSVS)
    ssv2_root: Path | None = setting(None, "folder of the original SSv2 videos (100020.webm, ...)")
    egodex_root: Path | None = setting(None, "folder of the original EgoDex videos (part1/...)")
    workers: int = setting(2, "processes, one clip each")
    timeout_s: float = setting(300.0, "seconds for one clip")
    output_dir: Path = setting(Path("outputs"), "prepare-<date>.json goes there")


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of `lary data statistics`."""

    source: str | None = setting(None, "a source with actions, e.g. agibotbeta")
    data_dir: Path | None = setting(None, "folder of the source")
    options: dict[str, Any] = setting(dict, "further settings of the source")
    protocol: str = setting("native", "whose train split", PROTOCOL)
    relative: bool = setting(False, "of last step minus first step of each chunk instead of every step")
    unknown_robots: str = setting("error", "blank robot types; identity is what the reference does", UNKNOWN)
    output_dir: Path = setting(Path("outputs"), "statistics/<key>.json goes there, in the reference's format")


@dataclass(frozen=True)
class ImportSettings:
    """Settings of `lary data import`."""

    source: str | None = setting(None, "key of LARYBench")
    data_dir: Path | None = setting(None, f"{_DATA}: latents are stored by their frames' content")
    csv_dir: Path | None = setting(None, _CSVS)
    split: str | None = setting(None, "one of the benchmark's own splits, e.g. val")
    model: str | None = setting(None, "the reference's name of the model, e.g. dinov2")
    latents_dir: Path | None = setting(None, "folder that la_path starts from (the reference's LARY_LA_DIR)")
    dtype: str = setting("float16", "of the store; float32 as the files", ("float32", "float16", "bfloat16"))
    output_dir: Path = setting(Path("outputs"), "cache/latents/imported-<model>-... goes there")


@dataclass(frozen=True)
class FromLeRobotSettings:
    """Settings of `lary data from-lerobot`."""

    root: Path | None = setting(None, "folder of the LeRobot dataset")
    out: Path | None = setting(None, "folder to write; must not exist, unless it holds the same")
    name: str | None = setting(None, "of the dataset; null = the task it was made from, or its folder")
    cameras: tuple[str, ...] | None = setting(None, "in this order; null = all")
    stride: int | None = setting(None, "steps of a chunk; null = as recorded, or a quarter second")
    embodiment: str | None = setting(None, "null = the one that the dataset states")
    action_keys: tuple[str, ...] = setting(("action",), "features that together are the action")
    state_key: str = setting("observation.state", "measured pose, of the same names as the actions")
    action_names: tuple[str, ...] | None = setting(
        None, "the dataset's names of the numbers in the embodiment's order; null = found by their meaning"
    )
    gripper_open: str = setting("high", "whether an open gripper is a high or a low number", ("high", "low"))
    label_threshold_m: float = setting(0.01, "smallest motion of a chunk that names an atomic primitive")


@dataclass(frozen=True)
class ToLeRobotSettings:
    """Settings that `lary data to-lerobot` has besides those of `lary data`."""

    out: Path | None = setting(None, "folder to write; must not exist, unless it holds the same")
    root: Path | None = setting(None, "folder of demonstrations, instead of env=<task>")
    repo_id: str | None = setting(None, "name that the dataset gets; null = local/lary-<task>")
    split: str = setting("all", "all are named in meta/info.json", ("train", "val", "test", "all"))
    video: bool = setting(True, "false = PNG in the tables: lossless, larger, faster to read at random")
    codec: str = setting("h264", "of the videos", CODECS)
    crf: int = setting(18, "of the videos: 0 to 51, less is better; LeRobot's 30 is meant for larger frames")


@dataclass(frozen=True)
class SampleSettings:
    """Settings of `lary data sample`."""

    out: Path = setting(Path("larybench-sample"), "folder to write; must not exist or be empty")


@dataclass(frozen=True)
class Action:
    """One action of `lary data`: what `--help` says of it, its settings, and what runs it."""

    what: str
    settings: type
    module: str


ACTIONS = {
    "sample": Action("Write a tiny, synthetic dataset in LARYBench's layout.", SampleSettings, "larybench"),
    "verify": Action("Read everything completely and say what is wrong.", VerifySettings, "verify"),
    "indices": Action("Choose which frames of each clip are seen.", IndicesSettings, "larybench"),
    "prepare": Action("Cut the clips of human_1st out of the originals.", PrepareSettings, "larybench"),
    "statistics": Action("Mean and std of each robot's actions.", StatisticsSettings, "larybench"),
    "import": Action("Make a store of latents that the reference extracted.", ImportSettings, "larybench"),
    "to-lerobot": Action("Write demonstrations as a LeRobot dataset.", ToLeRobotSettings, "lerobot"),
    "from-lerobot": Action("Write a LeRobot dataset as images and CSVs.", FromLeRobotSettings, "lerobot"),
}


def main(verb: str, arguments: Sequence[str]) -> int:
    """Collect demonstrations, or run an action and return 1 if anything is wrong or was left out.

    Raises:
        LaryPolicyError: Anything wrong with names, settings or data.
    """
    name = next((a for a in arguments if "=" not in a and not a.startswith("-")), None)
    if name is None:
        return run_main(verb, arguments)
    if name not in ACTIONS:
        raise UnknownNameError("action of `lary data`", name, ACTIONS)
    rest, action = [a for a in arguments if a != name], ACTIONS[name]
    if wants_help(rest):
        print(_help(name, action, rest))
        return 0
    require_one_process(f"`lary data {name}`")
    with busy(f"lary data {name}"):
        module = importlib.import_module(f"lary_policy.cli.{action.module}")
        run: Callable[..., bool] = getattr(module, name.replace("-", "_").replace("import", "import_stored"))
        if action.settings is ToLeRobotSettings:
            own = [field.name for field in dataclasses.fields(ToLeRobotSettings)]
            raw = compose("data", rest, extra=own)
            settings = {key: raw.pop(key) for key in own if key in raw}
            return 0 if run(decoded(ToLeRobotSettings, settings), raw) else 1
        return 0 if run(parse_settings(action.settings, rest)) else 1


def parse_settings[T](schema: type[T], arguments: Sequence[str]) -> T:
    """Read settings of an action from the command line; a source's own go into its `options`.

    Raises:
        UnknownNameError: A setting does not exist, or a value is none of its names.
        ConfigError: A value cannot be parsed or has the wrong type.
    """
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    first = dict(a.partition("=")[::2] for a in arguments if "=" in a)
    if "options" in known and "source" in first:
        from lary_policy.cli.compose import source_options

        own = [key for key in source_options(first["source"]) if key not in known]
        arguments = [f"options.{a}" if a.partition("=")[0].partition(".")[0] in own else a for a in arguments]
        settings = typed(arguments, [*known, *own])
        settings["options"] = {**source_options(first["source"]), **settings.get("options", {})}
        return decoded(schema, settings)
    return decoded(schema, typed(arguments, known))


def decoded[T](schema: type[T], values: dict[str, Any]) -> T:
    """Return the settings with these values.

    Raises:
        UnknownNameError: A value is none of its setting's names.
        ConfigError: A value has the wrong type.
    """
    import draccus

    from lary_policy.runs import named_cause

    try:
        settings = draccus.decode(schema, {k: v for k, v in values.items() if v is not None})
    except draccus.utils.DecodingError as error:
        raise named_cause(error, schema) from error
    check_names(settings)
    return settings


def _help(name: str, action: Action, arguments: Sequence[str]) -> str:
    if action.settings is not ToLeRobotSettings:
        return action_help(f"data {name} [setting=value] ...", action.what, action.settings)
    own = "\n".join(settings_rows(ToLeRobotSettings))
    return f"{run_help(f'data {name}', arguments)}\n\nsettings of to-lerobot:\n{own}"
