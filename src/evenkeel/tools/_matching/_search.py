"""Settle a matching by the data: candidates are written into the target, and both are compared.

A layer whose inputs agree in both networks is settled. The others are tried again in the order
in which they run, until every layer agrees or nothing that could be tried helps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.tools._matching._data import distance, find_order, is_same, prints, sample
from evenkeel.tools._matching._order import first_guess
from evenkeel.tools._matching._pairs import Matching, Pair
from evenkeel.tools._matching._roles import find_absorbed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Values
    from evenkeel.tools._matching._data import Print, Prints
    from evenkeel.tools._matching._order import Side

#: Runs of the target that one matching may take.
_MOST_RUNS: Final = 400
#: Rounds in which a swap of two layers has to show that it helps.
_TRIAL_ROUNDS: Final = 2


@dataclass(slots=True, eq=False)
class Candidate:
    """One assignment, and what running the target with it showed."""

    guess: dict[str, str]
    orders: dict[str, NDArray[np.intp] | None]
    settled: dict[str, str] = field(default_factory=dict[str, str])
    output_agrees: bool = False
    seen: Prints = field(default_factory=dict[str, "list[Print]"])
    output: Print | None = None

    @property
    def score(self) -> int:
        """Number of layers, and the output, that agree."""
        return len(self.settled) + self.output_agrees

    @property
    def is_right(self) -> bool:
        """Whether everything agrees."""
        return self.output_agrees and len(self.settled) == len(self.seen)


class Search:
    """Runs the target with candidate values; the caller restores the target."""

    def __init__(
        self,
        source: Side,
        target: Side,
        values: Values,
        fed: NDArray[Any],
        fixed: Mapping[str, str],
    ) -> None:
        self._source = source
        self._target = target
        self._values = values
        self._fed = fed
        self._fixed = dict(fixed)
        self._expected = prints(source.trace)
        self._result = sample(source.trace.output)
        self._any_order = False
        self.runs = 0

    def run(self) -> Candidate:
        """The best assignment that was found.

        Channels that are joined in another order are a last resort: two branches may also have
        changed places.
        """
        guess = first_guess(self._source, self._target, self._fixed)
        best = self._climbed(self._settle(guess, {}))
        if not best.is_right:
            self._any_order = True
            best = self._climbed(self._settle(*self._moved(best)), best)
        return best

    def _climbed(self, best: Candidate, other: Candidate | None = None) -> Candidate:
        """Better ones by swaps, as long as a swap helps; the other one if that is better."""
        best = other if other is not None and other.score > best.score else best
        while not best.is_right:
            better = next((c for c in self._swaps(best) if c.score > best.score), None)
            if better is None:
                break
            best = better
        return best

    def matching(self, candidate: Candidate) -> Matching:
        """The candidate in the form that is handed out."""
        source, target = self._source, self._target
        pairs = tuple(
            Pair(source.layers[one], target.layers[name], candidate.orders.get(name))
            for name in target.order
            if (one := candidate.guess.get(name)) is not None
        )
        return Matching(pairs, find_absorbed(source, target, candidate.guess, self._values))

    def same_input(self, candidate: Candidate) -> Iterator[tuple[str, str]]:
        """Settled layers of the target that could change places: one kind, shape and input."""
        names = [name for name in self._target.order if name in candidate.settled]
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                if self._are_alike(candidate, one, other):
                    yield one, other

    def is_live(self, candidate: Candidate, name: str) -> bool:
        """Whether anything but the layer and those that are linked to it notices its values."""
        values = self._written(candidate)
        for array in values[name].values():
            if array.dtype.kind == "f":
                array[...] = 1.5 * array + 0.25
        seen, output = self._run_target(values)
        assert candidate.output is not None  # noqa: S101 - every candidate was run
        if distance(candidate.output, output) > 0:
            return True
        chain = {name}
        for layer in self._target.order:
            if self._target.links.get(layer) in chain:
                chain.add(layer)
        return any(
            distance(a, b) > 0
            for layer in seen.keys() - chain
            for a, b in zip(candidate.seen[layer], seen[layer], strict=True)
        )

    def _settle(
        self,
        guess: dict[str, str],
        orders: dict[str, NDArray[np.intp] | None],
        rounds: int = _MOST_RUNS,
    ) -> Candidate:
        """Run, move what the data show to belong elsewhere, and run again."""
        best: Candidate | None = None
        for _ in range(rounds):
            candidate = self._try(Candidate(guess, orders))
            if best is not None and candidate.score <= best.score:
                break
            best = candidate
            if best.is_right:
                break
            guess, orders = self._moved(best)
            if guess == best.guess and _same_orders(orders, best.orders):
                break
        assert best is not None  # noqa: S101 - at least one round
        return best

    def _try(self, candidate: Candidate) -> Candidate:
        seen, output = self._run_target(self._written(candidate))
        candidate.seen, candidate.output = seen, output
        candidate.output_agrees = is_same([self._result], [output])
        expected = self._expected_inputs(candidate.guess)
        for name, got in seen.items():
            one = candidate.guess.get(name)
            if one is None:
                continue
            order = candidate.orders.get(name)
            wanted = [known.reordered(order) for known in expected[one]]
            if is_same(wanted, got):
                candidate.settled[name] = one
        return candidate

    def _moved(
        self, candidate: Candidate
    ) -> tuple[dict[str, str], dict[str, NDArray[np.intp] | None]]:
        """The assignment after every layer went where its input was seen in the source."""
        expected = self._expected_inputs(candidate.guess)
        taken = {**self._fixed, **candidate.settled}
        orders = {name: candidate.orders.get(name) for name in candidate.settled}
        for name in self._target.order:
            got = candidate.seen.get(name)
            if got is None or name in candidate.settled:
                continue
            free = set(taken.values()) - {self._fixed.get(name)}
            for one in self._alike(name):
                if one in free or (name in self._fixed and one != self._fixed[name]):
                    continue
                order = None
                if not is_same(expected[one], got):
                    order = self._order(name, expected[one], got)
                    if order is None:
                        continue
                taken[name], orders[name] = one, order
                break
        return first_guess(self._source, self._target, taken), orders

    def _swaps(self, best: Candidate) -> Iterator[Candidate]:
        """What becomes of the best assignment when two layers with one input change places."""
        running = {name: index for index, name in enumerate(self._target.order)}
        wrong = [n for n in best.seen if n not in best.settled]
        first = min((running[name] for name in wrong), default=len(running))
        pairs = [p for p in self.same_input(best) if not self._fixed.keys() & set(p)]
        for one, other in sorted(pairs, key=lambda pair: abs(first - running[pair[1]])):
            kept = {k: v for k, v in best.settled.items() if not self._follows(k, {one, other})}
            kept |= {one: best.guess[other], other: best.guess[one]}
            guess = first_guess(self._source, self._target, {**self._fixed, **kept})
            if self.runs >= _MOST_RUNS:
                return
            yield self._settle(guess, dict(best.orders), _TRIAL_ROUNDS)

    def _order(self, name: str, known: list[Print], got: list[Print]) -> NDArray[np.intp] | None:
        layer = self._target.layers[name]
        return find_order(layer, known, got, any_order=self._any_order)

    def _follows(self, name: str, layers: set[str]) -> bool:
        """Whether a layer is linked to one of these, directly or through others."""
        links = self._target.links
        while name in links:
            name = links[name]
            if name in layers:
                return True
        return False

    def _are_alike(self, candidate: Candidate, one: str, other: str) -> bool:
        target = self._target
        if target.signatures[one] != target.signatures[other]:
            return False
        first, second = candidate.guess[one], candidate.guess[other]
        if not is_same(candidate.seen[one], candidate.seen[other]):
            return False
        return not _same_arrays(self._values.get(first, {}), self._values.get(second, {}))

    def _alike(self, name: str) -> Iterator[str]:
        """Layers of the source with the signature of one of the target, likely ones first."""
        source, target = self._source, self._target
        wanted, color = target.signatures[name], target.colors[name]
        names = [n for n in source.order if source.signatures[n] == wanted]
        yield from sorted(names, key=lambda n: source.colors[n] != color)

    def _expected_inputs(self, guess: Mapping[str, str]) -> Prints:
        """The source's inputs, less a bias that the target's layer before has no place for."""
        expected = dict(self._expected)
        for layer, norm in find_absorbed(self._source, self._target, guess, self._values):
            bias = self._values[layer]["bias"]
            expected[norm] = [known.minus(bias) for known in expected[norm]]
        return expected

    def _written(self, candidate: Candidate) -> dict[str, dict[str, NDArray[Any]]]:
        """Values for the target; another eps is made up for, so that it hides nothing."""
        matching = self.matching(candidate)
        values = {
            k: {r: np.array(a) for r, a in v.items()}
            for k, v in matching.to_target(self._values).items()
        }
        for pair in matching.pairs:
            arrays = values.get(pair.target.name, {})
            if "running_var" in arrays and pair.source.spec and pair.target.spec:
                gap = pair.source.spec.eps - pair.target.spec.eps
                arrays["running_var"] = np.maximum(arrays["running_var"] + gap, 0)
        return values

    def _run_target(self, values: Values) -> tuple[Prints, Print]:
        self.runs += 1
        network = self._target.network
        network.write(values)
        trace = network.trace(self._fed)
        known = {call.layer for call in trace.calls} & self._target.signatures.keys()
        seen = {name: found for name, found in prints(trace).items() if name in known}
        return seen, sample(trace.output)


def _same_orders(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(_same_order(one.get(key), other.get(key)) for key in one.keys() | other.keys())


def _same_order(one: NDArray[np.intp] | None, other: NDArray[np.intp] | None) -> bool:
    return one is other if one is None or other is None else bool(np.array_equal(one, other))


def _same_arrays(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[r], other[r]) for r in one)
