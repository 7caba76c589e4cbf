"""Every method of `mini` edits real clips, visibly, and leaves what is outside the crop alone."""

import pytest

import vidinvert
from tests.shared_data import shared_path

pytestmark = [pytest.mark.shared, pytest.mark.slow]

METHODS = ("samm", "diffcam", "e4e", "restyle", "indomain", "force-indomain")
SPAN = vidinvert.Span(start_seconds=0.0, end_seconds=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_edits_three_clips_visibly(tmp_path, method):
    pack = vidinvert.load_pack("mini", method=method)
    for name in ("talk_480_30fps.mp4", "glasses_512_25fps.mp4", "talk_720p_30fps.mp4"):
        clip = shared_path(f"data/clips/{name}")
        for edit in ("smile=2", "age=2"):
            target = tmp_path / f"{edit}_{name}"
            report = vidinvert.edit_video(clip, target, edits=edit, pack=pack, span=SPAN)
            quality = report["quality"]
            assert target.stat().st_size > 0
            assert quality["psnr_outside_identical"]
            assert 20.0 < quality["psnr_face"] < 45.0, (name, edit)
