"""The house rules on who may import whom, and on calls that hide a choice."""

import ast
import sys
import tomllib
from collections.abc import Iterator

import pytest

from tests.shared_data import REPOSITORY
from tests.source_tree import Module, called_name, modules, parse

# From the command line inwards; a room imports only from columns after its own, or from itself.
COLUMNS = (
    ("__main__",),
    ("cli",),
    ("batch", "portraits", "appraisal"),  # the pipeline many times; its models on pictures
    ("pipeline", "preview", "evaluation"),
    ("inversion", "editing", "rendering", "analysis", "corrections", "quality"),
    ("changes",),
    ("methods", "training", "official"),
    ("media", "faces", "mouths", "networks", "fidelity"),
    ("plots", "images", "geometry", "warps", "reach", "checkpoints"),
    ("types", "errors", "version", "clock"),
)
COLUMN_OF = {room: number for number, rooms in enumerate(COLUMNS) for room in rooms}
PACKAGE_COLUMN = 3  # `vidinvert/__init__.py` hands on the verbs: it sits beside the pipeline
FACADE = "__init__"

STABILIZERS_MAY_USE = {"numpy", "scipy", "torch", "stabilizers"}

# Third-party packages that only these files may import; a name ending in / is a folder.
FENCES = {
    "decord": ("vidinvert/media/decode.py",),
    "av": ("vidinvert/media/",),
    "ffmpeg": ("vidinvert/media/",),
    "c2pa": ("vidinvert/media/credentials.py",),
    "cryptography": ("vidinvert/media/credentials.py",),
    "scenedetect": ("vidinvert/media/shots.py",),
    "insightface": ("vidinvert/faces/detect.py", "vidinvert/faces/recognise.py"),
    "onnxruntime": (
        "vidinvert/faces/detect.py",
        "vidinvert/faces/landmarks.py",
        "vidinvert/faces/likeness.py",
    ),
    "cv2": (
        "vidinvert/geometry.py",
        "vidinvert/warps.py",
        "vidinvert/images.py",
        "vidinvert/plots.py",
        "vidinvert/faces/detect.py",
        "vidinvert/faces/landmarks.py",
        "vidinvert/faces/likeness.py",
        "vidinvert/media/shots.py",
        "vidinvert/training/",  # recipes read pictures and draw what they plant
    ),
    "ray": ("vidinvert/batch/cluster.py",),
    "tqdm": ("vidinvert/cli/",),
    "urllib": ("vidinvert/checkpoints.py", "vidinvert/checkpoints/"),
    "http": ("vidinvert/checkpoints.py", "vidinvert/checkpoints/"),
    "requests": ("vidinvert/checkpoints.py", "vidinvert/checkpoints/"),
    "socket": ("vidinvert/checkpoints.py", "vidinvert/checkpoints/"),
}
NETWORKS_MAY_NOT_USE = {"os", "pathlib", "sys", "io", "shutil", "tempfile"}


