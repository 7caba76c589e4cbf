"""SAMM on our own packs: an eigen-latent generator and the decoder of a small autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidinvert.checkpoints import fill_module, load_part, select
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder, half_readout
from vidinvert.networks.eigen import EigenGenerator, restore_bases
from vidinvert.networks.eigen_encoder import draw_codes
from vidinvert.networks.eigen_samm import (
    align_decoder,
    eigen_samm,
    find_fields,
    source_features,
)
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.samm import SAMM, combine_masks
from vidinvert.types import Embedding, FacePack, Synthesis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EigenSamm:
    """See the module; implements `vidinvert.methods.Method`."""

    crop_size: int
    style_count: int
    style_width: int
    encoder: FaceEncoder
    decoder: FaceDecoder
    generator: EigenGenerator
    samm: SAMM
    dtype: torch.dtype

    def embed(self, crops: Tensor) -> Embedding:
        """Find the codes and the source's maps (coarse to fine) of crops (N, 3, R, R)."""
        crops = crops.to(self.dtype).contiguous(memory_format=torch.channels_last)
        encoded = self.encoder(crops)
        return Embedding(
            w_plus=self.generator.basis.codes(encoded.latents),
            features=source_features(encoded, crops),
        )

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the unedited codes, (N, 1, R, R), without rendering a picture."""
        latents = self.generator(embedding.w_plus).latents.to(self.dtype)
        fields = find_fields(self.decoder, self.samm, latents, embedding.features)
        return combine_masks(fields, size=self.crop_size)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D), aligned to the embedded crops."""
        latents = self.generator(w_plus).latents.to(self.dtype)
        aligned = align_decoder(self.decoder, self.samm, latents, embedding.features)
        image = self.decoder.stage_image(aligned.features)
        return Synthesis(
            image=image.float(),
            ood=combine_masks(aligned.fields, size=self.crop_size),
            flows=tuple(field.flow for field in aligned.fields),
        )

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) without a source."""
        return self.decoder(self.generator(w_plus).latents.to(self.dtype)).float()

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) at half the size, nearly as `generate`."""
        return self.decoder.sketch(self.generator(w_plus).latents.to(self.dtype)).float()

    def draw(self, count: int, *, seed: int = 0, truncation: float = 0.7) -> Tensor:
        """Draw codes (count, L, D) of faces of nobody: Gaussian, as the codes of real faces are.

        Args:
            count: how many.
            seed: the same seed draws the same codes.
            truncation: their deviation; 1 is that of real faces, less is more ordinary.
        """
        random = torch.Generator().manual_seed(seed)
        return truncation * draw_codes(self.generator.basis, count, random=random)


def load(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EigenSamm:
    """Load a pack of kind eigen: files `autoencoder`, `generator` and `samm`."""
    encoder, decoder, generator = load_networks(pack, device, dtype)
    compared = pack.settings.get("samm_compared", (None, None))
    samm = eigen_samm(crop_size=pack.crop_size, compared=compared)
    fill_part(samm, load_part(pack, "samm"), pack, "samm", device, dtype)
    return EigenSamm(
        crop_size=pack.crop_size,
        style_count=pack.style_count,
        style_width=pack.style_width,
        encoder=encoder,
        decoder=decoder,
        generator=generator,
        samm=samm,
        dtype=dtype,
    )


def load_networks(
    pack: FacePack, device: torch.device, dtype: torch.dtype
) -> tuple[FaceEncoder, FaceDecoder, EigenGenerator]:
    """Load what every method on a pack of kind eigen needs: `autoencoder` and `generator`.

    And `sketch`, where the pack has it; see `FaceDecoder.sketch`.
    """
    components = [int(count) for count in pack.settings["components"]]
    encoder, decoder = FaceEncoder(), FaceDecoder()
    generator = EigenGenerator(components, style_width=pack.style_width)
    autoencoder, codes = load_part(pack, "autoencoder"), load_part(pack, "generator")
    if dtype in (torch.float32, torch.bfloat16) and device.type == "cpu":
        codes = generator.basis.adopt(codes, dtype)
    for module, part, state in (
        (encoder, "autoencoder", select(autoencoder, "encoder.")),
        (decoder, "autoencoder", select(autoencoder, "decoder.")),
        (generator, "generator", restore_bases(codes)),
    ):
        fill_part(module, state, pack, part, device, dtype)
    if "sketch" in pack.files:
        readout = half_readout()
        fill_part(readout, load_part(pack, "sketch"), pack, "sketch", device, dtype)
        decoder.readout = readout
    return encoder, decoder, generator


def fill_part(
    module: nn.Module,
    state: Mapping[str, Tensor],
    pack: FacePack,
    part: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fill a network from a part's parameters, and make it ready for inference."""
    full = {name: tensor.float() for name, tensor in state.items()}
    fill_module(module, full, source=str(pack.files[part].path))
    module.to(device)
    set_precision(module, dtype)
    prepare(module)
