"""Run a toy graph as a program of its own, for tests that interrupt and kill it: driver.py STORE RUN_DIR GRAPH_JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from leaven.engine.graph import Node
from leaven.engine.progress import watch
from leaven.engine.run import run
from leaven.engine.store import Store

if __name__ == "__main__":
    graph = [Node(**{**row, "links": tuple(row.get("links", ()))}) for row in json.loads(Path(sys.argv[3]).read_text())]
    with watch("plain", sys.stdout) as show:
        outcome = run(graph, Store(sys.argv[1]), run_dir=Path(sys.argv[2]), workers=2, log=show,
                      resume="leaven run toy.yaml")
    sys.exit(outcome.exit_code)
