"""What the README says can be typed."""

import re
import shlex
import shutil

import pytest

from tests.mini import SAMPLE
from tests.shared_data import REPOSITORY
from vidinvert.cli import build_parser

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def typed_commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in SHELL for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("vidinvert ")]


@pytest.mark.parametrize("command", typed_commands())
def test_every_command_of_the_readme_is_understood(command):
    arguments = shlex.split(command, comments=True)[1:]
    assert build_parser().parse_args(arguments).command == arguments[0]


def test_the_readme_has_the_two_commands_and_they_name_what_is_there():
    main_job = re.search(r"<!-- main job -->\s*```bash\n(.*?)```", README, re.DOTALL)
    tests = re.search(r"<!-- tests -->\s*```bash\n(.*?)```", README, re.DOTALL)
    assert main_job is not None
    assert "samples/talk.mp4" in main_job.group(1)
    assert tests is not None
    assert "python -m pytest" in tests.group(1)
    assert SAMPLE.is_file()
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (REPOSITORY / picture).is_file(), picture


def test_every_file_the_readme_names_is_there():
    for name in re.findall(r"\b(?:samples|tests|vidinvert)/[\w/]+\.(?:py|mp4|md|png)\b", README):
        assert (REPOSITORY / name).is_file(), name


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    shutil.copyfile(SAMPLE, tmp_path / "talk.mp4")
    monkeypatch.chdir(tmp_path)
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "smile.mp4").is_file()
    assert "total" in capsys.readouterr().out
