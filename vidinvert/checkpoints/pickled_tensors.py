"""Tensors out of pickles that were never run: NVIDIA's networks, and arrays of dictionaries.

NVIDIA's releases of StyleGAN2-ADA and StyleGAN3 are pickles of the networks with their source code,
which `pickle` would execute. Here the records of `vidinvert.checkpoints.inert` are read instead:
source code stays text, and tensors are made from their bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from vidinvert.checkpoints.inert import Call, Name, Persistent, read_pickle
from vidinvert.errors import CheckpointError

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
PERSISTENT_VERSION = 6
TENSORFLOW = "dnnlib.tflib.network.Network"
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch.save wrote before it used zip files
TORCH_PROTOCOL = 1001
DEEPEST = 16  # modules in modules; those published have 4
MOST_TENSORS, MOST_VALUES = 5_000, 2**31  # of a network; those published have 400 and 30 million

_DTYPES: Mapping[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_TABLES = ("collections.OrderedDict", "dnnlib.util.EasyDict")
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_BUFFERS = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_NUMPY = (*_ARRAYS, *_BUFFERS, *_SCALARS, "numpy.ndarray", "numpy.dtype", "_codecs.encode")
_NETWORK_NAMES = (
    *(PERSISTENT, TENSORFLOW, *_DTYPES, *_TABLES, *_NUMPY),
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.storage._load_from_bytes",
    "torch.device",
    "torch.Size",
    "builtins.set",
    "builtins.slice",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PickledNetwork:
    """A network of an NVIDIA pickle: the name of its class, its tensors, and its plain settings.

    Settings are the numbers and texts that its layers keep, as `synthesis.num_layers`, and under
    `_init_kwargs` what they were made with, as `synthesis._init_kwargs.conv_kernel`.
    """

    class_name: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def read_nvidia_pickle(path: Path, *, network: str = "G_ema") -> PickledNetwork:
    """Read one network of a pickle of StyleGAN2-ADA or StyleGAN3, executing nothing.

    Args:
        path: the file.
        network: which; `G_ema` is the generator with averaged weights.

    Raises:
        CheckpointError: the file is damaged, of another kind, or refers to anything that such
            pickles do not need.
    """
    with path.open("rb") as file:
        content = read_pickle(file, allowed=_NETWORK_NAMES, source=str(path))
    if isinstance(content, tuple):
        raise CheckpointError(
            f"{path} is a pickle of the TensorFlow release, expected one of the PyTorch release. "
            "Convert it where stylegan2-ada-pytorch is installed: "
            f"python legacy.py --source={path.name} --dest=converted.pkl"
        )
    table = _as_table(content)
    if table is None or network not in table:
        seen = ", ".join(map(str, table or ())) or type(content).__name__
        raise CheckpointError(
            f"{path} holds {seen}, expected networks with {network!r} among them. "
            "Give a pickle that stylegan2-ada-pytorch or stylegan3 wrote."
        )
    source = f"{path}: {network}"
    class_name, _ = _read_module(table[network], source)
    tensors: dict[str, Tensor] = {}
    values = 0
    try:
        for name, tensor in _walk(table[network], "", source, 0):
            tensors[name] = tensor
            values += tensor.numel()
            if len(tensors) > MOST_TENSORS or values > MOST_VALUES:
                raise CheckpointError(
                    f"{source} holds {len(tensors)} tensors of {values} values, more than any "
                    "network published. Do not use this file."
                )
        settings = dict(_read_settings(table[network], "", source))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{source} is not stored as NVIDIA's networks are ({type(error).__name__}: {error})."
        ) from error
    return PickledNetwork(class_name=class_name, tensors=tensors, settings=settings)


def read_array_file(path: Path) -> Any:
    """Read a `.npy` file: an array, or a dictionary of arrays and plain values.

    A dictionary in a `.npy` file is a pickle; it is read without being run.

    Raises:
        CheckpointError: the file is damaged or holds other objects.
    """
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
            if not dtype.hasobject:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"{path} is not a NumPy file ({error}). Fetch it again."
            ) from error
        record = read_pickle(file, allowed=_NUMPY, source=str(path))
    objects = _read_array(record, str(path))
    if shape != () or not isinstance(objects, list) or len(cast(list[Any], objects)) != 1:
        raise CheckpointError(
            f"{path} holds an array of {shape} objects, expected numbers or one dictionary."
        )
    table = _as_table(objects[0])
    if table is None:
        raise CheckpointError(
            f"{path} holds a {type(objects[0]).__name__}, expected numbers or one dictionary."
        )
    return {key: _plain(value, f"{path}: {key}") for key, value in table.items()}


def _plain(value: Any, source: str) -> Any:
    """Turn the records in a value into arrays and numbers."""
    if isinstance(value, Call) and value.function in (*_ARRAYS, *_BUFFERS, *_SCALARS):
        return _read_array(value, source)
    if isinstance(value, list | tuple):
        return [_plain(item, source) for item in cast(list[Any], value)]
    table = _as_table(value)
    if table is not None:
        return {key: _plain(item, source) for key, item in table.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{source} is a {type(value).__name__}, expected numbers or text.")


def _as_table(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, dict):
        return cast(dict[Any, Any], value)
    if isinstance(value, Call) and value.function in _TABLES:
        return value.pairs
    return None


def _read_module(value: Any, source: str) -> tuple[str, Mapping[Any, Any]]:
    """Return the class name and the state of a network or a layer."""
    meta = None
    if isinstance(value, Call) and value.function == PERSISTENT and len(value.arguments) == 1:
        meta = _as_table(value.arguments[0])
    state = None if meta is None else _as_table(meta.get("state"))
    if meta is None or state is None or meta.get("type") != "class":
        raise CheckpointError(
            f"{source} is a {_describe(value)}, expected a layer as NVIDIA's networks store it. "
            "Give a pickle that stylegan2-ada-pytorch or stylegan3 wrote."
        )
    if meta.get("version") != PERSISTENT_VERSION:
        raise CheckpointError(
            f"{source} is stored in version {meta.get('version')!r}, expected {PERSISTENT_VERSION}."
        )
    return str(meta.get("class_name")), state


def _walk(value: Any, prefix: str, source: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a module and those in it, with dotted names."""
    if depth > DEEPEST:
        raise CheckpointError(f"{source} has modules {depth} deep, expected at most {DEEPEST}.")
    _, state = _read_module(value, source)
    for kind in ("_parameters", "_buffers"):
        for name, record in (_as_table(state.get(kind)) or {}).items():
            if record is not None:
                yield f"{prefix}{name}", _read_tensor(record, f"{source}.{name}")
    for name, module in (_as_table(state.get("_modules")) or {}).items():
        if module is not None:
            yield from _walk(module, f"{prefix}{name}.", f"{source}.{name}", depth + 1)


