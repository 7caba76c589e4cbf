import json

import pytest

from tests.mini import SAMPLE
from vidinvert.cli import main


def run(capsys, *arguments):
    status = main([str(argument) for argument in ("evaluate", *arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_evaluate_writes_a_report_and_plots_and_prints_the_figures(tmp_path, capsys):
    report, plots = tmp_path / "metrics.json", tmp_path / "plots"
    status, out, err = run(
        capsys, SAMPLE, SAMPLE, "--end", "0.16", "--report", report, "--plots", plots, "--quiet"
    )
    assert (status, err) == (0, "")
    figures = json.loads(report.read_text())
    assert figures["faces"][0]["warping_error"]["ratio"] == 1.0
    assert figures["sound"]["same_share"] == 1.0
    assert "face 0  warping_error" in out
    assert "absent  lpips_face: no weights" in out
    assert (plots / "face0_warping_error.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report", "/nowhere/at/all.json"], "is not a directory"),
        (["--report", "{tmp}/kept.json"], "exists already"),
        (["--report", "{tmp}/a.json", "--plots", "/nowhere/at/all"], "is not a directory"),
        (["--report", "{tmp}/a.json", "--recognition", "/nowhere.onnx"], "No recognition model"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(tmp_path, capsys, options, message):
    (tmp_path / "kept.json").write_text("kept")
    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    status, out, err = run(capsys, SAMPLE, SAMPLE, "--quiet", *given)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert (tmp_path / "kept.json").read_text() == "kept"
