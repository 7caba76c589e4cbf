"""Filters as people write them: `gaussian:sigma=0.12`, `one-euro:cutoff=1,beta=0.02`, `none`."""

from dataclasses import dataclass
from typing import Any

from stabilizers.masks import FlowFilter
from stabilizers.recursive import KalmanFilter, OneEuroFilter
from stabilizers.signals import GaussianFilter, TemporalFilter
from stabilizers.variation import TotalVariationFilter
from stabilizers.windows import BilateralFilter, MedianFilter, SavitzkyGolayFilter


@dataclass(frozen=True, slots=True)
class _Written:
    """A filter's class, and the field that each written parameter sets."""

    kind: Any
    fields: dict[str, str]


_FILTERS: dict[str, _Written] = {
    "gaussian": _Written(GaussianFilter, {"sigma": "sigma_seconds"}),
    "savgol": _Written(SavitzkyGolayFilter, {"window": "window_seconds", "order": "order"}),
    "median": _Written(MedianFilter, {"window": "window_seconds"}),
    "bilateral": _Written(BilateralFilter, {"sigma": "sigma_seconds", "steps": "steps"}),
    "one-euro": _Written(
        OneEuroFilter, {"cutoff": "cutoff_hz", "beta": "beta", "derivative": "derivative_hz"}
    ),
    "kalman": _Written(KalmanFilter, {"time": "time_seconds"}),
    "tv": _Written(TotalVariationFilter, {"time": "time_seconds"}),
}
_FLOW = _Written(
    FlowFilter, {"time": "time_seconds", "levels": "levels", "radius": "radius", "edge": "edge"}
)


def parse_filter(text: str) -> TemporalFilter | None:
    """Read a filter: `none`, or NAME[:PARAMETER=VALUE,...], in seconds or Hz.

    `gaussian:sigma`, `savgol:window,order`, `median:window`, `bilateral:sigma,steps`,
    `one-euro:cutoff,beta,derivative`, `kalman:time` (left out: estimated) and `tv:time` (total
    variation).

    Raises:
        ValueError: the filter or a parameter is unknown, or a value is not a number in its range.

    Example:
        >>> parse_filter("gaussian:sigma=0.12")
        GaussianFilter(sigma_seconds=0.12)
        >>> parse_filter("savgol:window=0.3,order=3")
        SavitzkyGolayFilter(window_seconds=0.3, order=3)
        >>> parse_filter("none") is None
        True
    """
    return _parse(text, _FILTERS)


def parse_mask_filter(text: str) -> TemporalFilter | FlowFilter | None:
    """Read a filter for masks: as `parse_filter`, and `flow:time,levels,radius,edge`.

    Raises:
        ValueError: as `parse_filter`.

    Example:
        >>> parse_mask_filter("flow:time=0.1").time_seconds
        0.1
    """
    return _parse(text, {**_FILTERS, "flow": _FLOW})


def _parse(text: str, known: dict[str, _Written]) -> Any:
    name, colon, parameters = text.strip().partition(":")
    if name == "none" and not colon:
        return None
    if name not in known:
        raise ValueError(
            f"filter is {text!r}, expected none, {', '.join(known)}; "
            "parameters follow as in gaussian:sigma=0.12"
        )
    written = known[name]
    chosen: dict[str, Any] = {}
    for part in parameters.split(",") if colon else ():
        key, equals, value = part.partition("=")
        key = key.strip()
        if key not in written.fields or not equals:
            raise ValueError(
                f"filter {text!r} has the parameter {part!r}, expected "
                f"{' or '.join(f'{field}=NUMBER' for field in written.fields)}"
            )
        chosen[written.fields[key]] = _number(text, key, value)
    return written.kind(**chosen)


def _number(text: str, key: str, value: str) -> float | int:
    try:
        return int(value) if key == "order" else float(value)
    except ValueError:
        whole = "whole number" if key == "order" else "number"
        raise ValueError(
            f"filter {text!r} has {key}={value!r}, expected a {whole}, as in sigma=0.12 or order=2"
        ) from None
