"""`vidinvert edit` and `batch` with a certificate: what is signed, what the report says."""

import json

import av
import pytest

c2pa = pytest.importorskip("c2pa", reason="c2pa-python, of the extra vidinvert[c2pa], is missing")

from tests.certificates import new_authority, write_credentials  # noqa: E402
from tests.mini import SAMPLE, blank_clip  # noqa: E402
from vidinvert.cli import main  # noqa: E402

pytestmark = pytest.mark.promise(20)


@pytest.fixture
def signing(tmp_path):
    """The options that sign, with a certificate of this test alone."""
    (tmp_path / "keys").mkdir()
    pair = write_credentials(tmp_path / "keys", new_authority())
    return ["--c2pa-certificate", str(pair.certificates), "--c2pa-key", str(pair.key)]


def read(path):
    settings = {"verify": {"verify_trust": False, "remote_manifest_fetch": False}}
    with (
        path.open("rb") as stream,
        c2pa.Reader("video/mp4", stream, context=c2pa.Context.from_dict(settings)) as reader,
    ):
        return reader.get_validation_state(), reader.json()


def test_the_report_says_what_was_signed_and_that_the_mark_was_left_out(tmp_path, signing):
    target, report = tmp_path / "out.mp4", tmp_path / "report.json"
    asked = ["edit", str(SAMPLE), "-o", str(target), "--edit", "smile=2", "--end", "0.1", "--quiet"]
    assert main([*asked, *signing, "--no-mark", "--report", str(report)]) == 0
    told = json.loads(report.read_text())
    assert told["mark"] is False
    assert told["manifest"] == {
        "action": "c2pa.edited",
        "signed_by": "O=Tests,CN=Signer",
        "algorithm": "es256",
    }
    state, text = read(target)
    assert (state, "smile=2" in text, "talk.mp4" in text) == ("Valid", True, True)
    with av.open(str(target)) as container:
        assert "vidinvert" not in container.metadata.get("comment", "")


def test_a_dry_run_refuses_what_the_run_would(tmp_path, signing, capsys):
    asked = ["edit", str(SAMPLE), "--dry-run", "-o"]
    assert main([*asked, str(tmp_path / "out.mp4"), *signing]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["action"] == "c2pa.transcoded"
    for output, options, message in (
        ("out.mkv", signing, "out.mkv cannot hold a C2PA manifest"),
        ("out.mp4", signing[:2], "--c2pa-certificate and --c2pa-key are a pair"),
        ("out.mp4", [*signing[:3], str(SAMPLE)], "holds no private key"),
    ):
        assert main([*asked, str(tmp_path / output), *options]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_clip_that_is_copied_is_not_signed_and_that_is_said(tmp_path, signing, capsys):
    source, target, report = (tmp_path / name for name in ("in.mp4", "out.mp4", "out.json"))
    blank_clip(source)
    asked = ["edit", str(source), "-o", str(target), "--allow-no-face", "--quiet"]
    assert main([*asked, "--report", str(report), *signing]) == 0
    assert "copied as it is and not signed" in capsys.readouterr().err
    assert json.loads(report.read_text())["manifest"] is None
    with pytest.raises(c2pa.C2paError, match="ManifestNotFound"):
        read(target)


def test_a_batch_refuses_a_key_that_is_none_before_any_clip(tmp_path, signing, capsys):
    asked = ["batch", str(SAMPLE), "-o", str(tmp_path / "out"), "--edit", "smile=2", "--quiet"]
    assert main([*asked, *signing[:3], str(SAMPLE)]) in (1, 2)
    assert "holds no private key" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_batch_signs_every_output(tmp_path, signing):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(SAMPLE)
    asked = ["batch", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), "-o", str(tmp_path / "out")]
    asked += ["--edit", "smile=2", "--end", "0.2", "--workers", "1", "--threads", "1", "--quiet"]
    assert main([*asked, *signing]) == 0
    for name in ("a.mp4", "b.mp4"):
        state, text = read(tmp_path / "out" / name)
        assert (state, f'"title": "{name}"' in text) == ("Valid", True)
