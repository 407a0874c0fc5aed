"""`lary suite --multirun seed=0,1`: Hydra's sweeps, on this machine or through any of its launchers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lary_policy.errors import ConfigError

FLAGS = ("--multirun", "-m")


def wants_sweep(arguments: Sequence[str]) -> bool:
    """Tell whether the arguments ask for a sweep."""
    return any(argument in FLAGS for argument in arguments)


def run_sweep(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb for every combination of the comma-separated settings; finished cells are not run again.

    Args:
        verb: One that runs stages.
        arguments: As typed; `hydra/launcher=...` and other settings of Hydra pass through.

    Raises:
        ConfigError: A setting cannot be parsed.
        LaryPolicyError: A job found something wrong.
    """
    import hydra
    from hydra.errors import HydraException

    folder = next((a.partition("=")[2] for a in arguments if a.startswith("output_dir=")), "outputs")
    own = [f"hydra.sweep.dir={Path(folder)}/sweeps/${{now:%Y%m%d-%H%M%S}}", f"++verb={verb}"]
    # Hydra only multiplies the settings out: what they mean is decided by `compose`, for each job.
    words = [a if a.startswith("hydra") else f"++{a.lstrip('+')}" for a in arguments if a not in FLAGS]
    before = sys.argv
    sys.argv = ["lary", *words, *own, "--multirun"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as they are instead of as a traceback and exit
    try:
        hydra.main(version_base="1.3", config_path=None)(run_job)()
    except HydraException as error:
        raise ConfigError(
            expected=f"settings that `lary {verb} --help` lists, values with commas between",
            got=str(error).strip().splitlines()[0],
            fix=f"Example: lary {verb} --multirun encoder=pixels,dinov2-small seed=0,1",
        ) from error
    finally:
        sys.argv = before
    return 0


def run_job(config: Any) -> str:
    """Run one combination and return where its results are. Launchers may call it on another machine."""
    from hydra.core.hydra_config import HydraConfig

    from lary_policy.cli.run import run_verb

    job = HydraConfig.get()
    words = [word.removeprefix("++") for word in job.overrides.task]
    verb = next(word.partition("=")[2] for word in words if word.startswith("verb="))
    rest = [word for word in words if not word.startswith("verb=")]
    return str(run_verb(verb, rest, run=f"{Path(job.sweep.dir).name}-{job.job.num:03d}"))