def _read_settings(value: Any, prefix: str, source: str) -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a module and of those in it, whose tensors were read already."""
    _, state = _read_module(value, source)
    yield from _plain_values(state, prefix, source)
    made_with = _as_table(state.get("_init_kwargs"))
    if made_with is not None:
        yield from _plain_values(made_with, f"{prefix}_init_kwargs.", source)
    for name, module in (_as_table(state.get("_modules")) or {}).items():
        if module is not None:
            yield from _read_settings(module, f"{prefix}{name}.", f"{source}.{name}")


def _plain_values(
    table: Mapping[Any, Any], prefix: str, source: str
) -> Iterator[tuple[str, bool | int | float | str]]:
    for name, value in table.items():
        if isinstance(value, Call) and value.function in _SCALARS:
            value = _read_array(value, f"{source}.{name}")
        if isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value


def _read_tensor(record: Any, source: str) -> Tensor:
    """Make a tensor from the record of how torch would rebuild it."""
    if isinstance(record, Call) and record.function == "torch._utils._rebuild_parameter":
        return _read_tensor(record.arguments[0], source)
    if isinstance(record, Call) and record.function in _ARRAYS:
        return torch.from_numpy(_read_array(record, source))
    known = isinstance(record, Call) and record.function == "torch._utils._rebuild_tensor_v2"
    if not known or len(record.arguments) < 4:
        raise CheckpointError(f"{source} is a {_describe(record)}, expected a tensor.")
    storage, offset, size, stride = record.arguments[:4]
    values = _read_storage(storage, source)
    size, stride = _whole_numbers(size), _whole_numbers(stride)
    (start,) = _whole_numbers((offset,)) or (-1,)
    fits = size is not None and stride is not None and len(size) == len(stride) and start >= 0
    if fits:
        assert size is not None
        assert stride is not None
        reach = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        fits = 0 in size or reach < len(values)
        if fits:
            return torch.as_strided(values, size, stride, start).clone()
    raise CheckpointError(
        f"{source} says that its shape is {size} with strides {stride} from {offset}, which does "
        f"not fit {len(values)} values. Fetch the file again."
    )


def _whole_numbers(value: Any) -> tuple[int, ...] | None:
    """Return a tuple of numbers from 0 on, or None."""
    if isinstance(value, Call) and value.function == "torch.Size" and len(value.arguments) == 1:
        value = tuple(value.arguments[0])
    items = cast(tuple[Any, ...], value) if isinstance(value, tuple) else (None,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in items)
    return cast(tuple[int, ...], items) if whole else None


def _read_storage(record: Any, source: str) -> Tensor:
    """Read the values that torch.save wrote in its format before zip files, flat."""
    known = isinstance(record, Call) and record.function == "torch.storage._load_from_bytes"
    if not known or len(record.arguments) != 1:
        raise CheckpointError(f"{source} is stored as a {_describe(record)}, expected bytes.")
    stream = BytesIO(_read_bytes(record.arguments[0], source))
    magic, protocol, _, storage, keys = (
        read_pickle(stream, allowed=_DTYPES, source=source) for _ in range(5)
    )
    if magic != TORCH_MAGIC or protocol != TORCH_PROTOCOL or not isinstance(storage, Persistent):
        raise CheckpointError(f"{source} is not stored as torch stores values. Fetch it again.")
    identity = storage.identity
    if not isinstance(identity, tuple) or len(identity) < 5 or keys != [identity[2]]:
        raise CheckpointError(f"{source} refers to values that are not in the file.")
    kind, count = identity[1], identity[4]
    dtype = _DTYPES.get(kind.dotted) if isinstance(kind, Name) else None
    if dtype is None or identity[0] != "storage" or not isinstance(count, int):
        raise CheckpointError(f"{source} is of the kind {kind!r}, expected a kind of numbers.")
    return _read_values(stream, dtype, count, source)


def _read_values(stream: BinaryIO, dtype: torch.dtype, count: int, source: str) -> Tensor:
    width = torch.empty((), dtype=dtype).element_size()
    written = int.from_bytes(stream.read(8), "little", signed=True)
    data = stream.read()
    if written != count or len(data) != count * width:
        raise CheckpointError(
            f"{source} has {len(data)} bytes, expected {count} values of {width} bytes. "
            "Fetch the file again."
        )
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)


def _read_array(record: Any, source: str) -> Any:
    """Make an array, a number, or a list of records from the record of a NumPy object."""
    if isinstance(record, Call) and record.function in _SCALARS and len(record.arguments) == 2:
        dtype = _read_dtype(record.arguments[0], source)
        return np.frombuffer(_read_bytes(record.arguments[1], source), dtype=dtype)[0].item()
    state = record.state if isinstance(record, Call) and record.function in _ARRAYS else None
    if isinstance(record, Call) and record.function in _BUFFERS and len(record.arguments) == 4:
        data, kind, shape, order = record.arguments
        state = (1, shape, kind, order == "F", data)
    if not isinstance(state, tuple) or len(state) != 5:
        raise CheckpointError(f"{source} is a {_describe(record)}, expected an array.")
    _, shape, dtype_record, fortran, data = state
    shape = _whole_numbers(shape)
    if isinstance(data, list):
        return cast(list[Any], data)
    dtype, raw = _read_dtype(dtype_record, source), _read_bytes(data, source)
    if shape is None or len(raw) != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{source} has {len(raw)} bytes, which do not fill {shape}.")
    values = np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(values.astype(dtype.newbyteorder("=")))


def _read_dtype(record: Any, source: str) -> np.dtype[Any]:
    known = isinstance(record, Call) and record.function == "numpy.dtype"
    code = record.arguments[0] if known and record.arguments else None
    if not isinstance(code, str) or code[:1] not in "fiub" or not code[1:].isdigit():
        raise CheckpointError(f"{source} has values of the kind {code!r}, expected numbers.")
    state = record.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype(code).newbyteorder(order if order in ("<", ">") else "=")


def _read_bytes(value: Any, source: str) -> bytes:
    """Return bytes; old pickle protocols store them as text to be encoded."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    known = isinstance(value, Call) and value.function == "_codecs.encode"
    if known and len(value.arguments) == 2 and value.arguments[1] == "latin1":
        return str(value.arguments[0]).encode("latin1")
    raise CheckpointError(f"{source} is a {_describe(value)}, expected bytes.")


def _describe(value: Any) -> str:
    if isinstance(value, Call):
        return f"result of {value.function}"
    return value.dotted if isinstance(value, Name) else type(value).__name__
