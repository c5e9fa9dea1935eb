"""Detectors of backdoors: fit and score, each in one file; they know nothing of februus.

There are four kinds: a `Detector` scores pictures, a `DatasetDetector` a labelled training set, a `ModelDetector` the
classes of a model, an `UpdateDetector` the updates of a federated round. Higher scores are always more suspicious.
`Seeded` is what those have in common that leave something to chance. `detectors.thresholds` says from which score on to
act.
"""

from detectors._kinds import DatasetDetector, Detector, ModelDetector, Seeded, UpdateDetector

__all__ = ["DatasetDetector", "Detector", "ModelDetector", "Seeded", "UpdateDetector"]
