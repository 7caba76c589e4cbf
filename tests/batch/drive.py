"""Run a batch from a command line of its own, to be killed or to have Ray for itself.

python -m tests.batch.drive SOURCES OUTPUT [--engine ray] [--workers 2] [--job NAME] ...

Prints one JSON object: by output the state, kind of failure, attempts and reason, and under
`skipped` the outputs that were done before; or under `error` why there was no batch.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tests.batch.jobs import light_setup, orders_below
from vidinvert.batch import Limits, LocalEngine, RayEngine, run_batch
from vidinvert.errors import BatchError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--job", default="open_light")
    parser.add_argument("--clip-seconds", type=float)
    parser.add_argument("--attempts", type=int, default=2)
    parser.add_argument("--retry-failed", action="store_true")
    given = parser.parse_args()

    def open_engine(setup, state):
        if given.engine == "ray":
            return RayEngine(setup, directory=state, workers=given.workers)
        return LocalEngine(setup, directory=state)

    try:
        outcomes = run_batch(
            orders_below(given.sources),
            given.output,
            setup=replace(light_setup(), job=f"tests.batch.jobs:{given.job}"),
            open_engine=open_engine,
            workers=given.workers,
            limits=Limits(
                clip_seconds=given.clip_seconds,
                stall_seconds=8.0,
                memory_bytes=300 * 2**20,
                attempts=given.attempts,
            ),
            retry_failed=given.retry_failed,
        )
    except BatchError as error:
        print(json.dumps({"error": str(error)}))
        return
    told = {str(o.order.output): [o.state, o.kind, o.attempts, o.reason] for o in outcomes}
    print(json.dumps({**told, "skipped": [str(o.order.output) for o in outcomes if o.skipped]}))


if __name__ == "__main__":
    main()
