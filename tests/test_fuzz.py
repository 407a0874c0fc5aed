"""Damaged files of every format that is read: the same value, a named error or a row set aside, never a wait.

Of files of our own making no other value may be read, or `verify` finds the change. In files of others that
come without checksums nothing tells one legal value from another (a digit of a CSV, a pixel): what is read
then must obey the rules of its reader, which `legal` states for each.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations as damage
import numpy as np
import pytest
import torch
import yaml
from larybench_files import make_calvin, make_clips
from lerobot_files import write_lerobot
from PIL import Image
from safetensors.torch import save_file
from video_files import moving_square, write_video

from lary_policy.actions.statistics import ActionStats
from lary_policy.data import layout
from lary_policy.data.arrays import PlainChunks, read_chunk, read_steps
from lary_policy.data.integrity import find_changes, require_written, write_checksums
from lary_policy.data.larybench.indices import ClipIndices, _Notes
from lary_policy.data.larybench.statistics import read_statistics
from lary_policy.data.lerobot.files import LeRobotFiles
from lary_policy.data.lerobot.view import LeRobotAbout, write_view
from lary_policy.data.registry import open_source
from lary_policy.data.simulated.writer import read_episodes
from lary_policy.encoders.weights import read_config, read_tensors
from lary_policy.errors import LaryPolicyError
from lary_policy.frames.digests import DigestMemory
from lary_policy.frames.frame import MAX_PIXELS, decode_frame
from lary_policy.frames.stored import ParquetFrame
from lary_policy.frames.video import check_video, frame_numbers, probe_video, read_video_frames
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.files import HeadMeta, build_head, load_head, load_reference_head, save_head
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.training.resume import EpochRecord, Progress, load_progress, save_progress
from lary_policy.latents.reference import read_npz
from lary_policy.latents.store import LatentStore
from lary_policy.paths import write_json
from lary_policy.rollout import EpisodeProgress
from lary_policy.rollout.film import Film
from lary_policy.runs.cells import Cell
from lary_policy.types import LatentSpec

SECONDS = 20.0  # a file that takes longer than this hangs
DICE = 7
SLOW = {
    "drop-in config", "drop-in processors", "drop-in weights", "episodes", "image: steps", "pair csv",
    "policy config", "policy weights", "processors", "state of processors", "stats.json",
    "steps for a view", "tasks", "video: steps",
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A file, what reads it, and how it is damaged beside single bits.

    Attributes:
        path: A good file.
        read: Returns what it holds; the number of rows set aside under `aside`, if there are rows.
        damage: Structural damage of its format.
        legal: Of files of others: whether another value obeys the reader's rules. None for files of ours.
        found: Whether a check of the folder finds the change, where reading alone does not.
    """

    path: Path
    read: Callable[[Path], Any]
    damage: Callable[[bytes, random.Random], bytes]
    legal: Callable[[Any], bool] | None = None
    found: Callable[[Path], bool] = lambda path: False


def plain(value: Any) -> Any:
    """Return what two readings are compared by."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = value.view(torch.uint8).numpy() if isinstance(value, torch.Tensor) and value.dim() else value
        return str(value.dtype), tuple(value.shape), np.asarray(array).tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else repr(value)


def finite(value: Any) -> bool:
    """Tell whether all numbers of tensors and arrays in a value are finite."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return bool(np.isfinite(np.asarray(value, dtype=np.float64)).all())
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(finite, value))


