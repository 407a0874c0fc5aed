"""Latents by frame number: those of the images that LeRobot itself would give, clamped as LeRobot clamps."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_files import write_lerobot
from written import rewrite

from lary_policy.cli.verify import verify_outputs
from lary_policy.errors import DatasetError, FrameFormatError, ShapeError, StoreError, UnknownNameError
from lary_policy.latents.store import LatentStore
from lary_policy.policy.cache.build import CachePlan, Looks, build_cache
from lary_policy.policy.cache.index import LatentCache
from lary_policy.policy.cache.table import TableDataset
from lary_policy.types import LatentSpec

TOP, WRIST = "observation.images.top", "observation.images.wrist"
CAMERAS = {TOP: TOP, WRIST: WRIST}
LENGTHS = (6, 7, 8)


class CornerEncoder:
    """Two tokens of a frame: its mean colour and its corner; of a window also those of its frames' change."""

    def __init__(self, kind="frame", fingerprint="f" * 16):
        self.fingerprint, self.latent = fingerprint, LatentSpec(kind, 2, 3)
        self.images = 0

    def __call__(self, images):
        assert images.dtype == torch.float32
        assert images.shape[2] == 3
        assert 0 <= images.min() <= images.max() <= 1
        self.images += images.shape[0]
        tokens = torch.stack((images.mean((-1, -2)), images[..., 0, 0]), 2)
        return tokens if self.latent.kind == "frame" else tokens.diff(dim=1)

    def encode_frames(self, frames):
        assert frames.dtype == torch.uint8
        return self(frames.movedim(-1, 2).float() / 255)


def write(folder, video=False):
    return write_lerobot(folder, episodes=3, steps=6, cameras=("top", "wrist"), video=video)


def by_lerobot(root, **options):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/tiny", root=root, video_backend="pyav", **options)


def meta_of(root):
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    return LeRobotDatasetMetadata("tests/tiny", root=root)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lerobot") / "image")


@pytest.fixture(scope="module")
def latents(tmp_path_factory, root):
    return build_cache(meta_of(root), CachePlan(CAMERAS), CornerEncoder(), tmp_path_factory.mktemp("latents"))


@pytest.mark.parametrize("video", [False, True])
def test_lookup_is_the_encoder_on_lerobots_own_windows(tmp_path, video):
    root = write(tmp_path / "data", video=video)
    encoder, deltas = CornerEncoder(), (-3, -1, 0)
    plan = CachePlan(CAMERAS, deltas=deltas)
    cache = LatentCache(build_cache(meta_of(root), plan, encoder, tmp_path / "l").folder)
    assert set(by_lerobot(root)[20]) - set(by_lerobot(cache.folder)[20]) == {TOP, WRIST}
    stamps = {camera: [d / 20 for d in deltas] for camera in CAMERAS}
    theirs = by_lerobot(root, delta_timestamps=stamps)
    index = torch.tensor([20, 0, 1, 2, 5, 6, 7, 12, 13, 14])
    found = cache.lookup(index, (WRIST, TOP), deltas)
    assert found.shape == (len(index), 3, 2, 2, 3)
    items = [theirs[int(i)] for i in index]
    for place, camera in enumerate((WRIST, TOP)):
        expected = encoder(torch.stack([item[camera] for item in items]))
        assert torch.allclose(found[:, :, place], expected, atol=1e-6)


def test_windows_of_encoders_that_need_several_frames(tmp_path, root):
    encoder, deltas = CornerEncoder("clip"), (-4, -2, 0)
    plan = CachePlan(CAMERAS, deltas=deltas)
    cache = LatentCache(build_cache(meta_of(root), plan, encoder, tmp_path).folder)
    theirs = by_lerobot(root, delta_timestamps={TOP: [d / 20 for d in deltas]})
    index = torch.arange(sum(LENGTHS))
    expected = encoder(torch.stack([theirs[int(i)][TOP] for i in index]))
    found = cache.lookup(index, (TOP,), deltas)
    assert found.shape == (21, 2, 1, 2, 3)
    assert torch.allclose(found[:, :, 0], expected, atol=1e-6)
    with pytest.raises(StoreError, match=r"window \(0,\)"):
        cache.lookup(index, (TOP,))


