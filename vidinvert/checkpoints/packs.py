"""Face packs: a directory with a `pack.toml` that names every file with its size and sha256."""

import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from vidinvert.errors import CheckpointError, ChecksumError, MissingError
from vidinvert.types import DirectionMeta, FacePack, PackFile

SCHEMA = 1
PACK_FILE = "pack.toml"
SHIPPED_PACKS = Path(__file__).resolve().parent.parent / "packs"
PACKS_VARIABLE = "VIDINVERT_PACKS"
FORMATS = ("vidinvert", "official")

_GENERATOR_FIELDS = ("kind", "crop_size", "style_count", "style_width")
_DIRECTION_FIELDS = ("unit", "source", "layers", "keeps_colour")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def user_packs_directory() -> Path:
    """Return where a user's own packs live: $VIDINVERT_PACKS, or the platform's data directory."""
    chosen = os.environ.get(PACKS_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "vidinvert" / "packs"


def find_pack(name_or_dir: str | Path) -> FacePack:
    """Return the pack of a name, or the one in a directory.

    Names are looked up among the packs that ship with vidinvert, then in the user's own.

    Raises:
        MissingError: there is no such pack.
        CheckpointError: its description cannot be read.
    """
    text = str(name_or_dir)
    if _BARE_KEY.fullmatch(text):
        for root in (SHIPPED_PACKS, user_packs_directory()):
            if (root / text / PACK_FILE).is_file():
                return read_pack(root / text)
    if (Path(text) / PACK_FILE).is_file():
        return read_pack(Path(text))
    known = ", ".join(pack.name for pack in list_packs()) or "none"
    raise MissingError(
        f"No face pack {text!r}: expected a directory with {PACK_FILE} or the name of a pack "
        f"(found: {known}). Give a directory, or put the pack into {user_packs_directory()}."
    )


def list_packs() -> tuple[FacePack, ...]:
    """Return the packs that ship with vidinvert and the user's own, shipped first, by name."""
    packs: dict[str, FacePack] = {}
    for root in (SHIPPED_PACKS, user_packs_directory()):
        if root.is_dir():
            for directory in sorted(root.iterdir()):
                if (directory / PACK_FILE).is_file():
                    packs.setdefault(directory.name, read_pack(directory))
    return tuple(packs.values())


def read_pack(directory: Path) -> FacePack:
    """Read a pack's description; its files are not opened.

    Raises:
        MissingError: there is no `pack.toml`.
        CheckpointError: it is not a description of schema 1, or names a file outside the pack.
    """
    directory = directory.resolve()
    path = directory / PACK_FILE
    if not path.is_file():
        raise MissingError(f"{path} is not there, expected the description of a face pack.")
    content = path.read_bytes()
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not valid TOML: {error}. Fetch the pack again."
        ) from error
    if table.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {table.get('schema')!r}, expected {SCHEMA}. "
            "Use a vidinvert that reads it, or another pack."
        )
    generator = _table(table, "generator", path)
    files = _table(table, "files", path)
    directions = _table(table, "directions", path) if "directions" in table else {}
    return FacePack(
        name=_value(table, "name", str, path),
        directory=directory,
        version=_value(table, "version", str, path),
        license=_value(table, "license", str, path),
        summary=_value(table, "summary", str, path),
        generator=_value(generator, "kind", str, path),
        crop_size=_value(generator, "crop_size", int, path),
        style_count=_value(generator, "style_count", int, path),
        style_width=_value(generator, "style_width", int, path),
        settings={k: v for k, v in generator.items() if k not in _GENERATOR_FIELDS},
        files={part: _read_file_entry(files, part, path) for part in files},
        directions={name: _read_direction(directions, name, path) for name in directions},
        provenance=table.get("provenance", {}),
        figures=table.get("figures", {}),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def write_pack(
    directory: Path,
    *,
    name: str,
    version: str,
    license: str,
    summary: str,
    generator: Mapping[str, Any],
    files: Mapping[str, str],
    formats: Mapping[str, str] | None = None,
    directions: Mapping[str, Mapping[str, Any]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
) -> FacePack:
    """Describe the files in a directory: write its `pack.toml`, and read it back.

    The same arguments and files give the same bytes.

    Args:
        directory: where the files lie.
        name: of the pack.
        version: of the pack.
        license: SPDX expression, or a word on it.
        summary: one sentence.
        generator: kind, crop_size, style_count, style_width, and what the kind needs beyond.
        files: part to path relative to `directory`, with forward slashes.
        formats: part to "official" where a file carries its authors' parameter names.
        directions: name to unit, source, layers and figures.
        provenance: how the pack was made.
        figures: what was measured of it.

    Raises:
        CheckpointError: a path leads out of the directory, or a field is missing.
        MissingError: a file is not there.
    """
    directory = directory.resolve()
    entries: dict[str, dict[str, Any]] = {}
    for part, relative in files.items():
        path = _contained(directory, relative, part)
        if not path.is_file():
            raise MissingError(f"{path} is not there, expected the part {part!r} of the pack.")
        entry = {"path": relative, "sha256": _sha256(path), "size_bytes": path.stat().st_size}
        entries[part] = entry | ({"format": formats[part]} if formats and part in formats else {})
    table: dict[str, Any] = {"schema": SCHEMA, "name": name, "version": version}
    table |= {"license": license, "summary": summary, "generator": generator, "files": entries}
    for key, value in (
        ("directions", directions),
        ("provenance", provenance),
        ("figures", figures),
    ):
        if value is not None:
            table[key] = value
    text = "\n".join(_toml_lines(table, ())).strip() + "\n"
    (directory / PACK_FILE).write_text(text, encoding="utf-8", newline="\n")
    return read_pack(directory)


def verify_pack(pack: FacePack) -> None:
    """Check that every file of a pack is there and is the one described.

    Raises:
        MissingError: a file is not there.
        ChecksumError: a file has another size or content.
    """
    for part in pack.files:
        verify_file(pack, part)


def verify_file(pack: FacePack, part: str) -> PackFile:
    """Check one file of a pack, and return it. Raises what `verify_pack` raises."""
    if part not in pack.files:
        raise MissingError(
            f"The pack {pack.name!r} has no part {part!r}, only {', '.join(pack.files)}. "
            "Use a pack or a method that fits."
        )
    entry = pack.files[part]
    if not entry.path.is_file():
        raise MissingError(
            f"{entry.path} is not there, expected the part {part!r} of {pack.name!r}. "
            "Fetch the pack again."
        )
    size = entry.path.stat().st_size
    if size != entry.size_bytes:
        raise ChecksumError(
            f"{entry.path} has {size} bytes, expected {entry.size_bytes}. Fetch the pack again."
        )
    seen = _sha256(entry.path)
    if seen != entry.sha256:
        raise ChecksumError(
            f"{entry.path} has sha256 {seen}, expected {entry.sha256}. Fetch the pack again."
        )
    return entry


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contained(directory: Path, relative: str, part: str) -> Path:
    """Return a pack's file; refuses paths that lead out of it, by name or by link."""
    pure = PurePosixPath(relative)
    bad = pure.is_absolute() or ".." in pure.parts or "\\" in relative or ":" in relative
    path = (directory / relative).resolve()
    if bad or not relative or not path.is_relative_to(directory):
        raise CheckpointError(
            f"The part {part!r} of {directory} has the path {relative!r}, expected one inside the "
            "pack. Do not use this pack."
        )
    return path


def _read_file_entry(files: Mapping[str, Any], part: str, path: Path) -> PackFile:
    entry = _table(files, part, path)
    format_ = entry.get("format", "vidinvert")
    sha256 = _value(entry, "sha256", str, path)
    if format_ not in FORMATS or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise CheckpointError(
            f"{path}: files.{part} has format {format_!r} and sha256 {sha256!r}, expected one of "
            f"{', '.join(FORMATS)} and 64 hexadecimal digits. Fetch the pack again."
        )
    return PackFile(
        path=_contained(path.parent, _value(entry, "path", str, path), part),
        sha256=sha256,
        size_bytes=_value(entry, "size_bytes", int, path),
        format=cast(Literal["vidinvert", "official"], format_),
    )


def _read_direction(directions: Mapping[str, Any], name: str, path: Path) -> DirectionMeta:
    entry = _table(directions, name, path)
    measured = entry.get("figures", {})
    figures = {
        key: float(value)
        for key, value in {**entry, **(measured if isinstance(measured, dict) else {})}.items()
        if key not in _DIRECTION_FIELDS and isinstance(value, int | float)
    }
    return DirectionMeta(
        unit=_value(entry, "unit", str, path),
        source=_value(entry, "source", str, path),
        layers=tuple(_value(entry, "layers", list, path)),
        figures=figures,
        keeps_colour=entry.get("keeps_colour", False) is True,
    )


def _table(parent: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    return _value(parent, key, dict, path)


def _value(parent: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    value = parent.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(
            f"{path}: {key} is {value!r}, expected a value of type {kind.__name__}. "
            "Fetch the pack again."
        )
    return value


def _toml_lines(table: Mapping[str, Any], trail: tuple[str, ...]) -> Iterator[str]:
    """Yield a table as TOML: its values in their order, then the tables in it."""
    if trail:
        yield f"\n[{'.'.join(_toml_key(key) for key in trail)}]"
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml_lines(cast(Mapping[str, Any], value), (*trail, key))


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_value(key)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in cast(list[object], value))}]"
    raise TypeError(f"{value!r} cannot be written to {PACK_FILE}, expected a number, text or list")
