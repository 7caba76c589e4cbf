import numpy as np
import pytest

from tests.clips import MATRIX, write_clip
from tests.mini import read_clip
from vidinvert.errors import EncodeError
from vidinvert.media import GreyWriter, decode, probe


def test_grey_pictures_come_back_exactly_with_the_clips_times(tmp_path):
    info = probe(write_clip(tmp_path, MATRIX["vfr"]))
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (4, *info.size_hw), dtype=np.uint8)
    with GreyWriter(tmp_path / "grey.mkv", like=info, start=3) as writer:
        for picture in pictures:
            writer.write(picture)
    frames, times = read_clip(tmp_path / "grey.mkv")
    np.testing.assert_array_equal(frames, np.repeat(pictures[..., None], 3, axis=3))
    expected = info.seconds[3:7] - info.seconds[3]
    np.testing.assert_allclose([float(time) for time in times], expected, atol=0.0006)
    again = probe(tmp_path / "grey.mkv")
    read = np.concatenate([batch.frames for batch in decode(again)])
    np.testing.assert_array_equal(read[..., 0], pictures)


@pytest.mark.promise(7)
def test_a_failure_leaves_no_file(tmp_path):
    info = probe(write_clip(tmp_path, MATRIX["cfr_25"]))

    def fail():
        with GreyWriter(tmp_path / "g.mkv", like=info) as writer:
            writer.write(np.zeros(info.size_hw, np.uint8))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    with pytest.raises(EncodeError, match=r"ends in '.mp4', expected one of .mkv"):
        GreyWriter(tmp_path / "g.mp4", like=info)
