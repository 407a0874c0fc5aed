from dataclasses import replace

import pytest
import torch

from lary_policy.data.labels import LabelMap
from lary_policy.errors import ShapeError
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.scores.classes import ClassEvaluation, class_scores, evaluate_class, tail_buckets
from lary_policy.scores.metrics import estimates


def evaluation(targets, predictions, classes):
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()
    return ClassEvaluation(tuple(f"c{i}" for i in range(classes)), logits, torch.tensor(targets))


def test_scores_by_hand():
    found = evaluation([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 0], 4).scores
    assert [s.name for s in found] == ["c0", "c1", "c2", "c3"]
    assert [s.count for s in found] == [3, 2, 1, 0]
    assert [s.precision for s in found] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert [s.recall for s in found] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert [s.f1 for s in found] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    one = evaluation([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 0], 4)
    # The class without samples does not count.
    assert estimates(one, range(6))["f1_macro"].value == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_f1_is_the_harmonic_mean_and_recall_the_accuracy_of_the_class():
    g = torch.Generator().manual_seed(0)
    targets, predictions = torch.randint(0, 5, (2, 400), generator=g).tolist()
    one = evaluation(targets, predictions, 5)
    for index, score in enumerate(one.scores):
        own = [p == t for p, t in zip(predictions, targets, strict=True) if t == index]
        assert score.recall == pytest.approx(sum(own) / len(own))
        both = score.precision + score.recall
        assert score.f1 == pytest.approx(2 * score.precision * score.recall / both)
    found = estimates(one, range(400))
    assert found["f1_macro"].value == pytest.approx(sum(s.f1 for s in one.scores) / 5)
    assert found["top1_macro"].value == pytest.approx(sum(s.recall for s in one.scores) / 5)
    assert found["top1"].value == pytest.approx(float(one.correct.mean()))


def test_long_tail_buckets_follow_the_train_split():
    buckets = tail_buckets([5, 100, 1, 50, 2, 7, 7])
    assert buckets == {"head": (1, 3), "middle": (5, 6, 0), "tail": (4, 2)}
    one = replace(evaluation([1, 3, 2, 2], [1, 3, 1, 1], 7), train_counts=(5, 100, 1, 50, 2, 7, 7))
    found = estimates(one, range(4))
    tail = {name: e.value for name, e in found.items() if name.startswith("f1_macro/")}
    assert tail == {"f1_macro/head": pytest.approx((2 / (1 + 3) + 1) / 2), "f1_macro/tail": 0}


def test_names_of_other_classes_are_refused():
    with pytest.raises(ShapeError, match="3 x 3 classes"):
        class_scores(torch.zeros(2, 2), ("a", "b", "c"))


class Recall(torch.nn.Module):
    """Answers what the latents say."""

    def forward(self, latents):
        return latents.flatten(1)


@pytest.mark.parametrize("count", [1, 356, 513, 2660])
def test_d14_every_sample_of_the_last_small_batch_counts(count):
    """The reference drops labels of that batch, keeps its predictions, and fails on 356 and 2660 samples."""
    g = torch.Generator().manual_seed(count)
    targets = torch.randint(0, 3, (count,), generator=g)
    bank = torch.nn.functional.one_hot(targets, 3).float()[:, None]
    samples = LatentBatches(bank, torch.arange(count).view(-1, 1, 1), targets)
    found = evaluate_class(Recall(), samples, ("a", "b", "c"))
    assert len(found.logits) == len(found.targets) == int(found.confusion.sum()) == count
    assert float(found.correct.mean()) == 1
    assert torch.equal(found.confusion.sum(1), torch.bincount(targets, minlength=3))


def test_d6_classes_keep_their_numbers_where_val_lacks_one():
    """The reference numbers each file on its own: without b, its c of val would be class 1, named b."""
    labels = LabelMap.fit(["a", "b", "c", "a"])
    encoded = labels.encode(["c", "a", "c", "d"], ["1", "2", "3", "4"])
    assert encoded.ids.tolist() == [2, 0, 2]
    assert encoded.kept.tolist() == [0, 1, 2]
    assert len(encoded.quarantined) == 1
    logits = torch.nn.functional.one_hot(encoded.ids, 3).float()
    scores = ClassEvaluation(labels.classes, logits, encoded.ids).scores
    assert [(s.name, s.count, s.f1) for s in scores] == [("a", 1, 1), ("b", 0, 0), ("c", 2, 1)]
