import importlib.util

import pytest

from tests.mini import SAMPLE
from tests.shared_data import REPOSITORY


def compare():
    path = REPOSITORY / "samples" / "compare_stabilizers.py"
    spec = importlib.util.spec_from_file_location("compare_stabilizers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_filter_beats_the_default_in_both_on_the_sample(tmp_path, capsys):
    groups = compare().main(tmp_path / "front.png", [SAMPLE])
    ((strayed, left, _),) = groups["default"]
    better = [
        (name, point)
        for name, points in groups.items()
        for point in points
        if name != "default" and point[0] < strayed and point[1] < left
    ]
    assert better == []
    assert (tmp_path / "front.png").stat().st_size < 300_000
    assert "default" in capsys.readouterr().out


def test_the_script_stays_short():
    text = (REPOSITORY / "samples" / "compare_stabilizers.py").read_text()
    assert len(text.splitlines()) < 60
