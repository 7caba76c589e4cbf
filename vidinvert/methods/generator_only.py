"""A generator by itself (StyleGAN2, StyleGAN3): without an encoder, optimisation finds the codes.

It starts from the mean code. Adam moves one style vector for all levels (W) half of the way, which
finds the face among those that the generator draws, then one for each (W+), tied to where that
ended: codes far from W fit a picture better and bear edits worse. Pictures are compared at all
sizes, and in VGG16's features where the pack has them.

Along a clip only the first frame of an unbroken run starts from the mean. The others start from
its solved code and are tied to it, a batch of them at once. They do not start from the frame
before: what one frame got wrong would be handed on, and codes would get further from W the longer
a run is. So a frame's codes do not depend on which frames it shares a batch with, but for the
rounding of sums, which depends on their number.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.checkpoints import fill_module, load_part
from vidinvert.methods.encoders import read_part
from vidinvert.methods.generators import load_stylegan2, load_stylegan3
from vidinvert.methods.on_generator import OnGenerator
from vidinvert.methods.optimisation import OptimisationPlan, optimise_codes
from vidinvert.networks import keymaps_indomain
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.stylegan2 import Generator
from vidinvert.networks.stylegan3 import Generator3
from vidinvert.networks.vgg import PUBLISHED_WIDTHS as VGG_WIDTHS
from vidinvert.networks.vgg import Vgg16Features
from vidinvert.types import Embedding, FacePack

STEPS = 50  # of a frame that starts from the first one's codes
FIRST_FRAME_FACTOR = 4  # the first frame of a run takes as many times the steps
# In standard deviations of W: Adam's first step from the mean and from solved codes; then the share
# of it that is left at the last, and the weight of the squared distance from where codes started.
RATE, NEAR_RATE, LAST_RATE, TIE = 0.05, 0.02, 0.05, 0.02
SMALLEST = 8  # side of the smallest copies that are compared
LARGEST_SEEN = 256  # side of the pictures that VGG16 sees, as In-Domain inversion has it
MOST_PIXELS = 8 * 256**2  # of the pictures whose gradients are taken at once
SAMPLES = 4096  # of z, to measure W with


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratorOnly(OnGenerator):
    """See the module; implements `vidinvert.methods.Method` and `Follower`.

    `w_mean` (1, D). `plan.steps` are those of a frame that starts from the first one of its run,
    `plan.rate` is that of a first frame.
    """

    generator: Generator | Generator3
    features: Vgg16Features | None
    w_mean: Tensor
    plan: OptimisationPlan

    def embed(self, crops: Tensor) -> Embedding:
        """Return the mean code for each of the crops (N, 3, R, R): where optimisation starts."""
        return Embedding(w_plus=self.w_mean.repeat(len(crops), self.style_count, 1))

    def refine(self, crops: Tensor, embedding: Embedding, previous: Tensor | None) -> Embedding:
        """Find codes from the mean code, or from solved ones; see `vidinvert.methods.Refiner`."""
        if previous is not None:
            return self.follow(crops, embedding, previous)
        steps = FIRST_FRAME_FACTOR * self.plan.steps
        within = self._optimise(
            crops, self.w_mean.repeat(len(crops), 1, 1), steps=steps // 2, rate=self.plan.rate
        )
        start = within.expand(-1, self.style_count, -1)
        found = self._optimise(crops, start, steps=steps - steps // 2, rate=self.plan.rate)
        return replace(embedding, w_plus=found)

    def follow(self, crops: Tensor, embedding: Embedding, first: Tensor) -> Embedding:
        """Find codes from those of the run's first frame; see `vidinvert.methods.Follower`."""
        start = first.expand_as(embedding.w_plus)
        rate = self.plan.rate * NEAR_RATE / RATE
        found = self._optimise(crops, start, steps=self.plan.steps, rate=rate)
        return replace(embedding, w_plus=found)

    def _optimise(self, crops: Tensor, start: Tensor, *, steps: int, rate: float) -> Tensor:
        """Move codes (N, L or 1, D), tied to where they start, as many at once as memory allows."""
        portion = max(1, MOST_PIXELS // self.crop_size**2)
        found = [
            optimise_codes(
                crops[first : first + portion],
                start[first : first + portion],
                generate=self._generate_from,
                find_features=self.find_features,
                plan=replace(self.plan, steps=steps, rate=rate),
                previous=start[first : first + portion],
            ).w_plus
            for first in range(0, len(crops), portion)
        ]
        return torch.cat(found)

    def _generate_from(self, codes: Tensor) -> Tensor:
        return self.generate(codes.expand(-1, self.style_count, -1))

    def find_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what pictures are compared in besides pixels: smaller copies, VGG16's features.

        Copies are scaled so that, under the plan's weight of features, each counts as pixels do.
        """
        maps: list[Tensor] = []
        small = images
        while small.shape[-1] >= 2 * SMALLEST:
            small = F.avg_pool2d(small, 2)
            maps.append(small / math.sqrt(self.plan.feature_weight))
        if self.features is not None:
            side = min(self.crop_size, LARGEST_SEEN)
            maps.append(self.features(F.interpolate(images, size=(side, side), mode="area")))
        return tuple(maps)

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D), with the fixed noise of a generator that has some."""
        if isinstance(self.generator, Generator3):
            return self.generator(w_plus)
        return self.generator(w_plus, noise=self.generator.noise)


def load_on_stylegan2(pack: FacePack, device: torch.device, dtype: torch.dtype) -> GeneratorOnly:
    """Load the file `generator`, `w_mean` or the mean of samples, and `vgg` if there is one."""
    return _load(pack, load_stylegan2(pack, device, dtype), device, dtype)


def load_on_stylegan3(pack: FacePack, device: torch.device, dtype: torch.dtype) -> GeneratorOnly:
    """Load the same of a pack of kind stylegan3."""
    return _load(pack, load_stylegan3(pack, device, dtype), device, dtype)


def _load(
    pack: FacePack,
    generator: Generator | Generator3,
    device: torch.device,
    dtype: torch.dtype,
) -> GeneratorOnly:
    """Measure W, and load what else there is.

    `[generator]` may give `invert_steps` (50), and `vgg_widths` (those published).
    """
    features = None
    if "vgg" in pack.files:
        widths = [int(width) for width in pack.settings.get("vgg_widths", VGG_WIDTHS)]
        with torch.device("meta"):
            features = Vgg16Features(widths=widths)
        state = read_part(pack, "vgg", keymaps_indomain.vgg16())
        fill_module(features, state, source=str(pack.files["vgg"].path))
        features.to(device)
        set_precision(features, dtype)
        prepare(features)
    z = torch.randn(SAMPLES, pack.style_width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        w = generator.mapping(z.to(device))
    deviation = float((w - w.mean(dim=0)).square().mean().sqrt())
    w_mean = w.mean(dim=0)
    if "w_mean" in pack.files:
        given = load_part(pack, "w_mean")["w_mean"].float().to(device)
        w_mean = given.reshape(-1, pack.style_width).mean(dim=0)
    plan = OptimisationPlan(
        steps=int(pack.settings.get("invert_steps", STEPS)),
        rate=RATE * deviation,
        last_rate=LAST_RATE,
        code_weight=0.0,
        temporal_weight=TIE / deviation**2,
    )
    return GeneratorOnly(generator=generator, features=features, w_mean=w_mean[None], plan=plan)
