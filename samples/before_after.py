"""Draw the README's picture: `python samples/before_after.py` edits the sample and cuts frames out.

Rows: the source, `smile=-2.5`, `smile=2.5`, `age=2.5`, `yaw=1.5`, and the mask (white = kept).
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

import vidinvert

HERE = Path(__file__).parent
EDITS = ("smile=-2.5", "smile=2.5", "age=2.5", "yaw=1.5")
FRAMES = (5, 40, 62, 85)
HEIGHT = 220


def frames_of(path: Path) -> list[np.ndarray]:
    """Return the chosen frames of a clip, RGB, scaled."""
    info = vidinvert.probe(path)
    from vidinvert.media import decode

    chosen = [batch.frames[0] for batch in decode(info, batch_size=1) if batch.indices[0] in FRAMES]
    return [cv2.resize(f, (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA) for f in chosen]


def main(target: Path = HERE / "before_after.png") -> None:
    """Edit the sample in several ways and tile the result."""
    pack = vidinvert.load_pack("mini")
    source = HERE / "talk.mp4"
    rows = [frames_of(source)]
    with tempfile.TemporaryDirectory() as folder:
        for number, edit in enumerate(EDITS):
            out, masks = Path(folder) / f"{number}.mp4", Path(folder) / f"masks{number}"
            vidinvert.edit_video(source, out, edits=edit, pack=pack, save_masks=masks)
            rows.append(frames_of(out))
        shown = [cv2.imread(str(masks / f"{index:06d}.png")) for index in FRAMES]
    rows.append([cv2.resize(m, (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA) for m in shown])
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    cv2.imwrite(str(target), np.ascontiguousarray(picture[..., ::-1]))


if __name__ == "__main__":
    main()