def room_of(name: str) -> str:
    """Return the room of a module: the part after `vidinvert`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else FACADE


def column_of(room: str) -> int | None:
    return PACKAGE_COLUMN if room == FACADE else COLUMN_OF.get(room)


def ours(name: str) -> str:
    """Return the module among ours that a dotted import lands in, or ''."""
    known = {module.name for module in modules()}
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def direction_breaches(module: Module) -> Iterator[str]:
    here = room_of(module.name)
    for name, line in module.imports():
        if name.partition(".")[0] != "vidinvert":
            continue
        there = room_of(ours(name))
        if there == FACADE and here != FACADE:
            there = room_of(name)
        if there == here:
            continue
        from_column, to_column = column_of(here), column_of(there)
        if from_column is None or to_column is None or from_column >= to_column:
            facade_gathers = here == FACADE and from_column == to_column
            if not facade_gathers:
                yield f"{module.place}:{line}: {here} imports {name}"


def fence_breaches(module: Module) -> Iterator[str]:
    for name, line in module.imports():
        top = name.partition(".")[0]
        allowed = FENCES.get(top)
        if allowed is None:
            continue
        fits = any(
            module.place.startswith(place) if place.endswith("/") else module.place == place
            for place in allowed
        )
        if not fits:
            yield f"{module.place}:{line}: imports {top}, which belongs in {', '.join(allowed)}"


def unaligned_sampling(module: Module) -> Iterator[str]:
    """Yield calls that leave where a picture's corners are to torch's default."""
    for call in module.calls():
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        name = called_name(call)
        if name not in {"grid_sample", "interpolate", "Upsample", "affine_grid"}:
            continue
        mode = keywords.get("mode")
        exact = isinstance(mode, ast.Constant) and mode.value in {"nearest", "area"}
        if name in {"interpolate", "Upsample"} and (exact or mode is None):
            continue  # nearest is the default there, and takes no align_corners
        if "align_corners" not in keywords:
            yield f"{module.place}:{call.lineno}: {name} without align_corners"


def loose_loading(module: Module) -> Iterator[str]:
    """Yield calls of torch.load that could run code from the file."""
    for call in module.calls():
        func = call.func
        is_torch_load = (
            isinstance(func, ast.Attribute)
            and func.attr == "load"
            and isinstance(func.value, ast.Name)
            and func.value.id == "torch"
        )
        weights_only = any(
            keyword.arg == "weights_only"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is True
            for keyword in call.keywords
        )
        if is_torch_load and not weights_only:
            yield f"{module.place}:{call.lineno}: torch.load without weights_only=True"


def pickles(module: Module) -> Iterator[str]:
    """Yield what writes or runs pickles: reading one can run code."""
    for call in module.calls():
        if ast.unparse(call.func).partition(".")[0] in {"pickle", "dill", "joblib", "shelve"}:
            yield f"{module.place}:{call.lineno}: {ast.unparse(call)[:60]}"
        if any(
            keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is not False
            for keyword in call.keywords
        ):
            yield f"{module.place}:{call.lineno}: allow_pickle"


def chatter(module: Module) -> Iterator[str]:
    """Yield prints, exits and device choices outside the command line."""
    if module.place.startswith("vidinvert/cli/") or module.name == "vidinvert.__main__":
        return
    for call in module.calls():
        name = called_name(call)
        dotted = ast.unparse(call.func)
        if name in {"print", "breakpoint"} and isinstance(call.func, ast.Name):
            yield f"{module.place}:{call.lineno}: {name}()"
        if dotted in {"sys.exit", "os._exit", "exit", "quit"}:
            yield f"{module.place}:{call.lineno}: {dotted}()"


def globals_and_bare_excepts(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"{module.place}:{node.lineno}: global {', '.join(node.names)}"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{module.place}:{node.lineno}: bare except"


def side_effects(module: Module) -> Iterator[str]:
    """Yield calls at import whose result nobody keeps, and loops: they act on the world."""
    for node in module.tree.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        acts = isinstance(node, ast.Expr | ast.For | ast.While | ast.With) and not is_docstring
        if acts and module.name != "vidinvert.__main__":
            yield f"{module.place}:{node.lineno}: {ast.unparse(node)[:60]}"


def network_attachments(module: Module) -> Iterator[str]:
    """Yield paths, files and fixed devices in the networks."""
    if room_of(module.name) != "networks":
        return
    for name, line in module.imports():
        if name.partition(".")[0] in NETWORKS_MAY_NOT_USE:
            yield f"{module.place}:{line}: imports {name}"
    for call in module.calls():
        if called_name(call) in {"cuda", "open"}:
            yield f"{module.place}:{call.lineno}: {ast.unparse(call)[:60]}"


RULES = (
    direction_breaches,
    fence_breaches,
    unaligned_sampling,
    loose_loading,
    pickles,
    chatter,
    globals_and_bare_excepts,
    side_effects,
    network_attachments,
)


def breaches(rule) -> list[str]:
    return [breach for module in modules() for breach in rule(module)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_rules_hold(rule):
    found = breaches(rule)
    assert not found, "\n".join(found)


def test_every_module_has_a_room():
    homeless = [
        module.place
        for module in modules()
        if module.name.startswith("vidinvert") and column_of(room_of(module.name)) is None
    ]
    assert not homeless, f"no room in house.md: {homeless}"


def test_no_module_is_called_utils():
    banned = {"utils", "util", "helpers", "common", "core", "manager", "misc"}
    found = [m.place for m in modules() if banned & set(m.name.lower().split("."))]
    assert not found


def test_the_stabilizers_know_arrays_and_seconds_only():
    allowed = STABILIZERS_MAY_USE | sys.stdlib_module_names
    found = [
        f"{module.place}:{line}: {name}"
        for module in modules()
        if module.name.partition(".")[0] == "stabilizers"
        for name, line in module.imports()
        if name.partition(".")[0] not in allowed
    ]
    assert not found


def test_what_is_imported_is_declared():
    """Every third-party package that the product imports is in pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = "\n".join(line for lines in lists for line in lines).lower()
    names = {"cv2": "opencv-python", "ffmpeg": "ffmpeg-python", "c2pa": "c2pa-python"}
    known = {"vidinvert", "stabilizers"} | sys.stdlib_module_names
    missing = {
        f"{module.place}: {top}"
        for module in modules()
        for name, _ in module.imports()
        if (top := name.partition(".")[0]) not in known
        and names.get(top, top).lower() not in declared
    }
    assert not missing


