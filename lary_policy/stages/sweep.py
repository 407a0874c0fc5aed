"""`lary suite --multirun source=...`: Hydra's sweeps, on this machine or through any of its launchers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lary_policy.errors import ConfigError
from lary_policy.paths import configs_dir

FLAGS = ("--multirun", "-m")


def wants_sweep(arguments: Sequence[str]) -> bool:
    """Tell whether the arguments ask for a sweep."""
    return any(argument in FLAGS for argument in arguments)


def run_sweep(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb for every combination of the comma-separated settings; finished cells are not run again.

    Args:
        verb: `suite`, `extract` or `probe`.
        arguments: As typed; `hydra/launcher=...` and other settings of Hydra pass through.

    Raises:
        ConfigError: A setting does not exist.
        LaryPolicyError: A job found something wrong.
    """
    import hydra
    from hydra.errors import HydraException

    folder = next((a.partition("=")[2] for a in arguments if a.startswith("output_dir=")), "outputs")
    own = [f"hydra.sweep.dir={Path(folder)}/sweeps/${{now:%Y%m%d-%H%M%S}}", f"+verb={verb}"]
    before = sys.argv
    sys.argv = ["lary", *(a for a in arguments if a not in FLAGS), *own, "--multirun"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as they are instead of as a traceback and exit
    try:
        hydra.main(version_base="1.3", config_path=str(configs_dir()), config_name="suite_source")(run_job)()
    except HydraException as error:
        raise ConfigError(
            expected="settings that `lary suite source=calvin --help` lists, values with commas between",
            got=str(error).strip().splitlines()[0],
            fix="Example: lary suite --multirun source=calvin,libero encoder=pixels,dinov2-small seed=0,1",
        ) from error
    finally:
        sys.argv = before
    return 0


def run_job(config: Any) -> str:
    """Run one combination and return where its results are. Launchers may call it on another machine."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from lary_policy.stages.source_config import source_config
    from lary_policy.stages.source_suite import run_source_suite

    raw: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    verb = str(raw.pop("verb"))
    job = HydraConfig.get()
    raw["run"] = f"{Path(job.sweep.dir).name}-{job.job.num:03d}-{raw['source']}"
    outcome = run_source_suite(source_config(raw), until="report" if verb == "suite" else verb, verb=verb)
    return str(outcome.report or outcome.folder)
