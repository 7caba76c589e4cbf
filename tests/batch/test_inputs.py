"""What a batch finds to work on, and where it writes to."""

import json
from pathlib import Path

import pytest

from vidinvert.batch import OUTPUT_SUFFIXES, find_clips
from vidinvert.errors import PlanError
from vidinvert.media import MUXERS


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a.mp4",
        "sub/b.MOV",
        "sub/deep/c.avi",
        "sub/notes.txt",
        ".hidden/d.mp4",
        ".e.mp4",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "in" / "out").mkdir()
    (tmp_path / "in" / "out" / "a.mp4").write_bytes(b"")
    return tmp_path / "in"


def outputs(*inputs, skip=Path("nowhere"), **options):
    return [str(clip.output) for clip in find_clips([str(i) for i in inputs], skip=skip, **options)]


def test_the_suffixes_that_are_kept_are_those_that_can_be_written():
    assert set(OUTPUT_SUFFIXES) == set(MUXERS)


def test_a_directory_is_searched_by_media_type_and_mirrored(tree):
    found = outputs(tree, skip=tree / "out")
    assert found == ["a.mp4", "sub/b.MOV", "sub/deep/c.mkv"]
    assert outputs(tree, skip=tree / "out", suffix=".mkv") == [
        "a.mkv",
        "sub/b.mkv",
        "sub/deep/c.mkv",
    ]
    assert all(clip.source.is_absolute() for clip in find_clips([str(tree)], skip=tree / "out"))


def test_files_and_globs_are_clips(tree, monkeypatch):
    assert outputs(tree / "a.mp4", tree / "sub" / "b.MOV") == ["a.mp4", "b.MOV"]
    assert outputs(tree / "sub" / "**" / "*.avi") == ["deep/c.mkv"]
    assert outputs(tree / "*.mp4", skip=tree / "out") == ["a.mp4"]
    monkeypatch.chdir(tree)
    assert outputs("**/*.MOV") == ["sub/b.MOV"]
    (tree / "[x].mp4").write_bytes(b"")
    assert outputs("[x].mp4") == ["[x].mp4"]


def test_a_clip_that_is_named_twice_is_done_once(tree):
    assert outputs(tree / "a.mp4", tree / "a.mp4") == ["a.mp4"]


def test_a_csv_manifest_names_sources_outputs_edits_and_options(tree):
    manifest = tree / "list.csv"
    manifest.write_text(
        "source,output,edits,crf,allow_no_face\n"
        'a.mp4,x/y.mp4,"smile=0@0s,3@2s; age=1",20,true\n'
        "sub/b.MOV,,,,\n"
    )
    first, second = find_clips([str(manifest)], skip=tree / "out")
    assert (first.source, str(first.output)) == (tree / "a.mp4", "x/y.mp4")
    assert first.edits == ("smile=0@0s,3@2s", "age=1")
    assert first.options == {"crf": "20", "allow-no-face": "true"}
    assert (str(second.output), second.edits, second.options) == ("b.MOV", None, {})
    assert first.place == f"{manifest}, line 2"


def test_a_json_manifest_does_the_same(tree):
    manifest = tree / "list.jsonl"
    lines = [
        {"source": "a.mp4", "edits": ["smile=2"], "crf": 18.5, "no-mark": False},
        {"source": str(tree / "sub" / "b.MOV"), "output": "z.mp4", "edits": "age=1"},
    ]
    manifest.write_text("\n\n".join(json.dumps(line) for line in lines))
    first, second = find_clips([str(manifest)], skip=tree / "out")
    assert (first.edits, first.options) == (("smile=2",), {"crf": "18.5", "no-mark": "false"})
    assert (second.source, str(second.output)) == (tree / "sub" / "b.MOV", "z.mp4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,output\na.mp4,../out.mp4\n", "leads out of the batch's directory"),
        ("source,output\na.mp4,/tmp/out.mp4\n", "leads out of the batch's directory"),
        ("source,output\na.mp4,.vidinvert/x.mp4\n", "inside the journal's own directory"),
        ("source,output\na.mp4,x.avi\n", r"ends in '\.avi', expected one of \.mp4"),
        ("output\nx.mp4\n", "line 2 names no source"),
        ("source,edits\na.mp4\n", "has another number of fields"),
        ("source,edits\na.mp4,x=1,y=2\n", "has another number of fields"),
        ('source\n"a.mp4\n', "cannot be read"),
        ("source,output\na.mp4,x.mp4\nsub/b.MOV,x.mp4\n", r"x\.mp4 would be written twice"),
        ("source\n", "holds no clip"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(tree, text, message):
    (tree / "list.csv").write_text(text)
    with pytest.raises(PlanError, match=message):
        outputs(tree / "list.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 1 is no JSON object"),
        ("{", "cannot be read"),
        ('{"source": "a.mp4", "edits": 3}', "the edits 3 cannot be read"),
        ('{"source": "a.mp4", "crf": [1]}', r"the value \[1\] cannot be read"),
        ('{"source": 7}', "names no source"),
    ],
)
def test_a_json_line_that_is_wrong_is_refused(tree, line, message):
    (tree / "list.jsonl").write_text(line)
    with pytest.raises(PlanError, match=message):
        outputs(tree / "list.jsonl")


def test_inputs_that_name_nothing_are_refused(tree):
    for text, message in (
        (tree / "missing.mp4", "does not exist"),
        (tree / "*.webm", "holds no clip"),
        (tree / "sub" / "nothing", "does not exist"),
    ):
        with pytest.raises(PlanError, match=message):
            outputs(text)
    (tree / "empty").mkdir()
    with pytest.raises(PlanError, match="holds no clip"):
        outputs(tree / "empty")


def test_two_clips_may_not_share_an_output(tree):
    (tree / "sub" / "a.mp4").write_bytes(b"")
    with pytest.raises(PlanError, match=r"a\.mp4 would be written twice"):
        outputs(tree / "a.mp4", tree / "sub" / "a.mp4")
