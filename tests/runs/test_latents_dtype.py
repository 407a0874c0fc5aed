"""In which dtype latents are stored, and what 16 bits do to the answers of heads."""

from pathlib import Path

import pytest
import torch

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.heads.config import load_head_config
from lary_policy.heads.files import HeadMeta, build_head
from lary_policy.latents.plan import store_dtype, store_path
from lary_policy.latents.shards import cast_latents
from lary_policy.latents.store import STORE_DTYPES, LatentStore
from lary_policy.runs.collect import open_task
from lary_policy.runs.config import LATENTS_DTYPES
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import extract_cell, rounding, store_of

SHAPE = (2, 1, 16, 384)  # of DINOv2-S at 56 px, whose last layer normalises its tokens


def test_auto_follows_protocol_and_encoder():
    assert ("auto", *STORE_DTYPES) == LATENTS_DTYPES
    assert store_dtype("auto", "lary", "bfloat16") == "float32"
    assert [store_dtype("auto", "native", d) for d in STORE_DTYPES] == ["float16", "float16", "bfloat16"]
    assert store_dtype("bfloat16", "lary", "float32") == "bfloat16"
    assert len({store_path(Path(), "a", "f", clips=False, dtype=dtype) for dtype in STORE_DTYPES}) == 3


@pytest.mark.parametrize(
    ("setting", "error"),
    [("latents_dtype=int8", UnknownNameError), ("latents_ram_gb=-1", ConfigError)],
)
def test_settings_that_mean_nothing_are_refused(tiny, setting, error):
    with pytest.raises(error, match=setting.split("=")[0]):
        tiny.config(setting)


def test_each_dtype_has_cells_and_a_store_of_its_own(tiny):
    keys, roots = set(), set()
    for dtype in STORE_DTYPES:
        context = RunContext.create(tiny.config(f"latents_dtype={dtype}"))
        view, data = context.config.encoders[0], open_task(context, "reach")
        keys |= {extract_cell(context, data, view).key, context.latents_key(data, view)}
        roots.add(store_of(context, data, view).root)
    assert len(keys) == 6
    assert len(roots) == 3
    (old,) = (tiny.output_dir / "cache" / "latents").iterdir()  # of the run with latents_dtype=auto
    assert LatentStore.open(old).dtype == "float16"
    assert old in roots


def test_extraction_says_what_bfloat16_does_to_latents(tiny):
    """Pixels from 0 to 1 in 8 bits of mantissa: each is off by at most 2^-9 of itself."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        context = RunContext.create(tiny.config(f"encoder.dtype={dtype}"))
        view, data = context.config.encoders[0], open_task(context, "reach")
        found[dtype] = rounding(context, data, view)
    assert found["float32"] is None
    assert 1e-4 < found["bfloat16"] < 2**-8


@pytest.mark.parametrize("name", ["mlp-small", "attentive-small"])
def test_float16_latents_change_answers_less_than_computing_in_bfloat16(name):
    classes = ("a", "b", "c") if name.startswith("attentive") else ()
    fields = {"chunk": 5, "action_dim": 7} if not classes else {"class_names": classes}
    meta = HeadMeta(
        model=load_head_config(name).model, encoder="dinov2-small", fingerprint="0" * 16, latent_shape=SHAPE,
        cameras=("front",), embodiment="arm7", task="reach", mode="atomic" if classes else "pair",
        target="class" if classes else "absolute", token_grid=None, seed=0, **fields,
    )  # fmt: skip
    head = build_head(meta).eval()
    latents = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))

    def change(answers):
        return float((answers.float() - exact).norm() / exact.norm())

    with torch.no_grad():
        exact = head(latents)
        stored = change(head(latents.half().float()))
        with torch.autocast("cpu", torch.bfloat16):
            computed = change(head(latents))
    assert stored < 5e-4
    assert stored < computed / 5


@pytest.mark.parametrize(("codes", "width"), [(8, 32), (16, 128), (32, 32), (1024, 8)])
def test_float16_leaves_quantised_latents_at_their_code(codes, width):
    """Codebooks of the sizes of LAPA, UniVLA and villa-X, and a crowded one, as drawn at the start."""
    g = torch.Generator().manual_seed(0)
    book = (2 * torch.rand(codes, width, generator=g) - 1) / codes
    stored = cast_latents(book[:, None], torch.float16)[:, 0].float()
    assert torch.equal(torch.cdist(stored, book).argmin(1), torch.arange(codes))
    apart = torch.cdist(book, book).fill_diagonal_(torch.inf).min()
    assert float((stored - book).norm(dim=1).max()) < 0.01 * float(apart)
