"""Changes of JSON files of ours that are meant: the digest of itself is written anew."""

import json
from pathlib import Path

from lary_policy.paths import SEAL, write_json


def rewrite(path: Path, **changes: object) -> dict[str, object]:
    """Write a JSON object with changed entries, as the package would have written it; return the former."""
    former = json.loads(Path(path).read_text())
    sealed = former.pop(SEAL, None) is not None
    write_json(Path(path), {**former, **changes}, seal=sealed)
    return former
