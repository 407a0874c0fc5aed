import json
import sys
from types import ModuleType

import pytest

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.objective import action_objective
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import build_module
from lary_policy.heads.training.loggers import list_loggers, open_logger
from lary_policy.heads.training.loop import train
from lary_policy.runs.config import RunConfig


def test_every_epoch_is_logged(planted, tmp_path):
    logger = open_logger("jsonl", tmp_path / "run")
    head = build_module(ActionExpertConfig(8, 1, PoolConfig("mean")), (2, 1, 4, 8), chunk=2, action_dim=3)
    result = train(head, *planted, action_objective(), TrainConfig(3, precision="float32"), loggers=[logger])
    logger.close()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["val/mse"] for line in lines] == [r.val_score for r in result.history]
    assert [line["train/loss"] for line in lines] == [r.train_loss for r in result.history]
    assert {"train/lr"} < set(lines[0])


def test_unknown_loggers_list_the_known_ones(tmp_path):
    assert list_loggers() == ("jsonl", "tensorboard", "wandb")
    with pytest.raises(UnknownNameError, match="jsonl, tensorboard, wandb"):
        open_logger("wandbb", tmp_path)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    logger = open_logger("jsonl", tmp_path / "run")
    logger.log(1, {"val/mse": 0.5})
    logger.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'package {name}.*pip install "{name}>='):
        open_logger(name, tmp_path)


def test_tensorboard_curves_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = open_logger("tensorboard", tmp_path, {"lr": 1e-3})
    for epoch in (1, 2):
        logger.log(epoch, {"val/mse": 0.5 / epoch})
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("val/mse")
    assert [(e.step, e.value) for e in events] == [(1, 0.5), (2, 0.25)]


def test_wandb_writes_offline_by_default(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = open_logger("wandb", tmp_path, {"lr": 1e-3})
    logger.log(1, {"val/mse": 0.5})
    logger.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_d26_nothing_is_logged_elsewhere_unless_asked_and_wandb_stays_offline(tmp_path, monkeypatch):
    """Defect D26: both probes of the reference import wandb and open an online run."""
    assert RunConfig.__dataclass_fields__["loggers"].default == ()
    opened = {}
    wandb = ModuleType("wandb")
    wandb.init = lambda **settings: opened.update(settings)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    open_logger("wandb", tmp_path)
    assert opened["mode"] == "offline"