def test_looks_are_drawn_in_training_alone_each_of_the_images_own(tmp_path, root):
    looks = Looks(3, lambda image: image * torch.rand(3, 1, 1), "dim")
    cache = LatentCache(
        build_cache(meta_of(root), CachePlan(CAMERAS, looks=looks), CornerEncoder(), tmp_path).folder
    )
    index = torch.arange(21)
    plain = cache.lookup(index, (TOP, WRIST))
    torch.manual_seed(0)
    drawn = torch.stack([cache.lookup(index, (TOP, WRIST), training=True) for _ in range(40)])
    torch.testing.assert_close(cache.lookup(index, (TOP, WRIST)), plain)
    share = drawn / plain  # of each channel, the same for mean and corner: the image's own
    torch.testing.assert_close(share[..., 0, :], share[..., 1, :])
    counts = [len(one.unique(dim=0)) for one in share[..., 0, :].flatten(1, 3).unbind(1)]
    assert set(counts) == {3}
    again = tmp_path / "again"  # interrupted or not, the looks are the same
    other = LatentCache(
        build_cache(meta_of(root), CachePlan(CAMERAS, looks=looks), CornerEncoder(), again).folder
    )
    torch.manual_seed(0)
    torch.testing.assert_close(other.lookup(index, (TOP, WRIST), training=True), drawn[0])


def test_every_frame_is_encoded_once_and_never_again(tmp_path, root):
    encoder, meta = CornerEncoder(), meta_of(root)
    some = build_cache(meta, CachePlan(CAMERAS, episodes=(0, 2)), encoder, tmp_path)
    assert (some.encoded, some.reused, encoder.images) == (28, 0, 28)
    everything = build_cache(meta, CachePlan(CAMERAS), encoder, tmp_path)
    assert (everything.encoded, everything.reused, encoder.images) == (14, 28, 42)
    again = build_cache(meta, CachePlan(CAMERAS), encoder, tmp_path)
    assert (again.encoded, again.folder) == (0, everything.folder)
    assert some.folder != everything.folder
    with pytest.raises(StoreError, match="not among those encoded"):
        LatentCache(some.folder).lookup(torch.tensor([6]), (TOP,))


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path, root, monkeypatch):
    class Stops(CornerEncoder):
        def __call__(self, images):
            if self.images:
                raise KeyboardInterrupt
            return super().__call__(images)

    monkeypatch.setattr("lary_policy.policy.cache.build.good_batch_size", lambda device: 10)
    monkeypatch.setattr(sys.modules["lary_policy.latents.writer"], "SHARD_BYTES", 10 * 24)
    with pytest.raises(KeyboardInterrupt):
        build_cache(meta_of(root), CachePlan(CAMERAS), Stops(), tmp_path)
    assert not (tmp_path / "views").exists()
    done = build_cache(meta_of(root), CachePlan(CAMERAS), CornerEncoder(), tmp_path)
    assert (done.encoded, done.reused) == (32, 10)


def test_the_view_is_the_dataset_without_images(root, latents):
    stamps = {"observation.state": [-0.05, 0], "action": [0, 0.05, 0.1]}
    whole, view = (by_lerobot(r, delta_timestamps=stamps) for r in (root, latents.folder))
    assert view.meta.camera_keys == []
    assert (view.meta.total_frames, view.fps, view.meta.total_episodes) == (21, 20, 3)
    for i in (0, 5, 6, 20):
        theirs, ours = whole[i], view[i]
        assert set(theirs) - set(ours) == {TOP, WRIST}
        for name, value in ours.items():
            same = (
                torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
            )
            assert same, name
    assert len(by_lerobot(latents.folder, episodes=[1])) == 7


@pytest.mark.parametrize("episodes", [None, [0, 2]])
def test_a_table_gives_lerobots_items_a_batch_at_a_time(root, latents, episodes):
    windows = {"action": [0.0, 0.05, 0.1], "observation.state": [-0.1, 0.0]}
    theirs = by_lerobot(latents.folder, episodes=episodes, delta_timestamps=windows)
    table = TableDataset(theirs)
    assert len(table) == len(theirs)
    assert table.meta is theirs.meta
    for mine, item in zip(table.__getitems__(range(len(theirs))), theirs, strict=True):
        assert mine.pop("task") == item.pop("task")
        torch.testing.assert_close(mine, item, rtol=0, atol=0)
    assert TableDataset.fits(theirs)
    assert not TableDataset.fits(by_lerobot(root))  # images


