"""The server: rounds, sampling, aggregation, and a checkpoint after each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors import UpdateDetector
from februus import registry
from februus.checks import mismatch
from februus.data import Dataset
from februus.federated.checkpoints import card_of, copy_files, forget, recall, remember, resume, start_from
from februus.federated.client import State, Update, read_state, train_locally, write_state
from februus.federated.engines.local import Local
from februus.federated.population import Engine
from februus.federated.settings import Federation
from februus.federated.threat import Attack, Goal
from februus.files import output_folder
from februus.metrics import attack_success_rate, clean_accuracy
from februus.models import Card, Normalized, build, save_checkpoint
from februus.models import load as load_model
from februus.seeds import seeded
from februus.training.classifier import LocalTraining, predict
from februus.types import Aggregator, Context

__all__ = ["aggregate", "forge", "inspect", "screen", "train"]

# What the keys of `seeded` mean that are neither round nor client.
STAMPING, ROOT, FORGING = 1_000_002, 1_000_005, 1_000_006
# The id of the server, where it trains itself.
SERVER = -1


def train(
    settings: Federation,
    data: Dataset,
    test: Dataset,
    output: Path,
    *,
    device: str = "cpu",
    center_crop: int = 0,
    engine: Engine | None = None,
    on_round: Callable[[dict[str, Any]], None] | None = None,
) -> Normalized:
    """Train a model by federated learning while some clients attack, or go on where the same call was stopped.

    After each round ``output`` holds a checkpoint folder with all that is needed to go on: the weights, what the
    aggregator remembers, and on the card every setting and the CA and ASR of each round. What is random is a function
    of seed, round and client, so a run that was killed ends with the same weights.

    Args:
        settings: the federation.
        data: pictures to train on, shared among the clients.
        test: pictures to measure on.
        output: the checkpoint folder.
        device: where to train.
        center_crop: what `februus.data.load` was told, for the card.
        engine: where clients work; in this process where not given.
        on_round: called after each round with its row of the history.

    Raises:
        ValueError: if settings and data do not fit or ``output`` holds another run.
    """
    height, width = data.image_size
    if height != width:
        raise mismatch("data", "square pictures; set image_size", f"{width}x{height}")
    population = settings.populate(data, test)
    attack = population.attack
    goal = attack.goal(test, seeded(settings.seed, STAMPING)) if attack else None
    output_folder(output)
    card = card_of(settings, data, center_crop, attack, output)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Normalized(build(settings.architecture, num_classes=data.num_classes), card=card)
    if settings.start is not None:
        start_from(settings.start, model, card)
    history: list[dict[str, Any]] = []
    memory: dict[str, Tensor] = {}
    if (output / "model.safetensors").exists():
        history = resume(output, card)
        memory = recall(output, len(history))
        model = load_model(output)
    elif attack:
        copy_files(attack, output)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    aggregator = registry.create("aggregators", settings.aggregator)
    detector = settings.make_detector()
    # Drawn from everybody's pictures, as FLTrust's authors do.
    root = data.take(settings.server_pictures, seeded(settings.seed, ROOT))
    state = read_state(model)
    with (engine or Local()).open(population, model) as run:
        for round_number in range(len(history) + 1, settings.rounds + 1):
            clients, attacked = settings.sample(round_number), settings.attacks_in(round_number)
            local = settings.local_training(round_number)
            sent = list(run(state, clients, local, round_number=round_number, attacked=attacked))
            received, rejected = screen(state, sent)
            attackers = sorted(set(population.malicious).intersection(clients)) if attacked else []
            if attack and attackers:
                # What is forged may be worthless, too.
                generator = seeded(settings.seed, round_number, FORGING)
                received, worthless = screen(state, forge(received, attack, attackers, generator))
                rejected |= worthless
            if not received:
                raise mismatch("updates", "at least one that can be used", rejected or "no answer from any client")
            received, judged = inspect(received, detector) if detector else (received, {})
            if not received:
                raise mismatch("updates", "at least one that is not suspected", judged["scores"])
            train_root = partial(_root_update, model, state, root, local, seeded(settings.seed, round_number, ROOT))
            context = Context(
                generator=seeded(settings.seed, round_number),
                clients=tuple(update.client for update in received),
                root=train_root,
                memory=memory,
            )
            state = aggregate(state, received, aggregator, context)
            if not state.parameters.isfinite().all():
                raise mismatch("update", "finite values", "others; lower the learning rate or the scale")
            write_state(model, state)
            pictures = sum(update.count for update in received)
            row = {
                "round": round_number,
                "clients": list(clients),
                "attackers": attackers,
                "rejected": {str(client): reason for client, reason in rejected.items()},
                **judged,
                "missing": sorted(set(clients).difference(update.client for update in sent)),
                "loss": sum(update.loss * update.count for update in received) / pictures,
                **_measure(model, test, goal),
            }
            history.append(row)
            extra = {**card.extra, "malicious_clients": list(population.malicious), "history": history}
            model.card = Card.from_dict({**card.to_dict(), **extra})
            remember(output, round_number, memory)
            save_checkpoint(output, model, model.card)
            forget(output, round_number)
            if on_round is not None:
                on_round(row)
    model.eval()
    if attack:
        own = data.subset(population.parts[population.malicious[0]])
        attack.illustrate(model, own, output, seeded(settings.seed))
    return model


def screen(state: State, updates: Sequence[Update]) -> tuple[list[Update], dict[int, str]]:
    """Return the updates that fit ``state``, and why each of the others does not, by client.

    No aggregator sees an update with a tensor too many or too few, of another shape, or with a value that is not
    finite.
    """
    fitting, rejected = [], {}
    for update in updates:
        reason = _fault(state, update)
        if reason is None:
            fitting.append(update)
        else:
            rejected[update.client] = reason
    return fitting, rejected


def _fault(state: State, update: Update) -> str | None:
    if update.buffers.keys() != state.buffers.keys():
        missing = sorted(state.buffers.keys() - update.buffers.keys())
        extra = sorted(update.buffers.keys() - state.buffers.keys())
        return f"missing {', '.join(missing) or 'nothing'}, not expected {', '.join(extra) or 'nothing'}"
    pairs = {"parameters": (state.parameters, update.change)}
    pairs |= {name: (value, update.buffers[name]) for name, value in state.buffers.items()}
    for name, (expected, got) in pairs.items():
        if got.shape != expected.shape:
            return f"{name} of shape {tuple(got.shape)} where {tuple(expected.shape)} is expected"
        if not got.isfinite().all():
            return f"{name} with values that are not finite"
    return "no pictures" if update.count < 1 else None


def forge(
    updates: Sequence[Update], attack: Attack, attackers: Sequence[int], generator: torch.Generator
) -> list[Update]:
    """Return the updates with those of the ``attackers`` as the attack wants them."""
    changes = {update.client: update.change for update in updates}
    own = [client for client in changes if client in attackers]
    others = [client for client in changes if client not in attackers]
    if not own:
        return list(updates)
    learnt = torch.stack([changes[client] for client in own])
    seen = learnt.new_empty(len(others), learnt.shape[1] if attack.omniscient else 0)
    for row, client in zip(seen, others, strict=True):
        row.copy_(changes[client][: len(row)])
    forged = dict(zip(own, attack.forge(learnt, seen, generator), strict=True))
    return [replace(update, change=forged.get(update.client, update.change)) for update in updates]


def inspect(updates: Sequence[Update], detector: UpdateDetector) -> tuple[list[Update], dict[str, Any]]:
    """Return the updates that ``detector`` does not suspect, and for the history the suspected and all scores."""
    scores = detector.score(torch.stack([update.change for update in updates]))
    suspected = dict(zip((update.client for update in updates), detector.decide(scores).tolist(), strict=True))
    return [update for update in updates if not suspected[update.client]], {
        "suspected": [client for client, suspect in suspected.items() if suspect],
        "scores": dict(zip(map(str, suspected), scores.tolist(), strict=True)),
    }


def aggregate(state: State, updates: Sequence[Update], aggregator: Aggregator, context: Context) -> State:
    """Move ``state`` by the aggregated update.

    Buffers are averaged by the clients' counts of pictures; integer ones, which count steps, rounded.
    """
    counts = torch.tensor([update.count for update in updates], dtype=torch.float64)
    weights = counts / counts.sum()
    changes = torch.stack([update.change for update in updates])
    change = aggregator(changes, weights.to(changes), context)

    def mean(name: str, like: Tensor) -> Tensor:
        values = torch.stack([update.buffers[name] for update in updates]).double()
        averaged = torch.tensordot(weights.to(values.device), values, dims=1)
        rounded: Tensor = averaged if like.is_floating_point() else averaged.round()
        return rounded.to(like.dtype)

    buffers = {name: mean(name, like) for name, like in state.buffers.items()}
    return State(parameters=state.parameters + change, buffers=buffers)


def _root_update(
    model: Normalized, state: State, data: Dataset, settings: LocalTraining, generator: torch.Generator
) -> Tensor:
    """Train on the server's own pictures; the model is left as it was."""
    update = train_locally(model, state, data, settings, client=SERVER, generator=generator)
    write_state(model, state)
    return update.change


def _measure(model: Normalized, test: Dataset, goal: Goal | None) -> dict[str, Any]:
    rates = {"clean_accuracy": clean_accuracy(predict(model, test), test.labels)}
    if goal is not None:
        predictions = predict(model, goal.pictures)
        rates["attack_success_rate"] = attack_success_rate(predictions, goal.pictures.labels, goal.targets)
    return {name: {"count": rate.count, "total": rate.total, "value": rate.value} for name, rate in rates.items()}
