"""Find what a batch is to work on: files, directories, globs and manifests."""

import csv
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from vidinvert.errors import PlanError

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"}
)
"""What a directory is searched for, by suffix in lower case."""

OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""What can be written; a clip with another suffix becomes .mkv, which holds any sound."""

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A clip to edit.

    Attributes:
        source: absolute.
        output: relative to the batch's directory.
        edits: of this clip alone, None = the common ones.
        options: of this clip alone, by option name without dashes, as `crf`.
        place: where it was found, for messages.
        named: the user chose the output's name, suffix and all.
    """

    source: Path
    output: Path
    edits: tuple[str, ...] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    named: bool = False


def find_clips(inputs: Sequence[str], *, skip: Path, suffix: str | None = None) -> list[Found]:
    """List the clips that inputs name; outputs mirror the tree under a directory or glob.

    Args:
        inputs: paths of files, directories or manifests (.csv, .jsonl, .ndjson), or globs with `**`
            where no file has that name.
        skip: a directory that is not searched: the batch's own.
        suffix: of all outputs that no manifest names, as `.mp4`; None = the source's where it can
            be written.

    Raises:
        PlanError: an input names nothing, a manifest cannot be read, or two clips would be written
            to one output.
    """
    found: list[Found] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            clips = [_below(path, clip) for clip in _walk(path, skip.resolve())]
        elif path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            clips = list(_read_manifest(path))
        elif path.exists() or not glob.has_magic(text):
            if not path.exists():
                raise PlanError(f"{text} does not exist, expected a clip, directory or manifest.")
            clips = [Found(source=_absolute(path), output=Path(path.name), place=text)]
        else:
            clips = list(_glob(text, skip.resolve()))
        if not clips:
            raise PlanError(
                f"{text} holds no clip, expected files that end in one of "
                f"{', '.join(sorted(VIDEO_SUFFIXES))}; name the files themselves."
            )
        found.extend(replace(clip, output=_writable(clip, suffix)) for clip in clips)
    return _once(found)


def _writable(clip: Found, suffix: str | None) -> Path:
    """Give an output a suffix that can be written; one that a manifest names must have it."""
    own = clip.output.suffix.lower()
    if clip.named:
        if own not in OUTPUT_SUFFIXES:
            raise PlanError(
                f"{clip.place}: the output {str(clip.output)!r} ends in {own!r}, expected one of "
                f"{', '.join(OUTPUT_SUFFIXES)}."
            )
        return clip.output
    if suffix is None and own in OUTPUT_SUFFIXES:
        return clip.output
    return clip.output.with_suffix(suffix or ".mkv")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _below(root: Path, clip: Path) -> Found:
    return Found(source=_absolute(clip), output=clip.relative_to(root), place=str(clip))


def _walk(root: Path, skip: Path) -> Iterator[Path]:
    """Yield the clips under a directory by name; hidden ones and links to directories are not."""
    for directory, names, files in os.walk(root):
        here = Path(directory)
        names[:] = sorted(
            n for n in names if not n.startswith(".") and (here / n).resolve() != skip
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield here / name


def _glob(pattern: str, skip: Path) -> Iterator[Found]:
    """Yield the files that a pattern matches; outputs are relative to its part without magic."""
    parts = PurePath(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        if path.is_file() and not path.resolve().is_relative_to(skip):
            yield _below(root, path)


def _read_manifest(path: Path) -> Iterator[Found]:
    """Yield a manifest's clips; relative sources are looked for beside it."""
    for number, row in _rows(path):
        place = f"{path}, line {number}"
        source = row.pop("source", None)
        if not isinstance(source, str) or not source:
            raise PlanError(f"{place} names no source, expected a column or key `source`.")
        output = row.pop("output", None)
        edits = row.pop("edits", None)
        yield Found(
            source=_absolute(path.parent / source),
            output=_contained(str(output), place) if output else Path(Path(source).name),
            edits=None if edits in (None, "") else _edits(edits, place),
            options={key.replace("_", "-"): _text(value, place) for key, value in row.items()},
            place=place,
            named=bool(output),
        )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(text.splitlines(), strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise PlanError(
                        f"{path}, line {reader.line_num} has another number of fields than the "
                        "first line, expected the same; quote what holds a comma."
                    )
                yield reader.line_num, {k.strip(): v.strip() for k, v in row.items() if v.strip()}
            return
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise PlanError(f"{path}, line {number} is no JSON object, expected one.")
                yield number, row
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise PlanError(
            f"{path} cannot be read ({error}), expected CSV with a first line of names, or one "
            "JSON object a line, in UTF-8."
        ) from error


def _contained(output: str, place: str) -> Path:
    """Return an output's path; it may not lead out of the batch's directory.

    Raises:
        PlanError: it is absolute, climbs up, or names no file.
    """
    path = Path(output)
    windows = "\\" in output or ":" in output.partition("/")[0]
    if path.is_absolute() or ".." in path.parts or not path.name or (os.name == "nt" and windows):
        raise PlanError(
            f"{place}: the output {output!r} leads out of the batch's directory, expected a path "
            "relative to --output, without `..`."
        )
    if path.parts[0].startswith(".vidinvert"):
        raise PlanError(f"{place}: the output {output!r} is inside the journal's own directory.")
    return path


def _edits(value: object, place: str) -> tuple[str, ...]:
    """Read edits: a list, or text with `;` between them."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(";") if part.strip())
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise PlanError(f"{place}: the edits {value!r} cannot be read, expected `smile=2; age=1`.")


def _text(value: object, place: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise PlanError(f"{place}: the value {value!r} cannot be read, expected text or a number.")


def _once(found: Sequence[Found]) -> list[Found]:
    """Drop clips that were named twice alike; refuse two that would share an output."""
    by_output: dict[Path, Found] = {}
    for clip in found:
        other = by_output.setdefault(clip.output, clip)
        same = (other.source, other.edits, other.options) == (
            clip.source,
            clip.edits,
            clip.options,
        )
        if other is not clip and not same:
            raise PlanError(
                f"{clip.output} would be written twice, from {other.place} and {clip.place}; "
                "expected one clip for each output. Name them in a manifest with `output`, or run "
                "two batches."
            )
    return list(by_output.values())
