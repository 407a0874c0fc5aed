"""A source under one protocol, its tables read once, and the cells of what is computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from lary_policy import __version__
from lary_policy.data import ClipTable, PairTable, Source, SourceSpec, open_source, require_protocol
from lary_policy.encoders import encoder_spec
from lary_policy.latents import store_dtype
from lary_policy.machine import available_cores, resolve_device
from lary_policy.stages.cells import Cell, digest
from lary_policy.stages.config import EncoderChoice
from lary_policy.stages.encoder_shelf import EncoderShelf
from lary_policy.stages.source_config import SourceConfig

ENCODER_SEED = 0  # of drawn weights and of noise: all heads of a sweep over seeds share their latents
# Raised when a stage computes something else from the same inputs, so that old cells are not reused.
STAGE_VERSIONS = {"extract": 1, "probe": 2}


@dataclass
class SourceData:
    """A source opened under one protocol.

    Attributes:
        source: The source.
        protocol: `native` or `lary`.
    """

    source: Source
    protocol: str
    _tables: dict[str, PairTable | ClipTable] = field(default_factory=dict)

    @property
    def spec(self) -> SourceSpec:
        """What the source holds."""
        return self.source.spec

    @property
    def label(self) -> str:
        """Readable name, e.g. `calvin-lary`."""
        return f"{self.spec.key}-{self.protocol}"

    @property
    def kind(self) -> str:
        """Whether probes predict `actions` or `classes`."""
        return "classes" if self.spec.embodiment is None else "actions"

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that is used, each once."""
        s = self.spec
        return tuple(dict.fromkeys((s.train_split, s.select_split, *s.report_splits)))

    def table(self, split: str) -> PairTable | ClipTable:
        """Read the rows of a split, once."""
        if split not in self._tables:
            read = self.source.pairs if self.spec.kind == "pairs" else self.source.clips
            self._tables[split] = read(split)
        return self._tables[split]

    @cached_property
    def digest(self) -> str:
        """Digest of all rows: CSV lines, classes, file names and action values, wherever the files lie."""
        found = hashlib.sha256(f"{self.spec}".encode())
        for split in self.splits:
            table = self.table(split)
            found.update(split.encode())
            for row in table.rows:
                found.update(_words(row).encode())
            if isinstance(table, PairTable):
                found.update(table.actions().numpy().tobytes())
        return found.hexdigest()[:16]


def _words(row: Any) -> str:
    """Return what a row says, its files by name without their folders."""
    if hasattr(row, "indices"):
        return f"{row.csv}|{row.line}|{row.clip}|{row.label}|{row.indices}\n"
    frames = [PurePath(str(frame)).name for frame in (*row.src_frames, *row.tgt_frames)]
    return f"{row.csv}|{row.line}|{row.episode}|{row.label}|{row.robot_type}|{row.noise_steps}|{frames}\n"


@dataclass
class SourceContext:
    """One run on a source.

    Attributes:
        config: What to do.
        data: The source under each of the run's protocols.
        device: Resolved torch device.
        cores: CPU cores that may be used.
        shelf: The encoders.
    """

    config: SourceConfig
    data: tuple[SourceData, ...]
    device: str
    cores: int
    shelf: EncoderShelf

    @classmethod
    def create(cls, config: SourceConfig) -> SourceContext:
        """Open the source and check every name before anything is computed.

        Raises:
            UnknownNameError: A source, encoder, head, target or logger does not exist.
            DatasetError: The source's folder is missing or holds something else.
            WeightsMissingError: The weights of an encoder are absent.
            ConfigError: CUDA is asked for and not there, or a head does not fit the source.
        """
        data = tuple(_open(config, key, protocol) for key in config.keys for protocol in config.protocols)
        device = resolve_device(config.device)
        context = cls(config, data, device, available_cores(), EncoderShelf(device, ENCODER_SEED))
        for one in data:
            config.heads_for(one.protocol, one.kind)
            for choice in context.choices(one.protocol):
                context.shelf.check(choice)
        return context

    def choices(self, protocol: str) -> tuple[EncoderChoice, ...]:
        """Return the encoders; under `lary` those that the reference runs are fed as it feeds them."""
        if protocol != "lary":
            return self.config.encoders
        return tuple(
            replace(c, preprocess="lary") if "lary" in encoder_spec(c.name).preprocess else c
            for c in self.config.encoders
        )

    def latents_dtype(self, data: SourceData, choice: EncoderChoice) -> str:
        """Return the dtype that an encoder's latents of a source are stored in."""
        return store_dtype(self.config.latents_dtype, data.protocol, self.shelf.dtype(choice))

    def lock(self, name: str) -> Path:
        """Return the file that a process locks while it computes what `name` says."""
        return self.config.output_dir / "cache" / "locks" / f"{name}.lock"

    def cell(self, stage: str, label: str, *inputs: Any) -> Cell:
        """Return the cell of a stage for the given inputs."""
        key = digest("source", STAGE_VERSIONS[stage], __version__, self.device, *inputs)
        return Cell(stage, label, key, self.config.output_dir / "cache")


def _open(config: SourceConfig, key: str, protocol: str) -> SourceData:
    options = {k: v for k, v in config.options.items() if v is not None}
    options = {
        k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in options.items()
    }
    source = open_source(key, data_dir=config.data_dir, protocol=protocol, **options)
    return SourceData(source, require_protocol(protocol))
