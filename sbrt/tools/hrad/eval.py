"""Measures an H-RAD classifier on samples, and in simulated time on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ... import methods
from ...errors import InvalidInputError
from ...methods import Method
from ...model.hrad import CLASSES, Classifier
from ...outputs import ratio
from ..measure import Report, Tally
from ..simulate import Simulator
from ..table import aligned
from .data import Samples, digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EPSILONS = (0.1, 0.3, 0.5, 0.7, 0.9)  # thresholds of confidence, used alone and with a classifier
HALVINGS = 6  # bisection steps in the search for the threshold with equal rollback rate


@dataclass(frozen=True)
class Judgement:
    """Results of a classifier on samples.

    confusion: [3][3] numbers of samples, by true class and predicted class. held_out: True if the
    samples are the held-out part of the training file.
    """

    confusion: list[list[int]]
    held_out: bool

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of samples classified correctly."""
        return ratio(sum(self.confusion[i][i] for i in range(len(CLASSES))), self.count)

    @property
    def majority(self) -> float:
        """Share of samples in the largest class: the accuracy of a classifier that always predicts
        this class."""
        return ratio(max(map(sum, self.confusion)), self.count)

    def line(self) -> dict[str, Any]:
        """Return the results as a JSON object."""
        return {
            "samples": self.count,
            "held_out": self.held_out,
            "classes": list(CLASSES),
            "confusion": self.confusion,
            "accuracy": self.accuracy,
            "majority": self.majority,
        }

    def text(self) -> str:
        """Return the confusion matrix and the two shares, accuracy and majority, as text."""
        rows: list[tuple[str, ...]] = [("label \\ predicted", *CLASSES, "right")]
        for i, (name, counts) in enumerate(zip(CLASSES, self.confusion, strict=True)):
            rows.append((name, *map(str, counts), f"{ratio(counts[i], sum(counts)):.0%}"))
        which = "held out from training" if self.held_out else "none of them known to training"
        return "\n".join(
            [
                f"{self.count} samples, {which}",
                "",
                *aligned(rows),
                "",
                f"accuracy {self.accuracy:.1%}; always the largest class: {self.majority:.1%}",
            ]
        )


def judge(classifier: Classifier, samples: Samples) -> Judgement:
    """Judge the classifier on the held-out samples if it was trained on the same file. Otherwise
    judge it on all samples.

    Raises InvalidInputError if the samples were collected with another gamma or other models.
    """
    import numpy as np

    classifier.origin.check_same(str(classifier.path), samples.origin)
    held_out = classifier.data == samples.data
    kept = samples.held_out() if held_out else np.ones(len(samples.labels), bool)
    said = classifier.logits(samples.features[kept].astype(np.float32)).argmax(1)
    return Judgement(confusion_of(samples.labels[kept], said), held_out)


def confusion_of(labels: NDArray[Any], said: NDArray[Any]) -> list[list[int]]:
    """Return [3][3] counts by label and prediction."""
    import numpy as np

    found: NDArray[np.int64] = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(found, (labels.astype(np.int64), said.astype(np.int64)), 1)
    return found.tolist()


def unseen(prompts: Sequence[str], classifier: Classifier, samples: Samples) -> list[str]:
    """Return the prompts that the classifier was not trained on. Raises InvalidInputError if there
    is no such prompt."""
    from .data import is_held_out

    if classifier.data != samples.data:
        return list(prompts)
    trained = {int(d) for i, d in enumerate(samples.digests) if not is_held_out(i)}
    found = [prompt for prompt in prompts if digest_of(prompt) not in trained]
    if not found:
        raise InvalidInputError(
            f"prompts: expected one that the classifier was not trained on, got {len(prompts)} "
            "that it was"
        )
    return found


@dataclass(frozen=True)
class Worth:
    """The rollback rate and speed of several settings in simulated time.

    best: the fastest setting with the classifier. equal: the setting without the classifier whose
    rollback rate is about that of `best`. It has only a confidence threshold.
    """

    report: Report
    best: Tally
    equal: Tally

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON objects of all settings; the last object is for `equal`."""
        return [self.report.line(tally) for tally in [*self.report.tallies, self.equal]]

    def text(self) -> str:
        """Return a table of the settings, and a sentence that draws the conclusion."""
        rows: list[tuple[str, ...]] = [("method", "speedup", "tokens/pass", "rollback", "same")]
        for tally in [*self.report.tallies, self.equal]:
            line = self.report.line(tally)
            rows.append(
                (
                    tally.method.text,
                    f"{line['speedup']:.3f}x",
                    f"{line['tokens_per_pass']:.2f}",
                    f"{line['rollback_rate']:.3f}",
                    "yes" if line["identical_to_none"] else "NO",
                )
            )
        gain = ratio(self.best.rate, self.equal.rate)
        said = (
            f"at a rollback rate of {rollback(self.best):.3f} the classifier is {gain:.3f} times "
            f"as fast as confidence alone, which has {rollback(self.equal):.3f}"
        )
        return "\n".join([*aligned(rows), "", said])


def settings(classifier: Classifier) -> list[Method]:
    """Return the settings to compare: PEARL, each confidence threshold without the classifier, and
    each threshold with the classifier. Threshold 0 leaves chains uncut."""
    gamma, path = classifier.origin.gamma, str(classifier.path)
    alone = [confidence(gamma, epsilon) for epsilon in (0.0, *EPSILONS)]
    both = [
        replace(m.having("hrad", path), text=f"{m.text},hrad=H")
        for m in alone  # includes epsilon 0: there the class "some" keeps the whole tail
    ]
    return [methods.parse(f"pearl:gamma={gamma}"), *alone, *both]


def confidence(gamma: int, epsilon: float) -> Method:
    """Return the method specbranch without a classifier, with this confidence threshold."""
    return methods.parse(f"specbranch:gamma={gamma},epsilon={epsilon:g}")


def weigh(simulator: Simulator, classifier: Classifier, prompts: Sequence[str]) -> Worth:
    """Run every setting. Then find the confidence threshold that has the same rollback rate without
    the classifier as the best setting with the classifier."""
    none = methods.parse("none")
    report = simulator.report(settings(classifier), none, prompts)
    on = [t for t in report.tallies if t.method.options.get("hrad", "off") != "off"]
    best = max(on, key=lambda tally: tally.rate)

    def alone(epsilon: float) -> Tally:
        method = confidence(classifier.origin.gamma, epsilon)
        return simulator.report([method], none, prompts).tallies[0]

    equal = of_equal_rollback(alone, rollback(best))
    return Worth(report, best, equal)


def of_equal_rollback(alone: Any, wanted: float) -> Tally:
    """Return the tally of `alone(epsilon)` whose rollback rate is nearest to `wanted`.

    The search is a bisection: the rollback rate falls as epsilon rises.
    """
    low, high, tried = 0.0, 1.0, [alone(0.0)]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried.append(alone(middle))
        if rollback(tried[-1]) > wanted:
            low = middle
        else:
            high = middle
    nearest: Tally = min(tried, key=lambda tally: abs(rollback(tally) - wanted))
    return nearest


def rollback(tally: Tally) -> float:
    """Return the number of rolled-back tokens divided by the number of returned tokens."""
    return ratio(tally.rollback, tally.tokens)
