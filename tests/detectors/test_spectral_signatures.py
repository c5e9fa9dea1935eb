from __future__ import annotations

import torch

from detectors.spectral_signatures import SpectralSignatures


def test_the_score_by_hand() -> None:
    """The mean is (1, 1); most varies along the first axis."""
    seen = torch.tensor([[5.0, 1], [-3, 1], [1, 2], [1, 0]]).double()
    torch.testing.assert_close(SpectralSignatures().score_class(seen), torch.tensor([16.0, 16, 0, 0]).double())


def test_the_sign_and_the_place_play_no_part() -> None:
    seen = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).double()
    scores = SpectralSignatures().score_class(seen)
    torch.testing.assert_close(SpectralSignatures().score_class(3 - seen), scores)
    assert torch.linalg.matrix_norm(seen - seen.mean(0), 2).square().item() - scores.sum().item() < 1e-9
