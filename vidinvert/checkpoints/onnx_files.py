"""Look through an ONNX file for tensors that lie in other files, without loading it.

ONNX (onnx.proto3 of the format's repository) lets a tensor name a file and an offset in place of
its values. A model from a stranger could so read any file of the user's; ours keep all their
values. The file is protobuf: fields of a number and a wire type, messages within messages. Only
those that can hold a tensor are followed; anything that does not read as protobuf is refused, too.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from vidinvert.errors import CheckpointError, MissingError

# Fields that hold a message which may hold a tensor, by the message's name in onnx.proto3.
HOLDERS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a Tensor
VARINT, FIXED_64, MESSAGE, FIXED_32 = 0, 1, 2, 5
DEEPEST = 64  # messages within messages; exporters nest about ten


def check_self_contained(path: Path) -> None:
    """Check that an ONNX file names no other file.

    Raises:
        MissingError: it is not there.
        CheckpointError: it names one, or does not read as ONNX.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            external = _find_external(content)
    except FileNotFoundError as error:
        raise MissingError(
            f"{path} does not exist, expected an ONNX file; check its name"
        ) from error
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(
            f"{path} cannot be loaded as an ONNX model ({error}), expected an intact one; "
            "install the pack again"
        ) from error
    if external:
        raise CheckpointError(
            f"{path} keeps values of its tensors in other files (ONNX external data), expected a "
            "model that holds all of them; save it again as one file"
        )


def _find_external(content: mmap.mmap) -> bool:
    """Say whether any tensor keeps its values elsewhere.

    Raises:
        ValueError: the content is no protobuf, or nested too deeply.
    """
    waiting = [("Model", 0, len(content), 0)]
    while waiting:
        kind, start, stop, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"messages are nested more than {DEEPEST} deep")
        for field, wire, first, last in _fields(content, start, stop):
            if kind == "Tensor":
                if field == EXTERNAL_DATA:
                    return True
                if field == DATA_LOCATION and (wire != VARINT or last != 0):
                    return True
            elif (holder := HOLDERS[kind].get(field)) is not None:
                if wire != MESSAGE:
                    raise ValueError(f"field {field} of a {kind} is no message")
                waiting.append((holder, first, last, depth + 1))
    return False


def _fields(content: mmap.mmap, place: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's number, wire type and the range of its bytes; of a varint (0, value)."""
    while place < stop:
        key, place = _varint(content, place, stop)
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(content, place, stop)
            yield field, wire, 0, value
            continue
        if wire == MESSAGE:
            length, place = _varint(content, place, stop)
        elif wire in (FIXED_32, FIXED_64):
            length = 4 if wire == FIXED_32 else 8
        else:
            raise ValueError(f"there is no wire type {wire} in ONNX")
        if field == 0 or length > stop - place:
            raise ValueError("a field reaches beyond its message")
        yield field, wire, place, place + length
        place += length


def _varint(content: mmap.mmap, place: int, stop: int) -> tuple[int, int]:
    """Return the number at a place, seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= stop:
            break
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place
    raise ValueError("a number does not end")
