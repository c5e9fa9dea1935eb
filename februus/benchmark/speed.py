"""Wall times, of two ways in turn in one run, and the memory of a federation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch.nn import functional as F

from februus.benchmark.memory import held_by_all, memories
from februus.data import Dataset, Source
from februus.federated.client import State, read_state
from februus.federated.engines.local import Local
from februus.federated.population import Runner
from februus.federated.server import aggregate
from februus.federated.settings import Federation
from februus.models import Normalized, build
from februus.purifier import Purifier
from februus.registry import create
from februus.seeds import seeded
from februus.types import Aggregator, Context

__all__ = ["compare_batched", "compare_round", "measure_rounds"]


def compare_batched(purifier: Purifier, data: Dataset, *, repeats: int = 3) -> dict[str, Any]:
    """Purify pictures one by one, and all at once."""
    images = data.floats().to(next(purifier.model.parameters()).device)

    def one_by_one() -> None:
        for image in images.split(1):
            purifier(image)

    return _ratio(one_by_one, lambda: purifier(images), repeats, pictures=len(images))


def compare_round(settings: Federation, data: Dataset, *, repeats: int = 3) -> dict[str, Any]:
    """Run a federated round without evaluation, and the same SGD steps in a plain loop over the same pictures."""
    model = _workspace(settings, data)
    population = settings.populate(data, data)
    parts = population.parts
    local, clients = settings.local_training(1), settings.sample(1)
    aggregator = create("aggregators", settings.aggregator)

    def federated() -> None:
        with Local().open(population, model) as run:
            _work(run, read_state(model), settings, aggregator, 1)

    def plain() -> None:
        model.train()
        optimizer = torch.optim.SGD(
            model.parameters(), local.learning_rate, local.momentum, weight_decay=local.weight_decay
        )
        for client in clients:
            generator = seeded(settings.seed, 1, client)
            part = parts[client]
            for rows in part[torch.randperm(len(part), generator=generator)].split(local.batch_size):
                images = (data.images[rows].float() / 255).contiguous(memory_format=torch.channels_last)
                loss = F.cross_entropy(model(images), data.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    steps = sum(-(-len(parts[client]) // local.batch_size) for client in clients)
    return _ratio(federated, plain, repeats, steps=steps)


def measure_rounds(
    settings: Federation, source: Source, engine: str, *, rounds: int = 3, threads: int = 1
) -> dict[str, Any]:
    """Run federated rounds without evaluation, in a process of their own.

    Args:
        settings: of the federation.
        source: of the pictures.
        engine: a method of the family engines.
        rounds: that are timed, after a first one, in which the clients start, and before a last one, in which only the
            memory counts.
        threads: that each client computes with.

    Returns:
        ``first_seconds``, ``seconds`` of each timed round and their median ``seconds_a_round``; ``bytes_before`` any
        client was there, with the pictures in memory, and ``bytes_at_peak``, of this process and all that it started.
        What they map from files, as libraries, counts once where the system tells it apart (on Linux).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run_rounds, settings, source, engine, rounds, threads).result()


def _run_rounds(settings: Federation, source: Source, engine: str, rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    data = source.load("train")
    model = _workspace(settings, data)
    aggregator = create("aggregators", settings.aggregator)
    state, before = read_state(model), held_by_all()
    with create("engines", engine).open(settings.populate(data, data), model) as run:

        def work(number: int) -> float:
            nonlocal state
            start = time.perf_counter()
            state = _work(run, state, settings, aggregator, number)
            return time.perf_counter() - start

        first, *seconds = (work(number) for number in range(1, rounds + 2))
        with memories(held_by_all) as seen:
            work(rounds + 2)
    return {
        "engine": engine,
        "clients": settings.clients,
        "clients_per_round": len(settings.sample(1)),
        "parameters": len(state.parameters),
        "first_seconds": first,
        "seconds": seconds,
        "seconds_a_round": statistics.median(seconds),
        "bytes_before": before,
        "bytes_at_peak": max(seen),
        "threads": threads,
    }


def _workspace(settings: Federation, data: Dataset) -> Normalized:
    """Return the untrained model of a federation."""
    torch.manual_seed(settings.seed)
    model = Normalized(build(settings.architecture, num_classes=data.num_classes))
    return model.to(memory_format=torch.channels_last)


def _work(run: Runner, state: State, settings: Federation, aggregator: Aggregator, number: int) -> State:
    """Run a round without attack, at the learning rate of the first."""
    clients = settings.sample(number)
    updates = list(run(state, clients, settings.local_training(1), round_number=number, attacked=False))
    context = Context(generator=seeded(settings.seed, number), clients=clients)
    return aggregate(state, updates, aggregator, context)


def _ratio(work: Callable[[], None], other: Callable[[], object], repeats: int, **facts: Any) -> dict[str, Any]:
    """Time both in turn, after one untimed run of each; the ratio is the median over pairs."""
    pairs = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        work()
        middle = time.perf_counter()
        other()
        if repeat:
            pairs.append((middle - start, time.perf_counter() - middle))
    ratios = [first / second for first, second in pairs]
    return {
        **facts,
        "seconds": [list(pair) for pair in pairs],
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "threads": torch.get_num_threads(),
    }
