import importlib.util

from tests.mini import read_clip
from tests.shared_data import REPOSITORY


def test_the_keyframe_sample_edits_the_first_frames(tmp_path):
    path = REPOSITORY / "samples" / "keyframes.py"
    spec = importlib.util.spec_from_file_location("keyframes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target = tmp_path / "out.mp4"
    report = module.main(str(target), end_seconds=0.2)
    assert report["edit"] == ["smile=0@0s,3@2s,0@4.5s"]
    assert len(read_clip(target)[0]) == 5
