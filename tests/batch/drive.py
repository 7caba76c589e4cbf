"""Run a batch from a command line of its own, to be killed or to have Ray for itself.

python -m tests.batch.drive SOURCES OUTPUT [--engine ray] [--workers 2] [--job MODULE:FUNCTION]
"""

import argparse
import json
from pathlib import Path

from tests.batch.jobs import light_setup, orders_below
from vidinvert.batch import Limits, LocalEngine, RayEngine, run_batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()

    def open_engine(setup, state):
        if given.engine == "ray":
            return RayEngine(setup, directory=state, workers=given.workers)
        return LocalEngine(setup, directory=state)

    outcomes = run_batch(
        orders_below(given.sources),
        given.output,
        setup=light_setup(),
        open_engine=open_engine,
        workers=given.workers,
        limits=Limits(stall_seconds=8.0, memory_bytes=300 * 2**20),
    )
    print(
        json.dumps({str(o.order.output): [o.state, o.kind, o.attempts, o.reason] for o in outcomes})
    )


if __name__ == "__main__":
    main()
