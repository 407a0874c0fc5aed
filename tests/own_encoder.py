"""The documentation's example of an own encoder, as a package in a folder."""

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/how-to/own-encoder.md"
NAME = "my_pkg.my_vit:MyEncoder"


def page_block(what: str) -> str:
    """Return the Python of the page that holds some words."""
    blocks = PAGE.read_text().split("```python\n")[1:]
    return next(block.split("```")[0] for block in blocks if what in block)


def write_own_package(root: Path) -> Path:
    """Write the code of the page to `my_pkg/my_vit.py` under `root` and return the file."""
    code = page_block("@register_encoder")
    file = root / "my_pkg" / "my_vit.py"
    file.parent.mkdir(parents=True)
    file.write_text(code)
    return file
