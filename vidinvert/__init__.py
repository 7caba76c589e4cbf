"""Edit the faces of talking-head videos by GAN inversion.

Names are loaded when they are first used, so that `import vidinvert` and `vidinvert --help` do not
wait for torch.

Example:
    >>> import vidinvert
    >>> "load_pack" in vidinvert.__all__
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidinvert.version import VERSION as __version__

if TYPE_CHECKING:
    from vidinvert.errors import VidinvertError
    from vidinvert.media import probe
    from vidinvert.pipeline import Models, Span, edit_video, load_pack, measure_video
    from vidinvert.types import EditPlan, EncodeSettings, Plans, RenderPlan, TrackingPlan

_HOMES = {
    "EditPlan": "vidinvert.types",
    "EncodeSettings": "vidinvert.types",
    "Models": "vidinvert.pipeline",
    "Plans": "vidinvert.types",
    "RenderPlan": "vidinvert.types",
    "Span": "vidinvert.pipeline",
    "TrackingPlan": "vidinvert.types",
    "VidinvertError": "vidinvert.errors",
    "edit_video": "vidinvert.pipeline",
    "load_pack": "vidinvert.pipeline",
    "measure_video": "vidinvert.pipeline",
    "probe": "vidinvert.media",
}

__all__ = [
    "EditPlan",
    "EncodeSettings",
    "Models",
    "Plans",
    "RenderPlan",
    "Span",
    "TrackingPlan",
    "VidinvertError",
    "__version__",
    "edit_video",
    "load_pack",
    "measure_video",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vidinvert' has no attribute {name!r}")
