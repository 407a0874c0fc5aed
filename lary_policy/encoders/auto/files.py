"""Where the files of an `auto:` model are: a local folder, the hub, or timm's own registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import FOLDER_FILES, HubRepo, Weights, WeightsSource, hub_is_reachable
from lary_policy.errors import ConfigError

CONFIG_FILE = "config.json"
PATH_STARTS = (".", "/", "~")
EXAMPLES = "auto:facebook/dinov2-small, auto:./my-model-folder, auto:vit_small_patch16_224"


@dataclass(frozen=True)
class AutoName:
    """A name after `auto:`; exactly one of folder, repo and timm_name is set."""

    name: str  # as typed
    folder: Path | None = None  # local folder with config.json
    repo: str | None = None  # hub repository `owner/name`
    revision: str | None = None  # commit, branch or tag of the repository; None is its main branch
    timm_name: str | None = None  # name of a timm architecture

    @classmethod
    def parse(cls, name: str) -> AutoName:
        """Tell the three forms apart; a folder that exists wins over a hub id.

        Raises:
            ConfigError: The name is empty or a folder without config.json.
        """
        folder = Path(name).expanduser()
        if name.startswith(PATH_STARTS) or (name and folder.is_dir()):
            if not (folder / CONFIG_FILE).is_file():
                raise ConfigError(
                    expected=f"a model folder with {CONFIG_FILE}",
                    got=f"'{folder}' {'without one' if folder.is_dir() else 'is no folder'}",
                    fix="Save the model with save_pretrained(folder), and its image processor too.",
                )
            return cls(name, folder=folder)
        repo, _, revision = name.partition("@")
        parts = repo.split("/")
        if not all(parts) or len(parts) > 2:
            raise ConfigError(
                expected="auto: with a hub id, a local folder or a timm model name",
                got=f"'auto:{name}'",
                fix=f"Examples: {EXAMPLES}.",
            )
        if len(parts) == 2:
            return cls(name, repo=repo, revision=revision or None)
        return cls(name, timm_name=name)

    def config(self) -> Path:
        """Return config.json, downloaded where the hub has it.

        Raises:
            ConfigError: It is not in the cache and cannot be downloaded.
        """
        return self.file(CONFIG_FILE)

    def file(self, filename: str) -> Path:
        """Return a small file of the model, downloaded where the hub has it.

        Raises:
            ConfigError: It is not there.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        if self.folder is not None:
            return self.folder / filename
        hub = HubRepo(str(self.repo), self.revision, filename)
        # Without a network the client would retry for 20 s before it looks into its cache.
        offline = not hub_is_reachable()
        try:
            return Path(
                hf_hub_download(hub.repo_id, filename, revision=self.revision, local_files_only=offline)
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise ConfigError(
                expected=f"{filename} of '{self.repo}'",
                got=f"{type(error).__name__}{' (offline)' if offline else ''}: {_first_line(error)}",
                fix=f"See {hub.page()}: a gated model needs its licence accepted and `hf auth login`; "
                f"without a network, fetch it elsewhere: `hf download {self.repo}`.",
            ) from error

    def weights(self, hub: HubRepo | None) -> WeightsSource:
        """Return the places of the weights; `hub` is where a timm architecture has them."""
        if self.folder is not None:
            return WeightsSource(folder=self.folder)
        if self.repo is None:
            return WeightsSource(hub=hub)
        return WeightsSource(hub=HubRepo(self.repo, self.revision, self._weight_file()))

    def _weight_file(self) -> str:
        """Return which of the usual files the repository has; unknown ones count as the first."""
        from huggingface_hub import list_repo_files, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError

        repo = str(self.repo)
        for file in FOLDER_FILES:
            if isinstance(try_to_load_from_cache(repo, file, revision=self.revision), str):
                return file
        try:
            there = list_repo_files(repo, revision=self.revision) if hub_is_reachable() else []
        except (HfHubHTTPError, OSError):
            there = []
        return next((file for file in FOLDER_FILES if file in there), FOLDER_FILES[0])


def _first_line(error: Exception) -> str:
    """Return the first sentence of an error of the hub's client, whose advice is for its own arguments."""
    return str(error).strip().partition("\n")[0].partition(". ")[0]


@dataclass(frozen=True)
class AutoModelSource:
    """A model found by name, not built yet."""

    image_px: int  # side of the images it is made for
    preprocess: Preprocess  # its own input pipeline
    # From the input side to the model with weights drawn from torch's generator
    build: Callable[[int], nn.Module]
    # From the input side and a checkpoint's tensors to the model; raises WeightsMismatchError
    load: Callable[[int, Mapping[str, Tensor], Weights], nn.Module]
    channels_last: bool = False  # whether its feature maps are [b h w d]
    licence: str = "see its page"  # as its configuration says
    hub: HubRepo | None = None  # repository of its weights where the name itself is none
