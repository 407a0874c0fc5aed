import pytest
import torch

from lary_policy.errors import ShapeError
from lary_policy.heads.training.batches import LatentBatches


def samples(**changes):
    g = torch.Generator().manual_seed(0)
    fields = {
        "bank": torch.randn(20, 4, 8, generator=g).half(),
        "index": torch.randint(0, 20, (13, 2, 3), generator=g),
        "targets": torch.randn(13, 5, 7, generator=g),
        "proprio": torch.randn(13, 7, generator=g),
    }
    return LatentBatches(**{**fields, **changes})


def test_gather_picks_the_latents_that_the_index_names():
    given = samples()
    served = given.to("cpu", torch.float32)
    assert served.bank is given.bank  # whoever trains on it shares it
    batch = served.gather(torch.tensor([4, 0]))
    assert served.latent_shape == (2, 3, 4, 8)
    assert batch.latents.shape == (2, 2, 3, 4, 8)
    assert batch.latents.dtype == torch.float32
    assert torch.equal(batch.latents[0, 1, 2], samples().bank[samples().index[4, 1, 2]].float())
    assert torch.equal(batch.targets[1], samples().targets[0])
    assert len(batch.inputs) == 2
    assert torch.equal(batch.inputs[1][0], samples().proprio[4])


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("delivered", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_converted_piece_by_piece_is_what_pytorch_converts(stored, delivered, monkeypatch):
    monkeypatch.setattr("lary_policy.heads.training.batches._PIECE", 100)
    bank = samples().bank.to(stored)
    bank[0, 0, :2] = torch.tensor([6e-8, 65504.0])  # the least and the largest that 16 bits hold
    served, rows = samples(bank=bank).to("cpu", delivered), torch.arange(13)
    assert torch.equal(served.gather(rows).latents, bank[served.index].to(delivered))


def test_without_proprioception_the_head_gets_latents_only():
    assert len(samples(proprio=None).gather(torch.tensor([1])).inputs) == 1


def test_ordered_and_shuffled_visit_every_sample_once():
    everything = samples()
    ordered = torch.cat([b.targets for b in everything.ordered(4)])
    assert torch.equal(ordered, everything.targets)
    batches = list(everything.shuffled(4, torch.Generator().manual_seed(1)))
    assert [len(b.targets) for b in batches] == [4, 4, 4, 1]
    shuffled = torch.cat([b.targets for b in batches]).flatten(1)
    assert not torch.equal(shuffled, ordered.flatten(1))
    assert torch.equal(shuffled.sort(0).values, ordered.flatten(1).sort(0).values)


def test_shuffling_depends_on_the_generator_alone_and_differs_between_epochs():
    def epoch(g):
        return torch.cat([b.targets for b in samples().shuffled(4, g)])

    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    one, two = epoch(first), epoch(first)
    torch.manual_seed(99)
    assert torch.equal(one, epoch(second))
    assert not torch.equal(one, two)


def test_balanced_sampling_draws_rare_classes_as_often_as_common_ones():
    targets = torch.tensor([0] * 90 + [3] * 10)
    many = LatentBatches(torch.zeros(1, 1, 1), torch.zeros(100, 1, 1, dtype=torch.int64), targets)
    g = torch.Generator().manual_seed(0)
    drawn = torch.cat([b.targets for _ in range(50) for b in many.shuffled(32, g, balanced=True)])
    assert len(drawn) == 5000
    assert float((drawn == 3).float().mean()) == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ShapeError, match="class indices"):
        next(samples().shuffled(4, g, balanced=True))


@pytest.mark.parametrize("name", ["bank", "targets", "proprio"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_inputs_are_named_with_their_rows(name, value):
    broken = getattr(samples(), name).clone()
    broken[7].view(-1)[0] = value
    with pytest.raises(ShapeError, match=rf"finite numbers in {name}; got non-finite rows \[7\]"):
        samples(**{name: broken})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": torch.full((13, 2, 3), 20)}, r"indices in 0\.\.19; got 20\.\.20"),
        ({"index": torch.full((13, 2, 3), -1)}, r"got -1\.\.-1"),
        ({"index": torch.zeros(13, 2, dtype=torch.int64)}, "index"),
        ({"index": torch.zeros(13, 2, 3, dtype=torch.int32)}, "int64"),
        ({"bank": torch.zeros(20, 32)}, "bank"),
        ({"targets": torch.zeros(12, 5, 7)}, "length"),
        ({"proprio": torch.zeros(14, 7)}, "length"),
    ],
)
def test_contradicting_shapes_are_refused(changes, message):
    with pytest.raises(ShapeError, match=message):
        samples(**changes)
