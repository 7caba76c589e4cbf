"""Let a smile grow and fade over the sample: `python samples/keyframes.py OUT.mp4`."""

import sys
from pathlib import Path

import vidinvert

SAMPLE = Path(__file__).with_name("talk.mp4")


def main(target: str, *, end_seconds: float | None = None) -> dict:
    """Edit the sample with a keyframed smile and return the report."""
    pack = vidinvert.load_pack("mini")
    return vidinvert.edit_video(
        SAMPLE,
        target,
        edits="smile=0@0s,3@2s,0@4.5s",
        pack=pack,
        span=vidinvert.Span(end_seconds=end_seconds),
        overwrite=True,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python samples/keyframes.py OUT.mp4")
    report = main(sys.argv[1])
    print(f"{report['output']}: {report['frames']} frames in {report['seconds']['total']:.1f} s")
