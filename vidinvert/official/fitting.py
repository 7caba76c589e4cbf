"""Whether networks of several files belong together, and their shapes to one another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vidinvert.checkpoints import select
from vidinvert.errors import KeyMismatchError
from vidinvert.official.part import Part
from vidinvert.types import FacePack

# Two generators whose constant inputs differ by more than this share were not trained together;
# fine-tuning moves it far less, independent training by about 1.4.
SAME_GENERATOR = 0.5


@dataclass(slots=True)
class Facts:
    """Fields of a pack's `[generator]`, and which file each is from."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    sources: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of_pack(cls, pack: FacePack | None) -> "Facts":
        """Return what a pack's description says, or nothing."""
        facts = cls()
        if pack is not None:
            known = {"kind": pack.generator, "crop_size": pack.crop_size}
            known |= {"style_count": pack.style_count, "style_width": pack.style_width}
            facts.add(known | dict(pack.settings), str(pack.directory))
            if pack.generator == "stylegan2" and "encoder" in pack.files:
                facts.values.setdefault("encoder_kind", "e4e")
                facts.sources.setdefault("encoder_kind", str(pack.directory))
        return facts

    def forget(self, names: Iterable[str]) -> None:
        """Drop fields that another file will say anew."""
        for name in names:
            self.values.pop(name, None)

    def add(self, values: Mapping[str, Any], source: str) -> None:
        """Take over what another file says.

        Raises:
            KeyMismatchError: it says something else of a field than a former one.
        """
        for name, value in values.items():
            if name in self.values and self.values[name] != value:
                raise KeyMismatchError(
                    f"{source} has {name} {value}, expected {self.values[name]} as "
                    f"{self.sources[name]} has. Files of one pack must be of one generator."
                )
            self.values.setdefault(name, value)
            self.sources.setdefault(name, source)


def check_parts(parts: Iterable[Part], facts: Facts) -> dict[str, dict[str, Tensor]]:
    """Check the shapes of all parts against the networks of these sizes.

    Returns:
        Their parameters by part, as our networks shape them.

    Raises:
        KeyMismatchError: a shape is another; the message gives the file's own name for it.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for part in parts:
        if part.build is None:
            states[part.name] = dict(part.state)
            continue
        try:
            module = part.build(facts.values)
        except (ValueError, KeyError) as error:
            raise KeyMismatchError(
                f"{part.path} does not hold a {part.network} for this pack: {error}."
            ) from error
        fitted = _fit(part, select(part.state, part.prefix), module)
        states[part.name] = {part.prefix + name: tensor for name, tensor in fitted.items()}
    return states


def check_same_generator(part: Part, constant: Tensor, other: str) -> None:
    """Check that an encoder's own copy of its generator is the generator at hand.

    Args:
        part: the copy.
        constant: the constant input of the other generator.
        other: where that is from, for the message.

    Raises:
        KeyMismatchError: they were not trained together.
    """
    own = part.state["constant"].float().flatten()
    wanted = constant.float().flatten()
    distance = float((own - wanted).norm() / wanted.norm()) if len(own) == len(wanted) else 2.0
    if not distance < SAME_GENERATOR:
        raise KeyMismatchError(
            f"{part.path}: the encoder was trained with another generator than {other} "
            f"({part.theirs['constant']} differs by {100 * distance:.0f} %). Its codes mean "
            "nothing to that one: import the encoder alone, which brings its own."
        )


def check_mean(path: str, w_mean: Tensor, facts: Facts) -> Tensor:
    """Check the shape of a mean code; L equal rows become one."""
    count, width = facts.values["style_count"], facts.values["style_width"]
    if w_mean.shape[1] != width or w_mean.shape[0] not in (1, count):
        raise KeyMismatchError(
            f"{path}: latent_avg has the shape {tuple(w_mean.shape)}, expected (1, {width}) or "
            f"({count}, {width}). Files of one pack must be of one generator."
        )
    same = bool((w_mean == w_mean[:1]).all())
    return (w_mean[:1] if same else w_mean).clone()


def _fit(part: Part, state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Shape the parameters as a network has them; axes of length one may differ."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    theirs = {name: part.theirs.get(part.prefix + name, name) for name in wanted}
    wrong = [
        f"{theirs[name]} has the shape {tuple(state[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in state
        and [n for n in state[name].shape if n != 1] != [n for n in shape if n != 1]
    ]
    missing = [theirs[name] for name in wanted if name not in state]
    if wrong or missing:
        wrong += [f"{name} is missing" for name in missing]
        raise KeyMismatchError(
            f"{part.path}: {'; '.join(wrong[:4])} ({len(wrong)} in all). Check that the files are "
            "whole and of one generator."
        )
    fitted: dict[str, Tensor] = {}
    for name, shape in wanted.items():
        tensor = state[name].reshape(shape)
        fitted[name] = tensor.float() if tensor.is_floating_point() else tensor
    return fitted
