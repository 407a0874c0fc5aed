"""The frames of a source or of videos: found, split, through the backbone once, and loaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lary_policy import __version__
from lary_policy.console import progress
from lary_policy.data import PairTable
from lary_policy.encoders import EncoderShelf, EncoderView, Preprocess, prepare_frames
from lary_policy.encoders.families import OWN_PATCHES, TRAINED_CONFIG, TrainedLam
from lary_policy.errors import (
    ConfigError,
    DatasetError,
    FrameFormatError,
    LaryPolicyError,
    WeightsMismatchError,
    summary,
)
from lary_policy.frames import Frame, VideoFrame, decode_frames, file_digest, frame_ids, probe_video
from lary_policy.lam import (
    Footage,
    LamConfig,
    LamRun,
    PairSampler,
    Recorded,
    lam_kind,
    recorded_clips,
    recorded_pairs,
    seen_pairs,
)
from lary_policy.latents import (
    FRAMES,
    encode_windows,
    good_batch_size,
    load_bank,
    ram_budget,
)
from lary_policy.machine import (
    available_cores,
    free_memory,
    intra_op_threads,
    made_ahead,
    resolve_device,
)
from lary_policy.paths import visible_files
from lary_policy.runs.cells import Cell, digest, plain
from lary_policy.runs.collect import run_collect
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import protocol_store, run_extract
from lary_policy.types import Quarantined

LAM_VERSION = 1  # raised when the same settings make another model
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
VIDEO_OFFSET = 10  # frames: a third of a second, in which an arm has moved and the camera mostly has not
FIRST_PAIRS = 64  # at least, of the batch that first weights may follow from
_IMAGES_SHARE = 0.5  # of the free memory, at most, for decoded frames


@dataclass(eq=False)
class LamTask:
    """Frames, split and encoded, and what is trained on them."""

    context: RunContext
    lam: LamConfig
    backbone: EncoderView
    train: Recorded
    val: Recorded
    offset: int
    frames: str  # whose they are, in words
    content: str  # digest of the frames
    quarantined: list[Quarantined]

    @classmethod
    def open(cls, config: RunConfig, lam: LamConfig, backbone: EncoderView, videos: Path | None) -> LamTask:
        """Find the frames, and encode those of a source."""
        own = backbone.name == OWN_PATCHES  # which have any size; that of the encoder `pixels` does not count
        if videos is None:
            context = RunContext.create(config, until="data" if own else "extract")
            context.data += [run_collect(context, task) for task in config.tasks]
            return _of_data(context, lam, backbone)
        device = resolve_device(config.device)
        shelf = EncoderShelf(device, frame_px=config.image_px)
        if not own:
            shelf.check(backbone)
        return _of_videos(RunContext(config, device, available_cores(), shelf), lam, backbone, videos)

    @property
    def image_px(self) -> int:
        """Side of the model's input."""
        return self.context.shelf.image_px(self.backbone)

    @property
    def protocol(self) -> str:
        """That the features of frames are stored under; videos have none."""
        return self.context.data[0].protocol if self.context.data else "native"

    @property
    def pipeline(self) -> Preprocess:
        """How frames become the model's input."""
        own = lam_kind(self.lam.model).pipeline
        return own or self.backbone.spec.preprocess_named(self.backbone.preprocess)

    def cell(self) -> Cell:
        """Return where the model is kept."""
        context, lam = self.context, self.lam
        length = "" if lam.code_seq_len is None else f"-sl{lam.code_seq_len}"
        label = f"{self.backbone.label}-{lam.model}-cs{lam.codebook}{length}-dim{lam.dim}"
        before = self._first_stage()
        facts = (
            before,
            LAM_VERSION,
            __version__,
            context.device,
            self.content,
            context.shelf.key(self.backbone),
            *([] if context.config.latents_dtype == "auto" else [context.config.latents_dtype]),
        )
        return Cell("lam", label, digest(*facts, plain(lam), self.offset, context.config.seed), context.cache)

    def _first_stage(self) -> list[str]:
        """Return the digests of the files of a first stage, which must be of the same features.

        Raises:
            ConfigError: This kind of model has one stage.
            WeightsMismatchError: The first stage is of another backbone, or no such folder.
        """
        if self.lam.stage_one is None:
            return []
        kind, folder, view = lam_kind(self.lam.model), Path(self.lam.stage_one), self.backbone
        if not kind.stages:
            raise ConfigError(
                expected=f"one stage of model={self.lam.model}", got="stage_one", fix="Leave stage_one out."
            )
        about = TrainedLam[Any].read(folder / TRAINED_CONFIG, self.lam.model, kind.stages)
        ours = (view.name, self.context.shelf.weights_key(view), view.layer, self.image_px)
        theirs = (about.backbone, about.backbone_sha256, about.layer, about.image_px)
        if ours != theirs:
            words = [
                f"{name}, layer {layer}, {px} px, weights {sha256[:8]}..."
                for name, sha256, layer, px in (ours, theirs)
            ]
            raise WeightsMismatchError(
                expected=f"a first stage on features of {words[0]}",
                got=f"{words[1]} at {folder}",
                fix="Train both stages on the same backbone.",
            )
        absent = [name for name in kind.files if not (folder / name).is_file()]
        if absent:
            raise WeightsMismatchError(
                expected=f"a first stage at {folder}",
                got=f"no {', '.join(absent)} there",
                fix="Pass stage_one=<folder of `lary lam model=univla`>.",
            )
        return [file_digest(folder / name) for name in (TRAINED_CONFIG, *kind.files)]

    def build(self) -> LamRun:
        """Load frames and build the model; its first weights follow from the seed and a first batch.

        Raises:
            DatasetError: No recording has two frames as far apart as asked for.
            ConfigError: Sizes do not fit each other, the frames or the memory.
        """
        context, pixels = self.context, wants_pixels(self.lam, self.backbone)
        kind, seed, device = lam_kind(self.lam.model), context.config.seed, context.device
        parts = [self._footage(part, pixels) for part in (self.train, self.val)]
        if kind.states:
            motion = [part.motion_of(f) for part, f in zip((self.train, self.val), parts, strict=True)]
            mean, std = zip(*(_spread(one) for one in motion[0]), strict=True)
            parts = [
                replace(f, states=(states - mean[0]) / std[0], chunks=(chunks - mean[1]) / std[1])
                for f, (states, chunks) in zip(parts, motion, strict=True)
            ]
        try:
            named = zip(parts, ("train", "held out"), strict=True)
            train, val = (PairSampler.of(footage, self.offset, name) for footage, name in named)
        except DatasetError as error:
            got = f"{error.got}{_set_aside(self.quarantined)}"
            raise DatasetError(expected=error.expected, got=got, fix=error.fix) from error
        drawn = train.draw(max(FIRST_PAIRS, self.lam.batch_size), torch.Generator().manual_seed(seed))
        sample = seen_pairs(train.footage, *drawn, self.pipeline, self.image_px, "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = _within_memory(lambda: kind.build(self.lam, sample, pixels))
        return LamRun(module, train, val, self.pipeline, self.image_px, self.lam, seed, device)

    def _footage(self, part: Recorded, pixels: bool) -> Footage:
        """Load what the model sees of the frames; those that cannot be had are left out, and counted."""
        context, images, usable = self.context, None, part.frames
        if pixels:
            images, usable, lost = image_bank(part.frames, self.image_px, self.pipeline, context.cores)
            self.quarantined += lost
        if self.backbone.name == OWN_PATCHES:
            return part.footage(usable, None, images)
        store = protocol_store(context, self.protocol, self.backbone)
        names = frame_ids(usable)
        found = {place: n for place, n in enumerate(names) if isinstance(n, str) and store.contains(n)}
        there = list(found)
        bank = load_bank(store, list(found.values()), ram_budget(context.config.latents_ram_gb))
        images = None if images is None else images[torch.tensor(there)]
        return part.footage([usable[place] for place in there], bank, images)


def _within_memory[T](build: Callable[[], T]) -> T:
    """Return what is built; torch says that memory is short with an error of its own.

    Raises:
        ConfigError: The sizes need more memory than there is.
    """
    try:
        return build()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error) and "memory" not in str(error):
            raise
        raise ConfigError(
            expected=f"a model within {free_memory() / 1e9:.0f} GB of free memory",
            got=summary(error, 200),
            fix="Pass a smaller width, dim or codebook.",
        ) from error


