"""Face packs and official checkpoint files: the one door for weights."""

from vidinvert.checkpoints.downloads import Fetched, fetch, find_publication
from vidinvert.checkpoints.onnx_files import check_self_contained
from vidinvert.checkpoints.packs import (
    find_pack,
    list_packs,
    read_pack,
    user_packs_directory,
    verify_file,
    verify_pack,
    write_pack,
)
from vidinvert.checkpoints.pickled_tensors import (
    PickledNetwork,
    read_array_file,
    read_nvidia_pickle,
)
from vidinvert.checkpoints.published import PUBLICATIONS, Publication, PublishedFile
from vidinvert.checkpoints.weights import (
    Checkpoint,
    fill_module,
    load_checkpoint,
    load_directions,
    load_landmark_readout,
    load_part,
    load_weights,
    rename_keys,
    select,
)

__all__ = [
    "PUBLICATIONS",
    "Checkpoint",
    "Fetched",
    "PickledNetwork",
    "Publication",
    "PublishedFile",
    "check_self_contained",
    "fetch",
    "fill_module",
    "find_pack",
    "find_publication",
    "list_packs",
    "load_checkpoint",
    "load_directions",
    "load_landmark_readout",
    "load_part",
    "load_weights",
    "read_array_file",
    "read_nvidia_pickle",
    "read_pack",
    "rename_keys",
    "select",
    "user_packs_directory",
    "verify_file",
    "verify_pack",
    "write_pack",
]