def test_statistics_of_cameras_can_be_replaced(tmp_path, root):
    plan = CachePlan(CAMERAS, camera_stats={"mean": [[[0.5]]]})
    folder = build_cache(meta_of(root), plan, CornerEncoder(), tmp_path).folder
    stats = [json.loads((r / "meta" / "stats.json").read_text()) for r in (root, folder)]
    assert stats[1][TOP] == {**stats[0][TOP], "mean": [[[0.5]]]}
    assert stats[1]["action"] == stats[0]["action"]


def change_numbers(path, column, change):
    table = pq.read_table(path)
    place = table.column_names.index(column)
    changed = pa.array(change(table[column].to_pylist()), table[column].type)
    pq.write_table(table.set_column(place, table.schema.field(column), changed), path)


def put(*place, value):
    """Set a value at a place of a JSON object."""

    def change(path):
        found = inner = json.loads(path.read_text())
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(found))

    return change


CORRECTIONS = {
    "data/chunk-000/file-000.parquet": lambda p: change_numbers(
        p, "action", lambda rows: [[v + 0.5 for v in row] for row in rows]
    ),
    "meta/stats.json": put("action", "max", value=[9.0] * 7),
    "meta/info.json": put("features", "action", "names", value=list("abcdefg")),
    "meta/tasks.parquet": lambda p: change_numbers(p, "task", lambda rows: [f"{row}!" for row in rows]),
    "meta/episodes/chunk-000/file-000.parquet": lambda p: change_numbers(
        p, "tasks", lambda rows: [["pull"] for _ in rows]
    ),
}


def test_of_a_dataset_corrected_in_place_the_numbers_are_new_and_the_latents_reused(tmp_path):
    root, encoder = write(tmp_path / "data", video=True), CornerEncoder()

    def built():
        return build_cache(meta_of(root), CachePlan(CAMERAS), encoder, tmp_path / "latents")

    seen = {built().folder}
    for name, correct in CORRECTIONS.items():
        before = (built().folder / name).read_bytes()
        correct(root / name)
        found = built()
        assert (found.encoded, encoder.images) == (0, 42), name
        assert found.folder not in seen, name
        assert (found.folder / name).read_bytes() != before, name
        seen.add(found.folder)
        LatentCache(found.folder)
    action = by_lerobot(found.folder)[3]["action"]
    assert torch.equal(action, by_lerobot(root)[3]["action"])
    assert built().folder == found.folder


FLIPPED = [(name, "flip") for name in (*CORRECTIONS, "latent_ids.npz", "latents.json", "checksums.json")]