class Readers(dict[str, Reader]):
    """All readers by name, with their good files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for make in (self.arrays, self.pictures, self.tables, self.lerobot, self.weights, self.policies,
                     self.datasets, self.results, self.heads, self.stores):  # fmt: skip
            make()

    def folder(self, name: str) -> Path:
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return self.root / name

    def arrays(self) -> None:
        rng, place = np.random.default_rng(0), self.root / "a.npy"
        np.save(place, rng.normal(size=(5, 7)).astype(np.float32))
        whole = lambda p: (read_chunk(p, 5, 7), read_steps(p, 7))  # noqa: E731
        self["npy"] = Reader(place, whole, damage.of_bytes, lambda v: finite(v) and v[0].shape == (5, 7))
        # Of many files at once: what is not plain is None and read by the other; values are checked later.
        blocks = lambda p: PlainChunks(5, 7).read(str(p))  # noqa: E731
        self["npy in blocks"] = Reader(
            place, blocks, damage.of_bytes, lambda v: v is None or len(v) in (140, 280)
        )
        np.savez(self.root / "a.npz", tokens=rng.normal(size=(2, 4, 3)).astype("f4"), indices=np.arange(8))
        latent = lambda v: v.tokens.dim() in (2, 3) and v.tokens.numel() > 0 and finite(v.tokens)  # noqa: E731
        self["npz"] = Reader(self.root / "a.npz", read_npz, damage.of_zip, latent)

    def pictures(self) -> None:
        picture = Image.fromarray(moving_square(1)[0])
        image = lambda v: v.dtype == torch.uint8 and v.shape[2:] == (3,) and v[..., 0].numel() <= MAX_PIXELS  # noqa: E731
        for suffix in ("png", "jpg", "bmp", "webp", "tiff", "ppm"):
            picture.save(self.root / f"a.{suffix}")
            self[suffix] = Reader(self.root / f"a.{suffix}", decode_frame, damage.of_bytes, image)

        def film(p: Path) -> Any:
            return probe_video(p), check_video(p), frame_numbers(p, [0.0]), read_video_frames(p, [1, 7])

        frames = lambda v: v[0].frames > 7 and v[3].dtype == torch.uint8 and len(v[3]) == 2  # noqa: E731
        for suffix, codec in (("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")):
            video = write_video(self.root / f"v.{suffix}", moving_square(12), codec=codec)
            self[suffix] = Reader(video, film, damage.of_bytes, frames)

    def tables(self) -> None:
        calvin, clips = self.folder("calvin"), self.folder("clips")
        make_calvin(calvin, train=8)
        make_clips(clips, recordings=2)

        def pairs(_: Path) -> Any:
            table = open_source("calvin", data_dir=calvin, protocol="lary").pairs("train")
            rows = [(r.src_frames, r.tgt_frames, r.action, r.label) for r in table.rows]
            return {"aside": len(table.quarantined), "rows": rows, "values": table.action_values}

        def inside(v: Any) -> bool:
            files = [f for *frames, action, _ in v["rows"] for f in (*frames[0], *frames[1], action)]
            return finite(v["values"]) and all(Path(f).resolve().is_relative_to(calvin) for f in files)

        def cut(_: Path) -> Any:
            table = open_source("robot_1st", data_dir=clips, protocol="lary").clips("train")
            rows = [(r.path, r.label, r.indices) for r in table.rows]
            return {"aside": len(table.quarantined), "rows": rows}

        def ascending(v: Any) -> bool:
            return all(p.resolve().is_relative_to(clips) and label and min(i) >= 0 and list(i) == sorted(i)
                       for p, label, i in v["rows"])  # fmt: skip

        csv = calvin / "data" / "calvin_metadata_train.csv"
        self["pair csv"] = Reader(csv, pairs, damage.of_csv, inside)
        self["clip csv"] = Reader(
            clips / "data" / "robot_1st_metadata_train.csv", cut, damage.of_csv, ascending
        )

    def lerobot(self) -> None:
        for kind in ("video", "image"):
            root = write_lerobot(self.root / kind, episodes=3, steps=8, video=kind == "video")

            def rows(_: Path, root: Path = root) -> Any:
                source = open_source("lerobot", data_dir=root)
                table = source.pairs("train")
                found = [(r.src_frames, r.src_step, r.tgt_step, r.episode) for r in table.rows]
                return {"aside": len(table.quarantined), "rows": found, "values": table.action_values,
                        "fps": source.files.fps}  # fmt: skip

            def legal(v: Any, root: Path = root) -> bool:
                paths = [frame.path for frames, *_ in v["rows"] for frame in frames]
                ordered = all(a < b for _, a, b, _ in v["rows"])
                return finite(v["values"]) and ordered and v["fps"] > 0 and all(
                    Path(os.path.abspath(p)).is_relative_to(root) for p in paths)  # fmt: skip  # noqa: PTH100

            def view(_: Path, root: Path = root, kind: str = kind) -> Any:
                out = self.root / f"{kind}-view"
                shutil.rmtree(out, ignore_errors=True)
                write_view(LeRobotFiles.read(root), out, camera_stats={"mean": [0.0]})
                return json.loads((out / "meta" / "stats.json").read_text())

            def cells(path: Path) -> Any:
                return [decode_frame(ParquetFrame(path, "observation.images.top", i)) for i in (0, 7)]

            steps = next((root / "data").rglob("*.parquet"))
            self[f"{kind}: steps"] = Reader(steps, rows, damage.of_parquet, legal)
            if kind == "image":
                self["image: cells"] = Reader(
                    steps, cells, damage.of_parquet, lambda v: all(i.shape[2] == 3 for i in v)
                )
                continue
            episodes = next((root / "meta" / "episodes").rglob("*.parquet"))
            self["info.json"] = Reader(root / "meta" / "info.json", rows, damage.of_json, legal)
            self["tasks"] = Reader(root / "meta" / "tasks.parquet", rows, damage.of_parquet, legal)
            self["episodes"] = Reader(episodes, rows, damage.of_parquet, legal)
            # Copied for LeRobot, which reads them: what is copied is a JSON object.
            is_object = lambda v: isinstance(v, dict)  # noqa: E731
            self["stats.json"] = Reader(root / "meta" / "stats.json", view, damage.of_json, is_object)
            self["steps for a view"] = Reader(steps, view, damage.of_parquet, is_object)

    def weights(self) -> None:
        root, rng = self.folder("weights"), torch.Generator().manual_seed(0)
        tensors = {"a.weight": torch.randn(4, 3, generator=rng), "a.bias": torch.zeros(4)}
        # Any numbers are weights; that they are others shows in their sha256, which results carry.
        tensor = lambda v: bool(v) and all(isinstance(one, torch.Tensor) for one in v.values())  # noqa: E731
        save_file(tensors, root / "w.safetensors")
        torch.save(tensors, root / "w.pt")
        torch.save(tensors, root / "w.bin", _use_new_zipfile_serialization=False)
        self["safetensors"] = Reader(root / "w.safetensors", read_tensors, damage.of_safetensors, tensor)
        self["pt"] = Reader(root / "w.pt", read_tensors, damage.of_zip, tensor)
        self["bin"] = Reader(root / "w.bin", read_tensors, damage.of_bytes, tensor)
        index = root / "w.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "w.safetensors")}))
        self["index of shards"] = Reader(index, read_tensors, damage.of_json, tensor)
        probe = torch.nn.Linear(3, 4)
        torch.save({"model_state_dict": probe.state_dict()}, root / "best_model.pth")

        def reference(path: Path) -> Any:
            module = torch.nn.Linear(3, 4)
            load_reference_head(module, path)
            return module.state_dict()

        self["reference head"] = Reader(root / "best_model.pth", reference, damage.of_zip, tensor)
        config = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "labels": ["a", "b"]}
        (root / "config.json").write_text(json.dumps(config))
        legal = lambda v: isinstance(v, dict) and "auto_map" not in v  # noqa: E731
        self["config.json"] = Reader(
            root / "config.json", lambda p: read_config(p, "x"), damage.of_json, legal
        )

    def policies(self) -> None:
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
        from lerobot.processor import ProcessorStep

        from lary_policy.policy.modeling_lary import LaryPolicy
        from lary_policy.policy.processor_lary import make_lary_pre_post_processors
        from lary_policy.policy.trusted import load_processors, read_policy, require_trusted_file

        folder, settings = self.folder("checkpoint"), _lary_config()
        LaryPolicy(settings).save_pretrained(folder)
        stats = {k: {"mean": torch.zeros(7), "std": torch.ones(7)} for k in ("observation.state", "action")}
        for processor in make_lary_pre_post_processors(settings, stats):
            processor.save_pretrained(folder)

        def steps(_: Path) -> Any:
            both = load_processors(read_policy(folder, "cpu"), folder)
            return [(type(step).__name__, step.get_config(), step.state_dict(), isinstance(step, ProcessorStep))  # noqa: E501
                    for pipeline in both for step in pipeline.steps]  # fmt: skip

        harmless = lambda v: all(step[-1] for step in v)  # noqa: E731
        self["processors"] = Reader(folder / "policy_preprocessor.json", steps, damage.of_json, harmless)
        state = next(folder.glob("policy_preprocessor*.safetensors"))
        self["state of processors"] = Reader(state, steps, damage.of_safetensors, harmless)
        self["policy config"] = Reader(
            folder / "config.json", lambda p: vars(read_policy(folder, "cpu")), damage.of_json,
            lambda v: isinstance(v["chunk_size"], int | type(None)),
        )  # fmt: skip
        shapes = {name: one.shape for name, one in LaryPolicy(settings).state_dict().items()}
        self["policy weights"] = _policy_weights(folder, shapes)
        drop_in, settings = self.folder("drop-in"), _drop_in_config()
        policy = get_policy_class(settings.type)(config=settings, dataset_stats=None)
        policy.save_pretrained(drop_in)
        for processor in make_pre_post_processors(settings, dataset_stats=stats):
            processor.save_pretrained(drop_in)
        self["drop-in weights"] = _policy_weights(
            drop_in, {n: v.shape for n, v in policy.state_dict().items()}
        )
        self["drop-in config"] = Reader(
            drop_in / "config.json", lambda p: vars(read_policy(drop_in, "cpu")), damage.of_json,
            lambda v: isinstance(v["chunk_size"], int | type(None)),
        )  # fmt: skip

        def their_steps(_: Path) -> Any:
            both = load_processors(read_policy(drop_in, "cpu"), drop_in)
            return [(type(step).__name__, step.get_config(), step.state_dict(), isinstance(step, ProcessorStep))  # noqa: E501
                    for pipeline in both for step in pipeline.steps]  # fmt: skip

        self["drop-in processors"] = Reader(
            drop_in / "policy_postprocessor.json", their_steps, damage.of_json, harmless
        )
        # What `lary train --config_path` looks at before LeRobot reads it; nothing in it may name code.
        told = {"dataset": {"repo_id": "a/b"}, "policy": {"type": "lary", "chunk_size": 4}, "steps": 9}
        for suffix, text in (("json", json.dumps(told)), ("yaml", yaml.safe_dump(told))):
            place = self.root / f"settings.{suffix}"
            place.write_text(text)
            self[f"training settings {suffix}"] = Reader(
                place, require_trusted_file, damage.of_json if suffix == "json" else damage.of_bytes,
                lambda v: v is None,
            )  # fmt: skip

    def datasets(self) -> None:
        sim = self.folder("sim")
        about = {"dataset": "reach", "task": "reach", "embodiment": "arm7", "stride": 5, "cameras": ["front"],
                 "seeds": {"train": [0], "val": [1]}}  # fmt: skip
        record = {"seed": 1, "split": "train", "steps": 10, "success": True, "success_step": 5,
                  "labels": ["Up", ""], "noise_steps": [0, 2], "failure": ""}  # fmt: skip
        write_json(sim / layout.DATASET_FILE, about, seal=True)
        write_json(sim / layout.EPISODES_FILE, {"0": record, "1": record})
        write_checksums(sim)
        found = lambda p: bool(list(find_changes(p.parent, workers=0)))  # noqa: E731
        dataset, episodes = sim / layout.DATASET_FILE, sim / layout.EPISODES_FILE
        opened = lambda p: open_source("simulated", data_dir=p.parent).spec  # noqa: E731
        self["dataset.json"] = Reader(dataset, opened, damage.of_json, found=found)
        self["episodes.json"] = Reader(
            episodes, lambda p: read_episodes(p.parent), damage.of_json, found=found
        )
        self["checksums"] = Reader(
            sim / "checksums.json",
            lambda p: list(find_changes(p.parent, workers=0)),
            damage.of_json,
            found=found,
        )
        one = {"count": 9, "mean": [0.0] * 7, "std": [1.0] * 7}
        stats = {"dataset": "calvin", "action_mode": "absolute", "robot_stats": {"a": one}, "global": one}
        write_json(self.root / "ours.json", stats, seal=True)
        write_json(self.root / "theirs.json", stats)

        def read(p: Path) -> Any:
            found = read_statistics(p, dataset="calvin", action_dim=7)
            return found.robots, found.everything

        numbers = lambda v: finite([np.array(s.std) for s in (*v[0].values(), v[1])])  # noqa: E731
        self["statistics"] = Reader(self.root / "ours.json", read, damage.of_json)
        self["statistics of others"] = Reader(self.root / "theirs.json", read, damage.of_json, numbers)
        lary = {"repo_id": "a/b", "frames": "png", "cameras": ["front"], "dataset": {"failed": {"0": record}},
                "episodes": [{"episode": 0, "seed": 1, "split": "train"}], "steps": 9, "seconds": 1.0,
                "unreadable": [{"item": "x"}]}  # fmt: skip
        write_json(self.folder("about/meta") / "lary.json", lary, seal=True)
        self["lary.json"] = Reader(
            self.root / "about/meta/lary.json", lambda p: LeRobotAbout.read(p.parents[1]), damage.of_json
        )
        notes, clip = self.root / "notes.jsonl", self.root / "v.mp4"
        book = _Notes(notes, {"frames": 9, "protocol": "lary"})
        book.read({})
        book.add("v.mp4", ClipIndices((0, 3, 7), "uniform", "", clip.stat().st_size))
        good = _Notes(notes, {"frames": 9, "protocol": "lary"}).read({"v.mp4": clip})

        def noted(path: Path) -> Any:
            value = _Notes(path, {"frames": 9, "protocol": "lary"}).read({"v.mp4": clip})
            return good if value == {} else value  # what is not noted is chosen again

        self["notes of indices"] = Reader(notes, noted, damage.of_lines)
        memory = DigestMemory(self.root / "digests.sqlite")
        memory.keep("/a", (3, 4, 5), "f" * 64)
        memory.flush()

        def digest(path: Path) -> Any:
            known = DigestMemory(path).find("/a", (3, 4, 5))
            return "f" * 64 if known is None else known  # what is not known is read again

        self["digests"] = Reader(self.root / "digests.sqlite", digest, damage.of_bytes)

    def results(self) -> None:
        cell = Cell("probe", "x", "k", self.root)
        cell.finish({"task": "reach", "scores": [{"value": 0.25, "n": 8}], "seconds": 1.5})
        self["result.json"] = Reader(cell.folder / "result.json", lambda p: cell.result(), damage.of_json)
        folder = self.folder("rollout")
        unfinished = folder / "episodes.partial.json"
        EpisodeProgress(unfinished).write([], 3.25)
        self["finished episodes"] = Reader(
            unfinished, lambda p: EpisodeProgress(unfinished).read(), damage.of_json
        )
        film = Film(folder / "f.mp4")
        film.keep([3], torch.arange(24.0).view(4, 1, 6))
        self["commands of an episode"] = Reader(
            next(folder.rglob("3.safetensors")), lambda p: film._read(3).clone(), damage.of_safetensors
        )
        report = self.folder("report") / "report.json"
        report.write_text(json.dumps([{"value": 0.25}]))
        write_checksums(report.parent)

        def card(path: Path) -> Any:
            require_written(path)
            return json.loads(path.read_text())

        self["report.json"] = Reader(report, card, damage.of_json)

    def heads(self) -> None:
        stats = ActionStats((0.5,) * 7, (2.0,) * 7, 10)
        meta = HeadMeta(
            model=ActionExpertConfig(16, 1, PoolConfig("project", 3)), encoder="pixels",
            fingerprint="0123456789abcdef", latent_shape=(2, 1, 4, 8), cameras=("front",), embodiment="arm7",
            task="reach", mode="subgoal", target="relative", chunk=5, action_dim=7, stats=stats,
            proprio_stats=stats, token_grid=(1, 2, 2), seed=3,
        )  # fmt: skip
        folder = self.folder("head")
        save_head(folder, build_head(meta), meta)

        def read(_: Path) -> Any:
            head, found = load_head(folder)
            return head.state_dict(), found

        self["head.json"] = Reader(folder / "head.json", read, damage.of_json)
        self["head.safetensors"] = Reader(folder / "head.safetensors", read, damage.of_safetensors)
        wanted = json.loads(json.dumps(dataclasses.asdict(TrainConfig(4, 32, 3e-3, 1e-2, 0.1, "cosine"))))

        def state() -> tuple[Any, Any, Any]:
            head = torch.nn.Linear(3, 2)
            return head, [torch.optim.AdamW(head.parameters())], torch.Generator().manual_seed(1)

        head, optimisers, generator = state()
        head(torch.ones(1, 3)).sum().backward()
        optimisers[0].step()
        progress = Progress(
            1,
            0.5,
            1,
            0,
            {k: v.clone() for k, v in head.state_dict().items()},
            [0],
            [EpochRecord(1, 4, 0.7, 0.5, 1e-3, 2.0)],
        )
        path = self.root / "training.safetensors"
        save_progress(path, wanted, progress, head, optimisers, generator)

        def resumed(p: Path) -> Any:
            head, optimisers, generator = state()
            found = load_progress(p, wanted, head, optimisers, generator)
            if found.epoch == 0:  # an empty path: training starts anew
                return found
            return found, head.state_dict(), optimisers[0].state_dict()["state"], generator.get_state()

        self["training"] = Reader(path, resumed, damage.of_safetensors)

    def stores(self) -> None:
        root, names = self.folder("store"), [f"{n:064x}" for n in (1, 2, 3)]
        store = LatentStore(root, "0123456789abcdef", LatentSpec("frame", 4, 3, (1, 2, 2)), packed=True)
        store.write_shard(names, torch.arange(36.0).view(3, 4, 3), torch.arange(6).view(3, 2))

        def read(_: Path) -> Any:
            opened = LatentStore.open(root)
            return opened.read(names), opened.read_codes(names), opened.fingerprint, opened.latent

        self["store.json"] = Reader(root / "store.json", read, damage.of_json)
        self["index of a store"] = Reader(root / "index.parquet", read, damage.of_parquet)
        self["shard"] = Reader(next((root / "shards").glob("*.safetensors")), read, damage.of_safetensors)


def _policy_weights(folder: Path, shapes: dict[str, Any]) -> Reader:
    """Weights as a rollout loads them: any numbers are weights, of the names and shapes of the policy."""
    from lary_envs.gym import LarySimEnv
    from lary_policy.policy.trusted import load_policy, read_policy

    def read(_: Path) -> Any:
        config = read_policy(folder, "cpu")
        env = LarySimEnv(task="reach", cameras=["front"], image_px=28, device="cpu")
        return load_policy(config, folder, env).state_dict()

    legal = lambda v: {name: one.shape for name, one in v.items()} == shapes  # noqa: E731
    return Reader(folder / "model.safetensors", read, damage.of_safetensors, legal)


def _common() -> dict[str, Any]:
    """Settings that both kinds of policies share: one camera, the arm of `reach`, chunks of four."""
    from lerobot.configs import FeatureType, PolicyFeature

    inputs = {"observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 28, 28)),
              "observation.state": PolicyFeature(FeatureType.STATE, (7,))}  # fmt: skip
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    return {
        "input_features": inputs,
        "output_features": outputs,
        "chunk_size": 4,
        "device": "cpu",
        "push_to_hub": False,
    }


def _lary_config() -> Any:
    from lary_policy.policy.configuration_lary import EncoderConfig, LaryConfig

    encoder = EncoderConfig(name="pixels", image_px=28)
    return LaryConfig(encoder=encoder, head_width=16, head_blocks=1, pool="mean", **_common())


def _drop_in_config() -> Any:
    from lerobot.configs import PreTrainedConfig

    import lary_policy.policy.register  # noqa: F401  # the policy types
    from lary_policy.policy.configuration_lary import EncoderConfig

    encoder = EncoderConfig(name="dinov2-small", weights="tiny-random", image_px=28, save=False)
    return PreTrainedConfig.get_choice_class("lary_act")(
        encoder=encoder, dim_model=16, n_heads=2, dim_feedforward=16, n_encoder_layers=1, latent_dim=4,
        n_vae_encoder_layers=1, n_action_steps=2, **_common(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return Readers(tmp_path_factory.mktemp("fuzz"))


def too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def judge(reader: Reader, good: Any) -> str:
    """Return how a damaged file was taken: `same`, `named`, `aside`, `found`, `legal`, or what is wrong."""
    try:
        value = reader.read(reader.path)
    except LaryPolicyError:
        return "named"
    except Exception as error:  # the point of the test: it is listed
        return f"wrong: {type(error).__name__}: {str(error)[:200]}"
    if plain(value) == plain(good):
        return "same"
    if reader.legal is None:
        restored = isinstance(value, tuple) and plain(value) == plain(good)
        return "found" if restored or reader.found(reader.path) else f"wrong: silent: {str(value)[:200]}"
    if not reader.legal(value):
        return f"wrong: illegal: {str(value)[:200]}"
    aside = isinstance(value, dict) and value.get("aside", 0) > good.get("aside", 0)
    return "aside" if aside else "legal"


def damage_all(readers, count):
    """Return how often which verdict was reached by each reader, and all that is wrong."""
    wrong, verdicts = [], {name: Counter() for name in readers}
    for name, reader in readers.items():
        content, rng = reader.path.read_bytes(), random.Random(f"{DICE} {name}")
        good = reader.read(reader.path)
        kept = {p: p.read_bytes() for p in reader.path.parent.iterdir() if p.is_file()}
        for number in range(2 * count):
            structural = reader.damage if number % 3 else damage.of_bytes
            reader.path.write_bytes((damage.one_byte if number < count else structural)(content, rng))
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            verdict = judge(reader, good)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if time.monotonic() - started > SECONDS or verdict.startswith("wrong"):
                wrong.append(f"{name} {number}: {verdict}")
            verdicts[name][verdict.partition(":")[0]] += 1
            for path, former in kept.items():  # readers of stores mend what they can
                if not path.exists() or path.read_bytes() != former:
                    path.write_bytes(former)
    return wrong, verdicts


@pytest.fixture(autouse=True)
def _alarm():
    before = signal.signal(signal.SIGALRM, too_long)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_damaged_files_are_same_named_or_set_aside(readers, caplog):
    """64 single bits and 64 structures of most; eight each where a reading takes over 5 ms."""
    caplog.set_level("CRITICAL")  # a source says what it found, each time
    for names, count in ((readers.keys() - SLOW, 64), (readers.keys() & SLOW, 8)):
        wrong, verdicts = damage_all({name: readers[name] for name in sorted(names)}, count)
        assert not wrong, "\n".join(wrong)
        assert all(sum(found.values()) == 2 * count for found in verdicts.values())
        for name in names:
            assert readers[name].legal is not None or not verdicts[name]["legal"], name
    assert readers.keys() >= SLOW


@pytest.mark.slow
def test_damaged_files_are_same_named_or_set_aside_at_length(readers, caplog):
    caplog.set_level("CRITICAL")
    wrong, verdicts = damage_all(readers, 200)
    for name, found in verdicts.items():
        print(f"{name:24} {dict(found)}")  # noqa: T201
    print(sum(verdicts.values(), Counter()), len(wrong))  # noqa: T201
    assert not wrong, "\n".join(wrong)


def test_no_reader_waits_for_a_pipe(readers, caplog):
    """A pipe nobody writes to would be waited for for ever."""
    caplog.set_level("CRITICAL")
    wrong = []
    for name, reader in readers.items():
        if name in ("digests", "notes of indices"):
            continue  # of our own making, and only ever made by this process
        good, content = reader.read(reader.path), reader.path.read_bytes()
        reader.path.unlink()
        os.mkfifo(reader.path)
        signal.setitimer(signal.ITIMER_REAL, 5)
        verdict = judge(reader, good)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reader.path.unlink()
        reader.path.write_bytes(content)
        if verdict.startswith("wrong") or (verdict == "legal" and name != "npy in blocks"):
            wrong.append(f"{name}: {verdict}")
    assert not wrong, "\n".join(wrong)
