"""The settings of a federation, and what they make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from detectors import UpdateDetector
from februus import registry
from februus.checks import check_range, mismatch
from februus.data import Dataset
from februus.federated.partition import partition
from februus.federated.population import Population
from februus.federated.threat import Attack
from februus.seeds import seeded
from februus.training.classifier import LocalTraining

__all__ = ["Federation"]

# What the keys of `seeded` mean that are neither round nor client.
SAMPLING, ATTACKERS, AIMING = 1_000_001, 1_000_003, 1_000_004


@dataclass(frozen=True, kw_only=True)
class Federation:
    """The settings of a federated training under attack.

    Args:
        architecture: what `februus.models.build` takes: small-vgg, wrn-16-1, a name of torchvision or timm.
        start: checkpoint folder of the same architecture to go on from; random weights where not given.
        clients: how many share the pictures.
        malicious: how many of them attack; 0 trains a clean model.
        clients_per_round: how many are sampled each round; all where not given.
        rounds: of communication.
        alpha: Dirichlet concentration of the classes over clients, above 0; evenly where not given.
        local_epochs: passes of a client over its pictures in a round.
        batch_size: pictures a step.
        learning_rate: of the clients' SGD in the first round; falls to a hundredth along a cosine.
        momentum: of the clients' SGD, in [0, 1).
        weight_decay: of the clients' SGD.
        bfloat16: whether clients compute in bfloat16; faster where the processor has it.
        flip: whether clients mirror half of their pictures, left to right.
        shift: how far clients move their pictures at most, as a share of their side in [0, 0.5].
        aggregator: how updates become one, a method of the family aggregators.
        detector: what the server suspects updates by and leaves them out, a method of the family detectors that judges
            updates; none where not given.
        server_pictures: training pictures that the server holds itself, for aggregators that train a root update.
        attack: what malicious clients do, a method of the family attacks. The five options below are the attack's: its
            own defaults where not given, refused where it has no such option.
        trigger: what malicious clients stamp, a method of the family triggers.
        target_label: the class that they want.
        source_label: the class whose pictures they want to be taken for it.
        poison_rate: share of their pictures that they poison, in [0, 1].
        scale: factor on their updates.
        backdoor_from: first round in which they attack, from 1.
        backdoor_every: they attack every so many rounds from then on.
        seed: of everything random.
    """

    architecture: str = "small-vgg"
    start: str | None = None
    clients: int = 10
    malicious: int = 2
    clients_per_round: int | None = None
    rounds: int = 10
    alpha: float | None = None
    local_epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bfloat16: bool = False
    flip: bool = False
    shift: float = 0.0
    aggregator: str = "fed-avg"
    detector: str | None = None
    server_pictures: int = 100
    attack: str = "data-poisoning"
    trigger: str | None = None
    target_label: int | None = None
    source_label: int | None = None
    poison_rate: float | None = None
    scale: float | None = None
    backdoor_from: int = 1
    backdoor_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("clients", self.clients, 1)
        if not 0 <= self.malicious <= self.clients:
            raise mismatch("malicious", f"0 to {self.clients}, the number of clients", self.malicious)
        if self.clients_per_round is not None and not 1 <= self.clients_per_round <= self.clients:
            raise mismatch("clients_per_round", f"1 to {self.clients}, the number of clients", self.clients_per_round)
        for name in ("rounds", "server_pictures", "backdoor_from", "backdoor_every"):
            check_range(name, getattr(self, name), 1)
        check_range("seed", self.seed, 0)
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0, open_low=True)
        self.local_training(1)
        self.make_attack()
        self.make_detector()
        registry.create("aggregators", self.aggregator)

    def local_training(self, round_number: int) -> LocalTraining:
        """Return how clients train in a round, from 1."""
        progress = (round_number - 1) / self.rounds
        return LocalTraining(
            epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            bfloat16=self.bfloat16,
            flip=self.flip,
            shift=self.shift,
        )

    def make_attack(self) -> Attack:
        """Return what malicious clients do."""
        options = ("trigger", "target_label", "source_label", "poison_rate", "scale")
        given = {name: value for name in options if (value := getattr(self, name)) is not None}
        attack: Attack = registry.create("attacks", self.attack, **given)
        return attack

    def make_detector(self) -> UpdateDetector | None:
        """Return what the server suspects updates by."""
        if self.detector is None:
            return None
        detector = registry.create("detectors", self.detector)
        if not isinstance(detector, UpdateDetector):
            names = registry.available("detectors")
            fitting = [name for name in names if issubclass(registry.find("detectors", name), UpdateDetector)]
            raise mismatch("detector", f"one of updates: {', '.join(fitting)}", repr(self.detector))
        return detector

    def sample(self, round_number: int) -> tuple[int, ...]:
        """Return the clients of a round, ascending."""
        count = self.clients_per_round or self.clients
        order = torch.randperm(self.clients, generator=seeded(self.seed, round_number, SAMPLING))
        return tuple(sorted(order[:count].tolist()))

    def attacks_in(self, round_number: int) -> bool:
        """Tell whether malicious clients attack in a round."""
        late = round_number - self.backdoor_from
        return self.malicious > 0 and late >= 0 and late % self.backdoor_every == 0

    def populate(self, data: Dataset, test: Dataset) -> Population:
        """Deal ``data`` to the clients and choose who of them is malicious; ``test`` is what the attack aims at.

        Raises:
            ValueError: if a client ends up with no picture or the attack does not fit the pictures.
        """
        attack = self.make_attack() if self.malicious else None
        if attack is not None:
            attack = attack.prepare(test, seeded(self.seed, AIMING))
            for backdoor in attack.backdoors:
                backdoor.victims(test)
        order = torch.randperm(self.clients, generator=seeded(self.seed, ATTACKERS))
        return Population(
            data=data,
            parts=partition(data.labels, self.clients, self.alpha, self.seed),
            attack=attack,
            malicious=tuple(sorted(order[: self.malicious].tolist())),
            seed=self.seed,
        )
