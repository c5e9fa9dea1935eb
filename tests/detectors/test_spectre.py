from __future__ import annotations

import pytest
import torch
from sklearn.covariance import MinCovDet
from sklearn.metrics import roc_auc_score

from detectors.spectral_signatures import SpectralSignatures
from detectors.spectre import Spectre


def test_of_one_dimension_it_is_the_squared_robust_z_score() -> None:
    values = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)).double()
    values[:8] += 20
    robust = MinCovDet(random_state=0).fit((values - values.mean()).numpy())
    expected = ((values - values.mean())[:, 0] - robust.location_[0]) ** 2 / robust.covariance_[0, 0]
    scores = Spectre().score_class(values)
    torch.testing.assert_close(scores, expected)
    # Of the clean ones alone it is about one, and twenty deviations away about 400.
    assert 0.5 < scores[8:].mean() < 2
    assert scores[:8].min() > 150


def test_it_finds_what_hides_where_little_varies() -> None:
    """Where the clean pictures vary much, spectral signatures look in vain."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(200, 3, generator=generator).double() * torch.tensor([20, 5, 0.5])
    seen[:20, 2] += 4
    truth = torch.arange(200) < 20
    assert roc_auc_score(truth, Spectre().score_class(seen)) > 0.99
    assert roc_auc_score(truth, SpectralSignatures().score_class(seen)) < 0.7


def test_without_alpha_all_directions_count_alike() -> None:
    """Then it is the squared distance of Mahalanobis over the dimensions."""
    seen = torch.randn(100, 3, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([1, 2, 3])
    robust = MinCovDet(random_state=0).fit(seen.numpy())
    expected = torch.from_numpy(robust.mahalanobis(seen.numpy())) / 3
    scores = Spectre(alpha=0).score_class(seen)
    # The estimate turns with the axes but for the draws of its start.
    assert torch.corrcoef(torch.stack([scores, expected]))[0, 1] > 0.95


def test_directions_without_variance_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(60, 2, generator=generator).double()
    padded = torch.cat([seen, torch.zeros(60, 4).double(), seen], 1)
    torch.testing.assert_close(Spectre().score_class(padded), Spectre().score_class(torch.cat([seen, seen], 1)))


def test_where_most_pictures_are_the_same_none_stands_out() -> None:
    seen = 1e-7 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    seen[:5] += torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(Spectre().score_class(seen), torch.zeros(40))


def test_the_scale_plays_no_part() -> None:
    seen = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(Spectre().score_class(1e-6 * seen), Spectre().score_class(seen))


def test_bad_options() -> None:
    for name, value in (("dimensions", 0), ("alpha", -1.0)):
        with pytest.raises(ValueError, match=f"{name}: expected a value at least"):
            Spectre(**{name: value})  # type: ignore[arg-type]
