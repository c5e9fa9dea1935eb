from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.data import Dataset
from februus.training.classifier import LocalTraining, fit, predict


def toy(count: int = 48) -> Dataset:
    """Return pictures of three colours, each its own class, under noise."""
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images[torch.arange(count), labels] += 120
    return Dataset(name="toy", images=images.byte(), labels=labels, classes=("red", "green", "blue"))


def model(*, dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(6, 3),
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


def test_fitting_lowers_the_loss_and_learns() -> None:
    network, data = model(dropout=0.0), toy()
    first = fit(network, data, LocalTraining(batch_size=8, learning_rate=0.05), generator())
    last = fit(network, data, LocalTraining(batch_size=8, learning_rate=0.05, epochs=8), generator())
    assert last < 0.5 * first
    assert (predict(network, data) == data.labels).float().mean() > 0.95


def test_the_loss_is_the_mean_of_the_last_pass() -> None:
    network, data = model(dropout=0.0), toy(8)
    with torch.no_grad():
        expected = F.cross_entropy(network(data.floats()), data.labels).item()
    assert fit(network, data, LocalTraining(batch_size=8, learning_rate=1e-9), generator()) == pytest.approx(expected)


def test_one_step_by_hand() -> None:
    data, settings = toy(4), LocalTraining(batch_size=4, learning_rate=0.1, weight_decay=0.01)
    network, other = (nn.Sequential(nn.Flatten(), nn.Linear(768, 3)) for _ in range(2))
    other.load_state_dict(network.state_dict())
    F.cross_entropy(other(data.floats()), data.labels).backward()
    fit(network, data, settings, generator())
    for parameter, start in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.data, start.data - 0.1 * (start.grad + 0.01 * start.data))


def test_fitting_is_a_function_of_the_generator() -> None:
    trained = []
    for own, seed in ((1, 0), (2, 0), (1, 3)):
        network = model()
        torch.manual_seed(own)
        fit(network, toy(), LocalTraining(batch_size=8), generator(seed))
        trained.append(weights(network))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_dropout_and_order_follow_the_generator() -> None:
    for data, dropout in ((toy(8), 0.5), (toy(), 0.0)):
        trained = []
        for seed in (0, 1):
            network = model(dropout=dropout)
            # With all pictures in one batch their order is nothing, and dropout alone is left to chance.
            fit(network, data, LocalTraining(batch_size=8, learning_rate=0.1), generator(seed))
            trained.append(weights(network))
        assert (trained[0] - trained[1]).abs().max() > 1e-4


def test_torch_s_own_generator_is_left_alone() -> None:
    network = model()
    state = torch.get_rng_state()
    fit(network, toy(), LocalTraining(), generator())
    predict(network, toy())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_each_module_keeps_its_mode(training: bool) -> None:  # noqa: FBT001
    network = model().train(training)
    network[1].train(not training)
    modes = [module.training for module in network.modules()]
    fit(network, toy(), LocalTraining(), generator())
    assert [module.training for module in network.modules()] == modes
    predict(network, toy())
    assert [module.training for module in network.modules()] == modes


def test_fitting_is_done_in_training_mode_and_asking_in_eval_mode() -> None:
    network, seen = model().eval(), list[bool]()
    network.register_forward_hook(lambda module, _inputs, _output: seen.append(module.training))
    fit(network, toy(8), LocalTraining(batch_size=8), generator())
    network.train()
    predict(network, toy(8))
    assert seen == [True, False]


def test_a_loss_that_is_no_number_is_refused_and_the_mode_is_given_back() -> None:
    network = model().eval()
    with torch.no_grad():
        network[-1].bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="loss: expected a finite value, got nan; lower the learning rate"):
        fit(network, toy(), LocalTraining(), generator())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(("count", "batches"), [(9, [8]), (10, [8, 2]), (17, [8, 8]), (1, [1])])
def test_a_last_batch_of_one_picture_is_left_out(count: int, batches: list[int]) -> None:
    network, seen = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), list[int]()
    network.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    fit(network, toy(count), LocalTraining(batch_size=8), generator())
    assert seen == batches


def test_every_picture_is_seen_once_a_pass() -> None:
    network, seen = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), list[Tensor]()
    network.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    data = toy(24)
    fit(network, data, LocalTraining(batch_size=8, epochs=2), generator())
    for part in (torch.cat(seen[:3]), torch.cat(seen[3:])):
        assert not torch.equal(part, data.floats())
        assert torch.equal(part.flatten(1).unique(dim=0), data.floats().flatten(1).unique(dim=0))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_predictions_equal_a_plain_loop(batch_size: int) -> None:
    network, data = model(), toy(20)
    fit(network, data, LocalTraining(), generator())
    network.eval()
    with torch.no_grad():
        expected = [int(network(data.floats([index])).argmax()) for index in range(20)]
    network.train()
    classes = predict(network, data, batch_size=batch_size)
    assert classes.dtype == torch.int64
    assert classes.tolist() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: expected a value at least 1, got 0"),
        ({"batch_size": 1}, "batch_size: expected a value at least 2, got 1"),
        ({"learning_rate": 0}, "learning_rate: expected a value above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a value above 0, got nan"),
        ({"momentum": 1}, "momentum: expected a value at least 0 and below 1, got 1"),
        ({"momentum": -0.1}, "momentum: expected a value at least 0 and below 1, got -0.1"),
        ({"weight_decay": -1}, "weight_decay: expected a value at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalTraining(**settings)
