import contextlib
import json
import random
import resource
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lary_policy.errors import HeadMismatchError, StoreError, WeightsMismatchError
from lary_policy.heads import files
from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.files import build_head, facts_sha256, load_head, load_meta, save_head
from lary_policy.paths import atomic_write


@pytest.fixture
def saved(tmp_path, meta):
    head = build_head(meta)
    save_head(tmp_path / "head", head, meta)
    return tmp_path / "head", head


def write(folder, facts):
    (folder / "head.json").write_text(json.dumps({**facts, "sha256": facts_sha256(facts)}))


def edit(folder, **changes):
    write(folder, {**json.loads((folder / "head.json").read_text()), **changes})


def test_action_head_round_trip_is_exact(saved, meta):
    folder, head = saved
    loaded, loaded_meta = load_head(folder, fingerprint="0123456789abcdef", embodiment="arm7")
    assert loaded_meta == meta
    assert not loaded.training
    latents, proprio = torch.randn(2, *meta.latent_shape), torch.randn(2, 7)
    assert torch.equal(loaded(latents, proprio), head(latents, proprio))


def test_class_head_round_trip_is_exact(tmp_path, meta):
    meta = replace(
        meta,
        model=AttentiveProbeConfig(16, 1, 2),
        mode="atomic",
        target="class",
        chunk=0,
        action_dim=0,
        stats=None,
        proprio_stats=None,
        class_names=("+x", "-x", "Open"),
        token_grid=None,
    )
    head = build_head(meta)
    save_head(tmp_path, head, meta)
    loaded, loaded_meta = load_head(tmp_path)
    assert loaded_meta == meta
    latents = torch.randn(2, *meta.latent_shape)
    assert torch.equal(loaded(latents), head.eval()(latents))


def test_initial_weights_depend_on_the_seed_alone(meta):
    torch.manual_seed(1)
    first = build_head(meta)
    torch.manual_seed(2)
    assert torch.equal(first.fc_in.weight, build_head(meta).fc_in.weight)
    assert not torch.equal(first.fc_in.weight, build_head(meta, seed=99).fc_in.weight)


@pytest.mark.parametrize(
    ("wanted", "both"),
    [
        ({"fingerprint": "ffffffffffffffff"}, ("0123456789abcdef", "ffffffffffffffff")),
        ({"embodiment": "arm12"}, ("arm7", "arm12")),
    ],
)
def test_another_encoder_or_embodiment_is_refused_with_both_values(saved, wanted, both):
    with pytest.raises(HeadMismatchError) as error:
        load_head(saved[0], **wanted)
    assert all(value in str(error.value) for value in both)


def test_description_and_weights_of_two_heads_do_not_mix(saved, meta):
    raw = json.loads((saved[0] / "head.json").read_text())
    edit(saved[0], model={**raw["model"], "width": 17})
    with pytest.raises(WeightsMismatchError, match="mlp17-project3"):
        load_head(saved[0])


def test_missing_or_additional_weights_are_refused(saved, meta):
    folder = saved[0]
    short = torch.nn.Module()
    short.register_parameter("fc_out", torch.nn.Parameter(torch.zeros(2)))
    save_head(folder, short, meta)
    with pytest.raises(WeightsMismatchError, match=r"Missing key.*Unexpected key"):
        load_head(folder)


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{ not json"])
def test_missing_and_damaged_files_are_named(saved, name, content):
    path = saved[0] / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(HeadMismatchError, match=name):
        load_head(saved[0])


def test_any_flipped_byte_is_found(saved):
    folder, _ = saved
    generator = random.Random(0)
    for name in ("head.json", "head.safetensors"):
        whole = (folder / name).read_bytes()
        for place in generator.sample(range(len(whole)), 100):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << generator.randrange(8)
            (folder / name).write_bytes(damaged)
            with pytest.raises((HeadMismatchError, WeightsMismatchError), match="Train the head again"):
                load_head(folder)
        (folder / name).write_bytes(whole)
    load_head(folder)


@pytest.mark.parametrize(
    "facts",
    [[], "text", None, {"format_version": 3}, {"format_version": [3]}, {"format_version": 3, "model": 1}],
)
def test_a_description_of_another_shape_is_a_named_error(saved, facts):
    content = {**facts, "sha256": facts_sha256(facts)} if isinstance(facts, dict) else facts
    (saved[0] / "head.json").write_text(json.dumps(content))
    with pytest.raises(HeadMismatchError, match=r"head\.json"):
        load_meta(saved[0])


def test_weights_of_another_head_are_found_though_they_fit(saved, meta, tmp_path):
    save_head(tmp_path / "other", build_head(meta, seed=99), meta)
    (saved[0] / "head.safetensors").write_bytes((tmp_path / "other" / "head.safetensors").read_bytes())
    with pytest.raises(HeadMismatchError, match=r"sha256.*as its head\.json says"):
        load_head(saved[0])


def test_other_versions_and_unknown_or_missing_fields_are_refused(saved):
    folder, _ = saved
    edit(folder, format_version=2)
    with pytest.raises(HeadMismatchError, match=r"format 3; got 2"):
        load_meta(folder)
    edit(folder, format_version=3, colour="red")
    with pytest.raises(HeadMismatchError, match="colour"):
        load_meta(folder)
    raw = json.loads((folder / "head.json").read_text())
    del raw["colour"], raw["stats"]
    write(folder, raw)
    with pytest.raises(HeadMismatchError, match="stats"):
        load_meta(folder)


def test_a_disk_that_takes_no_more_is_named_and_keeps_the_previous_head(saved, meta):
    """The kernel's own refusal, not a patched function: what is written, and by whom, does not matter."""
    folder, head = saved
    before = (folder / "head.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(StoreError, match="finished parts are kept"):
            save_head(folder, head, meta)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "head.safetensors").read_bytes() == before


def test_what_is_written_stays_the_file_that_is_locked(tmp_path, monkeypatch):
    """Another process that sweeps the folder takes any other file for one that was left over."""
    inodes = []

    @contextlib.contextmanager
    def watched(path):
        with atomic_write(path) as temporary:
            inodes.append(temporary.stat().st_ino)
            yield temporary
            inodes.append(temporary.stat().st_ino)

    monkeypatch.setattr(files, "atomic_write", watched)
    tensors = {
        "b": torch.tensor([True, False, True]), "h": torch.arange(3.0).bfloat16(), "n": torch.zeros(0, 2),
        "l": torch.tensor(7), "w": torch.randn(2, 3, requires_grad=True), "d": torch.ones(1).double(),
    }  # fmt: skip
    files.write_tensors(tmp_path / "a.safetensors", tensors, {"said": "é"})
    assert inodes[0] == inodes[1]
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"said": "é"}
