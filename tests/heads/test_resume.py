import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from lary_policy.errors import TrainingError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.dit import DiffusionExpertConfig
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.objective import action_objective
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import build_module, head_kind
from lary_policy.heads.training import content_sha256
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.loop import train

CONFIG = TrainConfig(4, 32, 3e-3, 1e-2, 0.1, "cosine", precision="float32", seed=3)
POOL = PoolConfig("project", width=4)
MODELS = {
    "mlp": (ActionExpertConfig(16, 1, POOL), build_module),
    "dit": (DiffusionExpertConfig(16, 1, 2, sample_steps=3, pool=POOL), build_module),
}


class StoppedError(Exception):
    """Someone pulled the plug."""


def head(kind, seed=0):
    config, build = MODELS[kind]
    return build(config, (2, 1, 4, 8), chunk=2, action_dim=3, seed=seed)


def run(kind, planted, path=None, stop_after=None, config=CONFIG, seed=0):
    def on_epoch(record):
        if record.epoch == stop_after:
            raise StoppedError

    module = head(kind, seed)
    result = train(
        module,
        *planted,
        head_kind(MODELS[kind][0].kind).objective(MODELS[kind][0]),
        config,
        on_epoch=on_epoch,
        checkpoint=path,
    )
    return module.state_dict(), result


def same_result(first, second):
    return all(
        replace(a, seconds=0.0) == replace(b, seconds=0.0)
        for a, b in zip(first.history, second.history, strict=True)
    ) and (first.best_epoch, first.best_score) == (second.best_epoch, second.best_score)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("select", ["best", "last"])
def test_an_interrupted_run_ends_at_the_bits_of_an_unbroken_one(planted, tmp_path, kind, stop_after, select):
    """Weights, moments, order of samples, diffusion noise and selection."""
    config = replace(CONFIG, select=select)
    weights, result = run(kind, planted, config=config)
    path = tmp_path / "training.safetensors"
    with pytest.raises(StoppedError):
        run(kind, planted, path, stop_after, config)
    resumed, again = run(kind, planted, path, config=config, seed=99)  # other initial weights are overwritten
    assert all(torch.equal(weights[k], resumed[k]) for k in weights)
    assert same_result(result, again)


@pytest.mark.parametrize("kind", MODELS)
def test_parts_of_a_batch_add_up_to_its_gradient(planted, kind):
    """Memory for 7 samples at once, weights of batches of 32; the last part of each is smaller."""
    whole, result = run(kind, planted, config=replace(CONFIG, epochs=2))
    parts, again = run(kind, planted, config=replace(CONFIG, epochs=2, micro_batch=7))
    assert again.history[0].train_loss == pytest.approx(result.history[0].train_loss, rel=1e-5)
    for name, value in whole.items():
        if not name.endswith("qkv.bias"):  # of keys: without effect, and Adam scales its rounding errors up
            torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_not_trained_again(planted, tmp_path):
    path = tmp_path / "training.safetensors"
    weights, result = run("mlp", planted, path)
    written = path.stat().st_mtime_ns
    again, second = run("mlp", planted, path, stop_after=None, seed=99)
    assert path.stat().st_mtime_ns == written
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert same_result(result, second)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"lr": 1e-3}, "lr 0.001"),
        ({"epochs": 9, "batch_size": 16}, "epochs 9; batch_size 16"),
        ({"schedule": "constant"}, "schedule constant"),
    ],
)
def test_d16_a_checkpoint_of_other_settings_is_refused(planted, tmp_path, changes, names):
    """The reference goes on from `latest.pt` whatever the settings, and calls a finished run trained."""
    path = tmp_path / "training.safetensors"
    run("mlp", planted, path)
    with pytest.raises(TrainingError, match=f"expected {names}; got"):
        run("mlp", planted, path, config=replace(CONFIG, **changes))


def test_d16_a_checkpoint_of_other_data_or_another_head_is_refused(planted, tmp_path):
    path = tmp_path / "training.safetensors"
    run("mlp", planted, path)
    train_set, val_set = planted
    other = LatentBatches(train_set.bank, train_set.index, train_set.targets + 1e-3)
    with pytest.raises(TrainingError, match="train samples"):
        run("mlp", (other, val_set), path)
    with pytest.raises(TrainingError, match="expected head"):
        larger = build_module(ActionExpertConfig(17, 1, POOL), (2, 1, 4, 8), chunk=2, action_dim=3)
        train(larger, *planted, action_objective(), CONFIG, checkpoint=path)


def test_damaged_checkpoints_are_named_and_never_unpickled(planted, tmp_path):
    path = tmp_path / "training.safetensors"
    for content in (b"", b"\x80\x04garbage", json.dumps({"epoch": 3}).encode()):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"readable training checkpoint.*Delete the file"):
            run("mlp", planted, path)


def _written_again(path, change):
    """Write a training checkpoint with changed metadata and tensors."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    path.write_bytes(save(tensors, metadata))


def _seal(metadata, tensors):
    """Write the digest of the content anew, so that what it says is looked at."""
    texts = {name: text for name, text in metadata.items() if name != "sha256"}
    metadata["sha256"] = content_sha256(tensors, texts)


def _facts(**changes):
    def change(metadata, tensors):
        metadata["progress"] = json.dumps({**json.loads(metadata["progress"]), **changes})
        _seal(metadata, tensors)

    return change


def _tensor(name, value):
    def change(metadata, tensors):
        tensors.update({name: value})
        _seal(metadata, tensors)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _facts(history=[{"epoch": 1}]),
        _facts(history=3),
        _facts(epoch=2),
        _facts(epoch="four"),
        _facts(best_member=7),
        _facts(colour="red"),
        lambda metadata, tensors: metadata.update(progress="[]"),
        lambda metadata, tensors: metadata.update(identity="3"),
        lambda metadata, tensors: metadata.pop("sha256"),
        lambda metadata, tensors: metadata.update(progress=metadata["progress"].replace("1", "2", 1)),
        lambda metadata, tensors: metadata.update(identity=metadata["identity"].replace("0", "1", 1)),
        lambda metadata, tensors: tensors["head/fc_in.weight"].view(-1)[3].mul_(1.001),
        _tensor("head/fc_in.weight", torch.zeros(3)),
        _tensor("generator", torch.zeros(3)),
        _tensor("adam/0/x/y", torch.zeros(3)),
        _tensor("adam/0/0/exp_avg", torch.zeros(3)),
        _tensor("best/colour", torch.zeros(3)),
    ],
)
def test_checkpoints_of_another_shape_are_named_errors(planted, tmp_path, change):
    path = tmp_path / "training.safetensors"
    with pytest.raises(StoppedError):
        run("mlp", planted, path, stop_after=1)
    _written_again(path, change)
    with pytest.raises(TrainingError, match=r"Delete the file|delete this one"):
        run("mlp", planted, path)


def test_an_infinite_best_score_survives_the_file(planted, tmp_path):
    """Before any epoch is better than infinity nothing is selected; the state must still be readable."""
    from lary_policy.heads.training.resume import Progress, load_progress, save_progress

    module = head("mlp")
    optimiser, generator = [torch.optim.AdamW(module.parameters())], torch.Generator()
    save_progress(tmp_path / "x", {"lr": 1}, Progress(), module, optimiser, generator)
    assert math.isinf(load_progress(tmp_path / "x", {"lr": 1}, module, optimiser, generator).best_score)
