"""Writes charts/lite-llm/dashboards: `python charts/dashboards/write_boards.py`. With `--check` it only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fleet import FLEET
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from model import MODEL
from node import NODE
from panels import built
from tenants import TENANTS

FOLDER = Path(__file__).resolve().parents[1] / "lite-llm" / "dashboards"


def main() -> None:
    """Write the files, or tell which have drifted."""
    drifted = []
    for board in (FLEET, NODE, MODEL, TENANTS):
        path = FOLDER / f"{board.name}.json"
        fields = json.loads(JSONEncoder(sort_keys=True).encode(built(board)))
        text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        drifted.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and drifted:
        sys.exit(f"dashboards are not what their code says, run make dashboards: {drifted}")


if __name__ == "__main__":
    main()