@pytest.mark.parametrize(
    ("rule", "place", "source"),
    [
        (direction_breaches, "vidinvert/geometry.py", "from vidinvert.media import probe"),
        (direction_breaches, "vidinvert/media/x.py", "from vidinvert.faces.track import f"),
        (direction_breaches, "vidinvert/media/x.py", "def f():\n    import vidinvert.cli"),
        (direction_breaches, "vidinvert/types.py", "from . import errors"),
        (direction_breaches, "vidinvert/media/x.py", "from ..faces import track"),
        (direction_breaches, "vidinvert/nowhere.py", "from vidinvert.types import Plans"),
        (direction_breaches, "vidinvert/editing.py", "from vidinvert import pipeline"),
        (fence_breaches, "vidinvert/media/probe.py", "import decord"),
        (fence_breaches, "vidinvert/faces/track.py", "import cv2"),
        (fence_breaches, "vidinvert/pipeline.py", "from urllib.request import urlopen"),
        (unaligned_sampling, "vidinvert/images.py", "F.interpolate(x, size=s, mode='bilinear')"),
        (unaligned_sampling, "vidinvert/images.py", "F.interpolate(x, size=s, mode=mode)"),
        (unaligned_sampling, "vidinvert/images.py", "F.grid_sample(x, g)"),
        (loose_loading, "vidinvert/checkpoints.py", "torch.load(path)"),
        (loose_loading, "vidinvert/checkpoints.py", "torch.load(path, weights_only=False)"),
        (pickles, "vidinvert/inversion.py", "pickle.load(file)"),
        (pickles, "vidinvert/inversion.py", "np.load(path, allow_pickle=True)"),
        (chatter, "vidinvert/pipeline.py", "print('hello')"),
        (chatter, "vidinvert/pipeline.py", "sys.exit(1)"),
        (globals_and_bare_excepts, "vidinvert/pipeline.py", "def f():\n    global x\n    x = 1"),
        (globals_and_bare_excepts, "vidinvert/pipeline.py", "try:\n    f()\nexcept:\n    pass"),
        (side_effects, "vidinvert/pipeline.py", "torch.set_num_threads(1)"),
        (network_attachments, "vidinvert/networks/x.py", "from pathlib import Path"),
        (network_attachments, "vidinvert/networks/x.py", "x.cuda()"),
    ],
)
def test_each_rule_catches_its_breach(rule, place, source):
    assert list(rule(parse(source, REPOSITORY / place)))


@pytest.mark.parametrize(
    ("rule", "place", "source"),
    [
        (direction_breaches, "vidinvert/cli/edit.py", "from vidinvert.pipeline import edit_video"),
        (direction_breaches, "vidinvert/media/x.py", "from vidinvert.media.probe import probe"),
        (direction_breaches, "vidinvert/__init__.py", "from vidinvert.pipeline import edit_video"),
        (fence_breaches, "vidinvert/media/probe.py", "import av"),
        (unaligned_sampling, "vidinvert/images.py", "F.interpolate(x, mode='nearest')"),
        (unaligned_sampling, "vidinvert/images.py", "F.grid_sample(x, g, align_corners=False)"),
        (loose_loading, "vidinvert/checkpoints.py", "torch.load(path, weights_only=True)"),
        (pickles, "vidinvert/inversion.py", "np.load(path, allow_pickle=False)"),
        (chatter, "vidinvert/cli/edit.py", "print('hello')"),
        (side_effects, "vidinvert/pipeline.py", '"""Docstring."""\nX = frozenset()'),
    ],
)
def test_no_rule_catches_what_is_right(rule, place, source):
    assert not list(rule(parse(source, REPOSITORY / place)))