def _set_aside(quarantined: Sequence[Quarantined]) -> str:
    """Say what could not be used, the first three by name."""
    if not quarantined:
        return ""
    some = "; ".join(f"{one.item}: {one.reason}" for one in quarantined[:3])
    return f"; {len(quarantined)} set aside: {some}"


def _spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the columns of [M n] where they are known, at least 1e-6."""
    known = values[values.isfinite().all(dim=1)]
    return known.mean(dim=0), known.std(dim=0, correction=0).clamp(min=1e-6)


def wants_pixels(lam: LamConfig, backbone: EncoderView) -> bool:
    """Tell whether the decoder predicts pixels."""
    own = backbone.name == OWN_PATCHES
    if own and lam.target == "features":
        raise ConfigError(
            expected="a backbone with features", got="backbone=pixels", fix="Leave target=features out."
        )
    return own or lam.target == "pixels"


def _of_data(context: RunContext, lam: LamConfig, backbone: EncoderView) -> LamTask:
    """Encode the frames of tasks or of a source of files."""
    aside: list[Quarantined] = []
    splits: dict[str, list[Recorded]] = {"train": [], "val": []}
    for data in context.data:
        if backbone.name != OWN_PATCHES:
            aside += [Quarantined(**one) for one in run_extract(context, data, backbone)["quarantined"]]
        for split, name in (("train", data.spec.train_split), ("val", data.spec.select_split)):
            table = data.table(name)
            splits[split].append(
                recorded_pairs(table) if isinstance(table, PairTable) else recorded_clips(table)
            )
    offset = lam.offset or max(data.spec.stride or 1 for data in context.data)
    train, val = (Recorded.joined(parts) for parts in splits.values())
    content = digest([data.digest for data in context.data])
    frames = ", ".join(context.config.tasks or context.config.keys)
    return LamTask(context, lam, backbone, train, val, offset, frames, content, aside)


def _of_videos(context: RunContext, lam: LamConfig, backbone: EncoderView, folder: Path) -> LamTask:
    """Find the videos of a folder, hold some out, and encode the frames that pairs are made of.

    Their content decides which are held out, not their names; of equal files one counts.
    """
    offset = lam.offset or VIDEO_OFFSET
    found, aside = _videos(folder, offset)
    if len(found) < 2:
        raise DatasetError(
            expected=f"at least two videos ({', '.join(VIDEOS)}) of more than {offset} frames in {folder}",
            got=f"{len(found)}{_set_aside(aside)}",
            fix="Pass videos=<folder with videos>, one is held out.",
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    count = min(len(found) - 1, max(1, round(lam.val_fraction * len(found))))
    names = sorted(found)
    held_out = {names[place] for place in order[:count]}
    train, val = (
        Recorded.of(row for name in names if (name in held_out) == out for row in found[name])
        for out in (False, True)
    )
    if backbone.name != OWN_PATCHES:
        aside += _encode(context, backbone, [*train.frames, *val.frames])
    content = digest(names, sorted(held_out))
    return LamTask(
        context, lam, backbone, train, val, offset, f"videos {folder.resolve().name}", content, aside
    )


def _videos(
    folder: Path, offset: int
) -> tuple[dict[str, list[tuple[object, int, Frame]]], list[Quarantined]]:
    """Return (recording, step, frame) of each video by the digest of its file, and what cannot be used."""
    every = max(1, offset // 2)  # so that frames `offset` and 1.5 `offset` apart are there
    found: dict[str, list[tuple[object, int, Frame]]] = {}
    aside: list[Quarantined] = []
    paths = visible_files(folder, "**/*") if folder.is_dir() else []
    for path in (p for p in paths if p.suffix.lower() in VIDEOS):
        try:
            count, name = probe_video(path).frames, file_digest(path)
            if count <= offset:
                fix = "Pass a smaller offset."
                raise FrameFormatError(expected=f"more than {offset} frames", got=str(count), fix=fix)
            if name in found:
                fix = "Keep one of them."
                raise FrameFormatError(
                    expected="videos that differ", got=f"the content of {found[name][0][0]}", fix=fix
                )
            found[name] = [(path, i, VideoFrame(path, i)) for i in range(0, count, every)]
        except FrameFormatError as error:
            aside.append(Quarantined(str(path.relative_to(folder)), str(error), "lam"))
    return found, aside


def _encode(context: RunContext, view: EncoderView, frames: Sequence[Frame]) -> tuple[Quarantined, ...]:
    """Encode the frames of videos that the store lacks."""
    encoder = context.shelf.load(view)
    with progress(f"encode frames of videos, {view.label}") as update, intra_op_threads(1):
        return encode_windows(
            [(frame,) for frame in frames], FRAMES, encoder, protocol_store(context, "native", view),
            batch_size=good_batch_size(context.device), threads=context.cores, on_progress=update,
        ).quarantined  # fmt: skip


def image_bank(
    frames: Sequence[Frame], image_px: int, pipeline: Preprocess, threads: int
) -> tuple[Tensor, tuple[Frame, ...], tuple[Quarantined, ...]]:
    """Decode frames to uint8 [F h w 3] at the model's size; return also which could be, and why others not.

    Frames of another size are resized as the pipeline says and rounded to whole grey levels.

    Raises:
        DatasetError: They take more memory than there is.
    """
    needed, free = len(frames) * 3 * image_px**2, free_memory() * _IMAGES_SHARE
    if needed > free:
        raise DatasetError(
            expected=f"at most {free / 1e9:.1f} GB of decoded frames",
            got=f"{needed / 1e9:.1f} GB: {len(frames)} frames of {image_px} px",
            fix="Choose a backbone with features (target=features), a larger offset or a smaller image_px.",
        )
    plain_pipeline = replace(pipeline, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), video=None)
    bank = torch.empty(len(frames), image_px, image_px, 3, dtype=torch.uint8)
    usable: list[Frame] = []
    lost: list[Quarantined] = []

    def decoded(some: tuple[Frame, ...]) -> list[tuple[Frame, Tensor | LaryPolicyError]]:
        return list(zip(some, decode_frames(some), strict=True))

    for group in made_ahead(itertools.batched(frames, 64), decoded, threads):
        for frame, image in group:
            if not isinstance(image, Tensor):
                lost.append(Quarantined(str(frame), str(image), "lam"))
                continue
            if image.shape[:2] != (image_px, image_px):
                whole = prepare_frames(
                    image[None, None],
                    image_px,
                    plain_pipeline,
                    device=torch.device("cpu"),
                    dtype=torch.float32,
                )[0]
                image = (whole.movedim(0, -1) * 255).round().clamp(0, 255).to(torch.uint8)
            bank[len(usable)] = image
            usable.append(frame)
    return bank[: len(usable)], tuple(usable), tuple(lost)
