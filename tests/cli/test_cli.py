import json
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest

from tests.mini import SAMPLE, blank_clip, read_clip
from vidinvert.cli import main
from vidinvert.cli.device import choose_device, choose_devices, choose_precision
from vidinvert.errors import PlanError

SHORT = ("--end", "0.2", "--quiet")


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_edit_writes_the_clip_and_prints_its_name(tmp_path, capsys):
    target, report = tmp_path / "out.mp4", tmp_path / "report.json"
    arguments = ("edit", SAMPLE, "-o", target, "--edit", "smile=2", "--report", report, *SHORT)
    status, out, err = run(capsys, *arguments)
    assert (status, out, err) == (0, f"{target}\n", "")
    assert len(read_clip(target)[0]) == 5
    assert json.loads(report.read_text())["edit"] == ["smile=2"]


def test_progress_goes_to_stderr_alone(tmp_path, capsys):
    target = tmp_path / "out.mp4"
    status, out, err = run(capsys, "edit", SAMPLE, "-o", target, "--edit", "age=1", "--end", "0.1")
    assert (status, out) == (0, f"{target}\n")
    assert "render" in err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, capsys):
    target = tmp_path / "out.mp4"
    status, out, _ = run(capsys, "edit", SAMPLE, "-o", target, "--edit", "smile=1", "--dry-run")
    assert status == 0
    assert json.loads(out)["frames"] == 125
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--edit", "smle=1"], 2, "no edit named 'smle'"),
        (["--edit", "smile=big"], 2, "is not a number"),
        (["--pack", "nowhere"], 1, "No face pack 'nowhere'"),
        (["--mask-min", "0.9", "--mask-max", "0.8"], 2, "must lie above --mask-min"),
        (["--start", "3", "--end", "2"], 2, "--end 2 must lie after --start 3"),
        (["--start", "77"], 2, "No frame of talk.mp4 lies between"),
        (["--method", "psp"], 2, "does not run the method 'psp'"),
        (["--face", "7", "--end", "0.1", "--edit", "age=1"], 2, "face"),
        (["--device", "tpu"], 2, "device 'tpu' is unknown"),
        (["--report", "/nowhere/at/all.json"], 1, "is not a directory"),
        (["--analysis", "/nowhere.npz"], 1, "is not a file, expected an analysis"),
        (["--save-analysis", "/nowhere/at/all.npz"], 1, "is not a directory"),
        (["--mask-override", "/nowhere"], 2, "holds no painted mask"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(tmp_path, capsys, arguments, status, message):
    got, out, err = run(capsys, "edit", SAMPLE, "-o", tmp_path / "out.mp4", "--quiet", *arguments)
    assert (got, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_edit_keeps_its_analysis_and_the_next_one_uses_it(tmp_path, capsys):
    kept, report = tmp_path / "kept.npz", tmp_path / "report.json"
    arguments = ("edit", SAMPLE, "--edit", "smile=2", "--quiet")
    first = (*arguments, "-o", tmp_path / "a.mp4", "--end", "0.12", "--save-analysis", kept)
    assert run(capsys, *first)[0] == 0
    again = (*arguments, "-o", tmp_path / "b.mp4", "--analysis", kept, "--report", report)
    assert run(capsys, *again)[0] == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert json.loads(report.read_text())["analysis"] == str(kept)
    refused = (*again, "--force", "--align-smoothing", "none")
    status, _, err = run(capsys, *refused)
    assert status == 2
    assert "was made with align smoothing" in err


@pytest.mark.promise(16)
def test_sources_that_are_no_clips_are_refused(tmp_path, capsys):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    for source in (tmp_path / "missing.mp4", text, tmp_path):
        status, _, err = run(capsys, "edit", source, "-o", tmp_path / "out.mp4", "--quiet")
        assert status == 1
        assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_an_existing_output_is_kept_unless_forced(tmp_path, capsys):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    status, _, err = run(capsys, "edit", SAMPLE, "-o", target, "--edit", "age=1", *SHORT)
    assert status == 1
    assert "exists already" in err
    assert target.read_bytes() == b"precious"
    assert run(capsys, "edit", SAMPLE, "-o", target, "--edit", "age=1", "--force", *SHORT)[0] == 0
    assert len(read_clip(target)[0]) == 5


def test_an_existing_report_is_kept_unless_forced(tmp_path, capsys):
    report = tmp_path / "report.json"
    report.write_text("precious")
    target = tmp_path / "out.mp4"
    status, _, err = run(capsys, "edit", SAMPLE, "-o", target, "--report", report, *SHORT)
    assert status == 1
    assert "report.json exists already" in err
    assert report.read_text() == "precious"


@pytest.mark.promise(16)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    status, _, err = run(capsys, "edit", SAMPLE, "-o", tmp_path / "out.mp4", *SHORT)
    assert status == 1
    assert err.count("\n") == 1


def test_a_clip_without_a_face_is_refused_or_copied(tmp_path, capsys):
    source, target = tmp_path / "bars.mp4", tmp_path / "out.mp4"
    blank_clip(source)
    status, _, err = run(capsys, "edit", source, "-o", target, "--edit", "smile=1", "--quiet")
    assert status == 1
    assert "--allow-no-face" in err
    assert not target.exists()
    status, _, err = run(capsys, "edit", source, "-o", target, "--allow-no-face", "--quiet")
    assert status == 0
    assert "copied as it is" in err


@pytest.mark.promise(16)
def test_debug_shows_where_it_failed(tmp_path, capsys):
    arguments = ("edit", tmp_path / "missing.mp4", "-o", tmp_path / "o.mp4", "--quiet", "--debug")
    assert "Traceback" in run(capsys, *arguments)[2]


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    "arguments", [["edit"], ["edit", "a.mp4"], ["edit", "a", "-o", "b", "--crf", "x"], ["fly"], []]
)
def test_wrong_usage_ends_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_models_are_listed_shown_and_verified(capsys):
    assert run(capsys, "models", "list")[1].startswith("mini  ")
    status, out, _ = run(capsys, "models", "show", "mini")
    assert status == 0
    for word in ("smile", "mouth_open", "age", "yaw", "CC-BY-NC-SA-4.0"):
        assert word in out
    assert run(capsys, "models", "verify", "mini")[:2] == (0, "ok: mini, 13 files\n")
    assert run(capsys, "models", "show", "nowhere")[0] == 1


def test_faces_of_nobody_are_drawn_again_by_the_same_seed(tmp_path, capsys):
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        target = tmp_path / f"{name}.png"
        command = ("models", "show", "mini", "--sheet", str(target), "--seed", str(seed))
        status, out, _ = run(capsys, *command)
        assert status == 0
        assert out.endswith(f"sheet      {target}\n")
        sheets.append(cv2.imread(str(target)))
    assert sheets[0].shape == (3 * 256, 6 * 256, 3)
    assert (sheets[0] == sheets[1]).all()
    assert (sheets[0] != sheets[2]).any()
    faces = [sheets[0][:256, x : x + 256].astype(float) for x in (0, 256)]
    assert abs(faces[0] - faces[1]).mean() > 5.0  # nobody twice
    status, _, err = run(capsys, *command)
    assert (status, "exists; choose another name" in err) == (1, True)
    status, _, err = run(capsys, "models", "show", "mini", "--sheet", str(tmp_path / "a.jpg"))
    assert (status, "expected FILE.png" in err) == (1, True)


def test_a_pack_that_cannot_draw_faces_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr("vidinvert.methods.eigen.EigenSamm.draw")
    status, _, err = run(capsys, "models", "show", "mini", "--sheet", str(tmp_path / "a.png"))
    assert (status, "expected kind eigen" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_finds_everything_that_is_needed(capsys):
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    assert "face pack mini" in out
    assert "MISS" not in out


def test_help_is_fast_and_does_not_load_torch():
    code = "import sys, vidinvert.cli as c; c.build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.promise(17)
def test_an_interrupted_run_leaves_nothing_and_says_so(tmp_path):
    target = tmp_path / "out.mp4"
    command = [sys.executable, "-m", "vidinvert", "edit", str(SAMPLE), "-o", str(target)]
    process = subprocess.Popen(
        [*command, "--edit", "smile=2"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    seen = b""
    while b"detect" not in seen:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"ended by a signal; nothing was written" in rest
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []


def test_devices_and_precisions_are_chosen_or_refused(monkeypatch):
    assert choose_device("cpu") == "cpu"
    with pytest.raises(PlanError, match="device 'cuda:99' is not there"):
        choose_device("cuda:99")
    assert choose_devices("cpu") == ("cpu",)
    for wanted in ("cpu,cpu", "cpu, cuda:99"):
        with pytest.raises(PlanError, match=r"no list of different CUDA devices|is not there"):
            choose_devices(wanted)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert choose_devices("auto") == ("cuda:0",)
    with pytest.raises(PlanError, match="no list of different CUDA devices"):
        choose_devices("cuda:1,cuda:1")
    assert choose_precision("bf16", "cpu") == "bf16"
    assert choose_precision("auto", "cuda:0") == "bf16"
    for units, expected in (("AMX", "bf16"), ("AVX512-BF16", "bf16"), ("", "fp32")):
        monkeypatch.setattr("vidinvert.cli.device.bf16_units", lambda units=units: units)
        assert choose_precision("auto", "cpu") == expected


ENDING = """
import atexit, sys, threading, time
from vidinvert import cli

class Large:
    def __del__(self):
        print("taken apart")

def command():
    global large
    large = Large()
    atexit.register(print, "registered", file=sys.stdout)
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    print("command", end=" ")
    {last}

cli.main = command
cli.enter()
"""


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        ("return 7", 7, ["command thread", "registered"]),
        ("return 0", 0, ["command thread", "registered"]),
        ("sys.exit(2)", 2, ["command thread", "registered", "taken apart"]),
        ("1 / 0", 1, ["command thread", "registered", "taken apart"]),
    ],
)
def test_a_process_ends_in_order_and_leaves_its_memory_to_the_system(last, status, said):
    program = ENDING.format(last=last)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == status
    assert ended.stdout.splitlines() == said
    assert ("ZeroDivisionError" in ended.stderr) == (last == "1 / 0")


def test_what_nobody_can_read_any_more_is_a_failure():
    program = "import time; from vidinvert import cli; "
    program += "cli.main = lambda: time.sleep(1) or print('last words') or 0; cli.enter()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said == b""
