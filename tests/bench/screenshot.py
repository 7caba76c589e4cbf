"""Make the README's picture of the preview again: `python -m tests.bench.screenshot`.

The page of the shipped sample is written by the command, opened in Chromium, and photographed where
the microphone stands before the face. Run it when the page or the shipped pack changes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from tests.browser import Page, browser
from tests.mini import SAMPLE

FRAME = 87  # the microphone stands before the mouth
WIDTH = 1180  # pixels


def main() -> None:
    """Write the picture, and say what the page asked for and logged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=SAMPLE.with_name("preview.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser() as tab:
        page = Path(folder) / "preview.html"
        command = [sys.executable, "-m", "vidinvert", "preview", str(SAMPLE), "-o", str(page)]
        subprocess.run([*command, "--edit", "smile=2.5", "--every", "3"], check=True)
        tab.open(page)
        photograph(tab, options.output)
        print(f"{options.output}; the page logged {tab.troubles or 'nothing'}")


def photograph(tab: Page, output: Path) -> None:
    """Show the frame, make the window as tall as the page, and write the picture."""
    tab.resize(WIDTH, 900)
    tab.wait("document.getElementById('film').dataset.slots > 0")
    tab.evaluate(f"preview.show(preview.scene.sampled.indexOf({FRAME}))")
    tab.wait(f"document.body.dataset.frame === '{FRAME}'")
    tab.resize(
        WIDTH, tab.evaluate("Math.ceil(document.documentElement.getBoundingClientRect().height)")
    )
    tab.wait("document.getElementById('film').dataset.slots > 0")
    cv2.imwrite(str(output), tab.screenshot()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
