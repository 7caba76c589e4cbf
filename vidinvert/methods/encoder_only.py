"""An encoder by itself (e4e, pSp, ReStyle, FeatureStyle): codes, and the generator's picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vidinvert.errors import PlanError
from vidinvert.methods.encoders import (
    ContentEncoder,
    Encoder,
    encoder_kind,
    load_encoder,
)
from vidinvert.methods.generators import load_stylegan2
from vidinvert.methods.on_generator import OnGenerator
from vidinvert.networks.featurestyle import move_content
from vidinvert.networks.stylegan2 import Generator
from vidinvert.types import Embedding, FacePack, Synthesis


@dataclass(frozen=True, slots=True, eq=False)
class EncoderOnly(OnGenerator):
    """The encoder's codes and the generator's picture; nothing counts as out of domain."""

    encoder: Encoder
    generator: Generator

    def embed(self, crops: Tensor) -> Embedding:
        """Find the codes and the encoder's maps (coarse to fine) of crops (N, 3, R, R)."""
        return self.encoder.find(crops)

    def taps(self, embedding: Embedding) -> tuple[Tensor, ...]:
        """Return the encoder's maps that SAMM reads, coarse to fine."""
        first = 1 if isinstance(self.encoder, ContentEncoder) else 0
        return embedding.features[first:]

    def find_content(self, embedding: Embedding, w_plus: Tensor) -> Tensor | None:
        """Return FeatureStyle's content map, moved as `w_plus` is edited; None of other encoders.

        Deviation: SAMM's variant for FeatureStyle does not move it, so that coarse edits are lost
        there; FeatureStyle itself does.
        """
        if not isinstance(self.encoder, ContentEncoder):
            return None
        content = embedding.features[0]
        return move_content(self.generator, content, embedding.w_plus, w_plus)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D) with the generator's fixed noise, and the content, if any."""
        content = self.find_content(embedding, w_plus)
        image = self.generator(w_plus, noise=self.generator.noise, content=content)
        return Synthesis(image=image, ood=torch.zeros_like(image[:, :1]))

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) with the generator's fixed noise."""
        return self.generator(w_plus, noise=self.generator.noise)


def load_e4e(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EncoderOnly:
    """Load e4e and its generator: files `encoder` and `generator`, as all these read."""
    return _load_kind(pack, device, dtype, method="e4e", kinds=("e4e",))


def load_psp(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EncoderOnly:
    """Load pSp and its generator."""
    return _load_kind(pack, device, dtype, method="psp", kinds=("psp",))


def load_restyle(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EncoderOnly:
    """Load ReStyle, of either flavour, and its generator."""
    return _load_kind(pack, device, dtype, method="restyle", kinds=("restyle_e4e", "restyle_psp"))


def load_featurestyle(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EncoderOnly:
    """Load FeatureStyle and its generator."""
    return _load_kind(pack, device, dtype, method="featurestyle", kinds=("featurestyle",))


def _load_kind(
    pack: FacePack,
    device: torch.device,
    dtype: torch.dtype,
    *,
    method: str,
    kinds: tuple[str, ...],
) -> EncoderOnly:
    kind = encoder_kind(pack)
    if kind not in kinds:
        raise PlanError(
            f"The pack {pack.name!r} has an encoder of kind {kind!r}, but the method {method!r} "
            f"needs {' or '.join(kinds)}. Choose the method of that encoder, or samm, or another "
            "--pack."
        )
    return load(pack, device, dtype)


def load(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EncoderOnly:
    """Load the encoder of a pack, whichever it is, and its generator."""
    generator = load_stylegan2(pack, device, dtype)
    return EncoderOnly(load_encoder(pack, generator, device, dtype), generator)
