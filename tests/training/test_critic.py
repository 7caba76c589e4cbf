import numpy as np
import pytest
import torch

from vidinvert.training.critic import (
    CLIP,
    AttributeCritic,
    standardise,
    train_critic,
    wanted_change,
)


def bright_latents(count=128, seed=0):
    """Latents whose first channel's mean is an attribute; a second attribute is pure noise."""
    rng = np.random.default_rng(seed)
    latents = 0.2 * rng.standard_normal((count, 32, 32, 32)).astype(np.float16)
    level = rng.standard_normal(count // 2)
    level = np.concatenate([level, level])  # a face and its mirror image
    latents[:, 0] += level[:, None, None].astype(np.float16)
    return latents, standardise({"bright": level, "noise": rng.standard_normal(count)})


def test_the_judge_reads_what_is_there_on_faces_held_out_and_not_what_is_not():
    latents, targets = bright_latents()
    critic, correlation = train_critic(latents, targets, steps=25)
    assert correlation[0] > 0.9
    assert abs(correlation[1]) < 0.8
    assert not any(parameter.requires_grad for parameter in critic.parameters())
    brighter = torch.from_numpy(latents[:4].astype(np.float32))
    brighter[:, 0] += 1.0
    with torch.inference_mode():
        judged = critic(brighter) - critic(torch.from_numpy(latents[:4].astype(np.float32)))
    assert (judged[:, 0] > 0.3).all()


def test_the_same_seed_gives_the_same_judge():
    latents, targets = bright_latents(64)
    first, _ = train_critic(latents, targets, steps=2)
    again, _ = train_critic(latents, targets, steps=2)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_attributes_are_standardised_and_outliers_clipped():
    values = np.append(np.linspace(-1, 1, 99), 100.0)
    table = standardise({"a": values, "constant": np.ones(100)})
    assert table.shape == (100, 2)
    assert table.dtype == np.float32
    assert table[-1, 0] == CLIP
    assert (table[:, 1] == 0.0).all()


@pytest.mark.parametrize(
    ("before", "strength", "expected"),
    [(0.0, 2.0, 2.0), (1.0, 2.0, 1.5), (2.8, 1.0, 0.0), (2.8, -1.0, -1.0), (-2.0, -3.0, -0.5)],
)
def test_an_edit_ends_at_the_limit_or_where_the_face_already_is(before, strength, expected):
    wanted = wanted_change(torch.tensor([[before]]), torch.tensor([[strength]]))
    assert wanted.item() == pytest.approx(expected)


def test_the_judge_gives_one_value_an_attribute():
    assert AttributeCritic(7)(torch.zeros(2, 32, 32, 32)).shape == (2, 7)
