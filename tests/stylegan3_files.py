"""Small alias-free generators with random weights, alive as trained ones are, and their files."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidinvert.networks.alias_free import FilterPlan, published_channels
from vidinvert.networks.keymaps_nvidia import stylegan3
from vidinvert.networks.stylegan3 import Generator3, ScaledConv

STYLE_WIDTH, SIZE, WIDEST = 32, 64, 8
CONFIGS = {"T": (3, False), "R": (1, True)}


def filter_plan(config: str = "T", **changes) -> FilterPlan:
    kernel, radial = CONFIGS[config]
    return FilterPlan(**({"size": SIZE, "kernel": kernel, "radial": radial} | changes))


def generator(plan: FilterPlan | None = None, *, seed: int = 0, most: int = WIDEST) -> Generator3:
    """Make a generator whose features have unit variance, as running means see to in training."""
    plan = plan or filter_plan()
    torch.manual_seed(seed)
    channels = published_channels(plan, base=4 * most * plan.size // 8, most=most)
    network = Generator3(plan, style_width=STYLE_WIDTH, channels=channels)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.1 * torch.randn(parameter.shape)
    network.input.modulation.weight.data += 0.1 * torch.randn(4, STYLE_WIDTH)
    network.requires_grad_(False)

    def measure(layer: ScaledConv, inputs: tuple[Tensor, Tensor]) -> None:
        layer.magnitude.copy_(inputs[0].square().mean())

    layers = [module for module in network.modules() if isinstance(module, ScaledConv)]
    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    network(codes(network, 4))
    for hook in hooks:
        hook.remove()
    return network


def codes(network: Generator3, count: int, *, seed: int = 1) -> Tensor:
    """Return codes (count, L, D) that differ from level to level."""
    z = torch.randn(
        count * network.style_count,
        network.style_width,
        generator=torch.Generator().manual_seed(seed),
    )
    with torch.no_grad():
        return network.mapping(z).view(count, network.style_count, -1)


def sg3_state(network: Generator3) -> dict[str, Tensor]:
    """Return the state of a generator under NVIDIA's names."""
    w_mean = codes(network, 64).mean(dim=(0, 1))
    state = network.state_dict() | {"w_mean": w_mean}
    sizes = [layer.size for layer in network.layers] + [network.size]
    widths = [len(layer.bias) for layer in network.layers] + [3]
    signals = enumerate(zip(sizes, widths, strict=True))
    names = [f"L{n}_{size}_{width}" for n, (size, width) in signals]
    layers = sum(name.startswith("mapping.") for name in state) // 2
    keymap = stylegan3(layer_names=names, mapping_layers=layers)
    return {theirs: state[ours] for theirs, ours in keymap.renames.items()}


def made_with(plan: FilterPlan) -> dict:
    """Return what NVIDIA's code is told to make such a generator, as its pickles record."""
    settings = {"z_dim": STYLE_WIDTH, "c_dim": 0, "w_dim": STYLE_WIDTH, "img_channels": 3}
    settings |= {"img_resolution": plan.size, "mapping_kwargs": {"num_layers": 2}}
    settings |= {"channel_base": 256, "channel_max": WIDEST, "magnitude_ema_beta": 0.999}
    if plan.radial:
        settings |= {"conv_kernel": plan.kernel, "use_radial_filters": True}
    if plan.layers != 14:
        settings["num_layers"] = plan.layers
    return settings


def as_arrays(state: Mapping[str, Tensor]) -> dict:
    return {name: tensor.double().numpy() for name, tensor in state.items()}
