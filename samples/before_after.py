"""Draw the README's picture: `python samples/before_after.py` edits the sample and cuts heads out.

Columns: the source, six edits, and the mask of what is kept (white).
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

import vidinvert
from vidinvert.media import decode

HERE = Path(__file__).parent
EDITS = ("smile=-2.5", "smile=2", "mouth_open=2", "age=3", "eyes_open=2", "yaw=1.5")
FRAMES = (5, 40, 62, 85)
HEAD = slice(0, 400), slice(60, 440)  # rows and columns of the sample
SIZE = (171, 180)
LABEL = 22  # pixels above each column


def heads_of(path: Path) -> list[np.ndarray]:
    """Return the heads in the chosen frames of a clip, RGB, scaled."""
    info = vidinvert.probe(path)
    chosen = [batch.frames[0] for batch in decode(info, batch_size=1) if batch.indices[0] in FRAMES]
    return [cv2.resize(frame[HEAD], SIZE, interpolation=cv2.INTER_AREA) for frame in chosen]


def column(name: str, pictures: list[np.ndarray]) -> np.ndarray:
    """Put a label above pictures."""
    label = np.full((LABEL, SIZE[0], 3), 255, np.uint8)
    cv2.putText(label, name, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40,) * 3, 1, cv2.LINE_AA)
    return np.concatenate([label, *pictures])


def main(target: Path = HERE / "before_after.png") -> None:
    """Edit the sample in several ways and tile the result."""
    pack = vidinvert.load_pack("mini")
    source = HERE / "talk.mp4"
    columns = [column("source", heads_of(source))]
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks"
        for number, edit in enumerate(EDITS):
            out = Path(folder) / f"{number}.mp4"
            wanted = masks if number == 0 else None
            vidinvert.edit_video(source, out, edits=edit, pack=pack, save_masks=wanted)
            columns.append(column(edit, heads_of(out)))
        shown = [cv2.imread(str(masks / f"{index:06d}.png")) for index in FRAMES]
    kept = [cv2.resize(mask[HEAD], SIZE, interpolation=cv2.INTER_AREA) for mask in shown]
    columns.append(column("mask (white: kept)", kept))
    picture = np.concatenate(columns, axis=1)
    cv2.imwrite(str(target), np.ascontiguousarray(picture[..., ::-1]))


if __name__ == "__main__":
    main()
