"""Face packs and official checkpoint files: the one door for weights."""

from vidinvert.checkpoints.packs import (
    find_pack,
    list_packs,
    read_pack,
    user_packs_directory,
    verify_file,
    verify_pack,
    write_pack,
)
from vidinvert.checkpoints.weights import (
    fill_module,
    load_directions,
    load_part,
    load_weights,
    rename_keys,
    select,
)

__all__ = [
    "fill_module",
    "find_pack",
    "list_packs",
    "load_directions",
    "load_part",
    "load_weights",
    "read_pack",
    "rename_keys",
    "select",
    "user_packs_directory",
    "verify_file",
    "verify_pack",
    "write_pack",
]