@pytest.mark.parametrize(
    ("name", "change"), [*FLIPPED, ("meta/stats.json", "gone"), ("checksums.json", "gone")]
)
def test_a_damaged_view_is_found_and_not_trained_on(tmp_path, root, latents, capsys, name, change):
    out = shutil.copytree(latents.folder.parents[1], tmp_path / "cache").parent
    view = out / "cache" / "views" / latents.folder.name
    content, facts = bytearray((view / name).read_bytes()), (view / name).stat()
    if change == "flip":
        content[len(content) // 2] ^= 1
        (view / name).write_bytes(content)
        os.utime(view / name, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # no time tells of it
    else:
        (view / name).unlink()
    assert not verify_outputs(out, workers=0, timeout_s=30.0)
    assert (name if (name, change) != ("checksums.json", "flip") else "WRONG") in capsys.readouterr().err
    with pytest.raises(StoreError, match=view.name):
        LatentCache(view)
    with pytest.raises(StoreError, match=view.name):
        build_cache(meta_of(root), CachePlan(CAMERAS), CornerEncoder(), out / "cache")


def test_a_view_of_an_earlier_version_is_not_wrong(tmp_path, latents, capsys):
    out = shutil.copytree(latents.folder.parents[1], tmp_path / "cache").parent
    view = out / "cache" / "views" / latents.folder.name
    assert verify_outputs(out, workers=0, timeout_s=30.0)
    assert "An earlier version" not in capsys.readouterr().err
    (view / "checksums.json").unlink()
    rewrite(view / "latents.json", checksums="")
    assert verify_outputs(out, workers=0, timeout_s=30.0)
    assert "An earlier version wrote this view" in capsys.readouterr().err
    LatentCache(view)


def test_latents_of_another_encoder_dataset_or_camera_are_refused(tmp_path, root, latents):
    cache = LatentCache(latents.folder)
    ours = "f" * 16
    cache.require(ours, (WRIST,), meta_of(root))
    cache.require(ours, (WRIST,), meta_of(latents.folder))
    with pytest.raises(StoreError, match=r"fingerprint eeee"):
        cache.require("e" * 16, (WRIST,), meta_of(root))
    with pytest.raises(UnknownNameError, match="top"):
        cache.require(ours, ("observation.images.front",), meta_of(root))
    other = write_lerobot(tmp_path / "other", episodes=3, steps=7, video=False)
    with pytest.raises(StoreError, match=r"total_frames 24, episodes .*, statistics"):
        cache.require(ours, (WRIST,), meta_of(other))
    meta = meta_of(root)
    slower = SimpleNamespace(fps=10, total_frames=21, episodes=meta.episodes, stats=meta.stats, repo_id="a/b")
    with pytest.raises(StoreError, match=r"expected fps 10.0 \(of the dataset a/b\); got fps 20.0"):
        cache.require(ours, (WRIST,), slower)


def test_frames_that_are_not_there(latents):
    for index in ([21], [-1]):
        with pytest.raises(ShapeError, match="0 to 20"):
            LatentCache(latents.folder).lookup(torch.tensor(index), (TOP,))


def test_a_folder_without_latents_or_of_another_format(tmp_path, root, latents):
    with pytest.raises(StoreError, match="lary train"):
        LatentCache(root)
    copy = shutil.copytree(latents.folder, tmp_path / "views" / "copy")
    rewrite(copy / "latents.json", version=99)
    with pytest.raises(StoreError, match="format 1; got 99"):
        LatentCache(copy)
    rewrite(copy / "latents.json", version=1, store="gone")
    with pytest.raises(StoreError, match="gone"):
        LatentCache(copy)
    text = (copy / "latents.json").read_text()
    (copy / "latents.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match="lary_sha256"):
        LatentCache(copy)


def test_a_broken_image_is_named_and_a_full_disk_noticed_before_it_is_full(tmp_path, root, monkeypatch):
    broken = FrameFormatError(expected="an image", got="dust", fix="Restore it.")
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules["lary_policy.latents.encode"], "decode_frames", lambda frames: [broken] * len(frames)
        )
        with pytest.raises(DatasetError, match=r"42 that cannot, for example .*top:0: .*dust"):
            build_cache(meta_of(root), CachePlan(CAMERAS), CornerEncoder(), tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(StoreError, match="42 latents"):
        build_cache(meta_of(root), CachePlan(CAMERAS), CornerEncoder(), tmp_path)


def test_a_shard_that_was_deleted_is_noticed_before_training(tmp_path, root):
    built = build_cache(meta_of(root), CachePlan(CAMERAS), CornerEncoder(), tmp_path)
    for shard in tmp_path.glob("latents/*/shards/*"):
        shard.unlink()
    with pytest.raises(StoreError, match=r"42 missing. Run `lary train`"):
        LatentCache(built.folder)


def test_frames_out_of_order_are_refused(tmp_path, root):
    swapped = {"dataset_from_index": [6, 0, 13], "dataset_to_index": [13, 6, 21]}
    other = SimpleNamespace(root=root, episodes=swapped)
    with pytest.raises(DatasetError, match="one episode after the other"):
        build_cache(other, CachePlan(CAMERAS), CornerEncoder(), tmp_path)


@pytest.mark.parametrize("change", [lambda i: i[::-1], lambda i: i - i[7], lambda i: i + 1])
def test_tables_that_number_frames_otherwise_than_their_description_are_refused(tmp_path, root, change):
    """Latents are looked up by the numbers in the tables: put together by hand they may start anew."""
    copy = shutil.copytree(root, tmp_path / "copy")
    path = next((copy / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    index = pa.array(change(table["index"].to_numpy()), table["index"].type)
    pq.write_table(table.set_column(table.column_names.index("index"), "index", index), path)
    with pytest.raises(
        DatasetError, match=r"numbered from 0 on; got other numbers in index of file-000\.parquet"
    ):
        build_cache(meta_of(copy), CachePlan(CAMERAS), CornerEncoder(), tmp_path / "latents")


def test_the_store_is_a_latent_store(latents):
    (folder,) = (latents.folder.parents[1] / "latents").iterdir()
    assert len(LatentStore.open(folder)) == latents.encoded == 42
    assert latents.bytes == 24
