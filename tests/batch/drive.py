"""Run a light batch from a command line of its own, to be killed.

python -m tests.batch.drive SOURCES OUTPUT WORKERS
"""

import sys
from pathlib import Path

from tests.batch.jobs import light_setup, orders_below
from vidinvert.batch import LocalEngine, run_batch


def main() -> None:
    sources, output, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    outcomes = run_batch(
        orders_below(sources),
        output,
        setup=light_setup(),
        open_engine=lambda setup, state: LocalEngine(setup, directory=state),
        workers=workers,
    )
    print(sum(outcome.state == "done" for outcome in outcomes))


if __name__ == "__main__":
    main()
