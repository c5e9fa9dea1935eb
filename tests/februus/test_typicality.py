from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from februus.typicality import Typicality, deepest, held_out, summarize

CLASSES, FEATURES = 3, 8


def drawn(count: int, seed: int, *, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Draw features around a centre of each class, the first two of which go together."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    apart = torch.randn(count, FEATURES, generator=generator)
    apart[:, 1] = apart[:, 0] + 0.1 * apart[:, 1]
    centres = 10 * torch.eye(CLASSES, FEATURES)
    return centres[labels] + apart + shift * torch.eye(FEATURES)[-1], labels


def test_the_distance_is_mahalanobis_s_where_pictures_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("februus.typicality.OWN", 1e-9)
    monkeypatch.setattr("februus.typicality.PRIOR", 0)
    features, labels = drawn(4000, 0)
    features, known = features.double(), Typicality.fit(features, labels, CLASSES)
    centres = torch.stack([features[labels == label].mean(0) for label in range(CLASSES)])
    apart = features - centres[labels]
    exact = torch.einsum("nd,de,ne->n", apart, torch.linalg.inv(torch.cov(apart.T)), apart)
    torch.testing.assert_close(known.distance(features, labels), exact, rtol=1e-4, atol=1e-6)


def test_what_lies_elsewhere_than_its_class_is_far() -> None:
    known = Typicality.fit(*drawn(200, 0), CLASSES)
    features, labels = drawn(200, 1)
    usual = known.distance(features, labels)
    assert known.distance(features, (labels + 1) % CLASSES).min() > usual.median()
    assert known.distance(*drawn(200, 1, shift=8.0)).min() > usual.quantile(0.95)
    # As far as that, but in a direction in which features do not go together.
    across = features.clone()
    across[:, 0] += 2
    across[:, 1] -= 2
    along = features.clone()
    along[:, :2] += 2
    assert known.distance(across, labels).mean() > 2 * known.distance(along, labels).mean()


def test_few_pictures_tell_of_many_features() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(40, 300, generator=generator)
    features[:, 7] = 0
    labels = torch.arange(40) % CLASSES
    inside = Typicality.fit(features, labels, CLASSES).distance(features, labels)
    outside = held_out(features, labels, CLASSES)
    fresh = torch.randn(200, 300, generator=generator)
    fresh[:, 7] = 0
    found = Typicality.fit(features, labels, CLASSES).distance(fresh, torch.arange(200) % CLASSES)
    assert inside.isfinite().all()
    assert outside.isfinite().all()
    # What was learnt from looks nearer than it is; what is held out does not.
    assert inside.mean() < 0.7 * found.mean()
    assert outside.mean().item() == pytest.approx(found.mean().item(), rel=0.1)


def test_a_class_without_pictures_lies_where_all_of_them_do() -> None:
    features, labels = drawn(200, 0)
    known = Typicality.fit(features, labels, CLASSES + 1)
    torch.testing.assert_close(known.centres[CLASSES], features.double().mean(0))


def test_a_map_is_summarized_wherever_it_shows_something() -> None:
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 1, 2] = maps[1, 0, 3, 0] = 16.0
    expected = torch.tensor([[1.0, 15**0.5, 16.0]])
    torch.testing.assert_close(summarize(maps), expected.expand(2, 3))


def test_the_deepest_layer_is_the_last_with_maps() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 2),
    )
    assert deepest(model, torch.rand(2, 3, 8, 8)) is model[3]
