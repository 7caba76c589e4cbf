"""Which device and precision to run on, and how the C library should treat large arrays."""

import ctypes
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidinvert.errors import PlanError

if TYPE_CHECKING:
    from vidinvert.methods import Graphs

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # of glibc's mallopt(3)
ARENAS = 1  # threads that keep memory of their own take 400 MB more, and are no faster


def choose_device(wanted: str) -> str:
    """Return `cpu` or `cuda:N` for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        PlanError: CUDA is asked for and not there.
    """
    import torch

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name, _, number = ("cuda" if wanted == "auto" else wanted).partition(":")
    index = int(number) if number.isdecimal() else 0
    if name != "cuda" or (number and not number.isdecimal()):
        raise PlanError(f"The device {wanted!r} is unknown, expected auto, cpu, cuda or cuda:N.")
    if index >= count:
        raise PlanError(
            f"The device {wanted!r} is not there: torch {torch.__version__} sees {count} CUDA "
            "devices. Use --device cpu, or install a CUDA build of torch and a driver."
        )
    return f"cuda:{index}"


def choose_devices(wanted: str) -> tuple[str, ...]:
    """Return one device, as `choose_device`, or several that were named with commas.

    Raises:
        PlanError: as `choose_device`; or the list names the CPU, or a device twice.
    """
    names = [name.strip() for name in wanted.split(",")]
    chosen = tuple(choose_device(name) for name in names)
    if len(set(chosen)) < len(chosen) or ("cpu" in chosen and len(chosen) > 1):
        raise PlanError(
            f"The devices {wanted!r} are no list of different CUDA devices, expected one device or "
            "a list as cuda:0,cuda:1."
        )
    return chosen


def count_devices() -> int:
    """Return how many CUDA devices torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check_graphs(wanted: "Graphs", devices: Sequence[str]) -> "Graphs":
    """Return whether CUDA graphs are wanted.

    Raises:
        PlanError: they are demanded where no CUDA device was chosen.
    """
    if wanted == "on" and "cpu" in devices:
        raise PlanError(
            "CUDA graphs need a CUDA device, and the device chosen is the CPU; leave --cuda-graphs "
            "out, or name a --device that `vidinvert doctor` finds."
        )
    return wanted


def tell_of_graphs(
    wanted: "Graphs", described: Iterable[Sequence[Mapping[str, Any]] | None]
) -> None:
    """Say on stderr, where CUDA graphs were demanded, which passes ran without, and why.

    `described`: as `vidinvert.methods.describe_graphs` gives it; what is said twice is said once.
    """
    if wanted != "on":
        return
    for name, reason in dict.fromkeys(
        pair for devices in described for one in devices or () for pair in one["eager"].items()
    ):
        print(f"vidinvert: no CUDA graph of {name}, which ran without: {reason}", file=sys.stderr)


def choose_precision(wanted: str, device: str) -> str:
    """Return `fp32`, `bf16` or `fp16`; `auto` takes bf16 where matrix units make it faster.

    On a CPU that is AMX or AVX-512's bf16 products, which run the shipped pack 1.8 times as fast as
    fp32; without either, bf16 is emulated and several times slower.
    """
    if wanted != "auto":
        return wanted
    if device != "cpu":
        return "bf16"
    return "bf16" if bf16_units() else "fp32"


def share_threads(threads: int | None, *, pack: str) -> int:
    """Give the libraries their threads, and return how many batches are worked on at once.

    Args:
        threads: for the whole run; None = all cores.
        pack: the face pack that will run; the size of its crops decides.

    Raises:
        CheckpointError: the pack is missing or damaged.
    """
    import torch

    from vidinvert.checkpoints import find_pack
    from vidinvert.geometry import limit_threads
    from vidinvert.media import divide_threads

    wanted = torch.get_num_threads() if threads is None else threads
    workers, each = divide_threads(wanted, crop_size=find_pack(pack).crop_size)
    torch.set_num_threads(each)
    limit_threads(1)  # the stages of a run have threads of their own
    return workers


def bf16_units() -> str:
    """Name what multiplies bf16 in the CPU's hardware, `AMX` or `AVX512-BF16`; empty if nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
            flags = next((line.split() for line in stream if line.startswith("flags")), [])
    except OSError:
        return ""
    known = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
    return next((name for flag, name in known.items() if flag in flags), "")


def keep_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it to the kernel.

    Otherwise every large tensor is mapped and zeroed afresh, page by page, which can double the
    time of a network on the CPU. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 256 << 20)
    mallopt(_ARENA_MAX, ARENAS)
