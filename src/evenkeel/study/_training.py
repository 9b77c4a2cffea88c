"""One training run: a network, an optimizer, a record."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from evenkeel.errors import NonFiniteWarning
from evenkeel.study._data import MAX_TEST
from evenkeel.study._network import build_network, norm_layers
from evenkeel.study._records import RunRecord, Trajectory, judge

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from evenkeel.study._data import Dataset
    from evenkeel.study._plan import RunConfig
    from evenkeel.study._records import Values

#: Accuracy is measured every 5 steps up to step 100, then 20 times over the rest of the run.
_EARLY: Final = range(5, 101, 5)
_LATER: Final = 20
#: Channels of each batch-norm layer whose gamma and beta are kept one by one.
_CHANNELS: Final = 5

_Tensors = tuple[torch.Tensor, torch.Tensor]


def train(config: RunConfig, data: Dataset) -> RunRecord:
    """Train one network and return what was measured; same arguments, same bits."""
    return train_network(config, data)[0]


def train_network(config: RunConfig, data: Dataset) -> tuple[RunRecord, nn.Sequential]:
    """Train one network and return the record and the network, in inference mode.

    Runs on one thread: sums split over threads would round differently from machine to machine.
    """
    with _one_thread(), warnings.catch_warnings():
        # A diverging run feeds NaN to batch norm; the record says so, a warning per layer does not.
        warnings.simplefilter("ignore", NonFiniteWarning)
        return _Run(config, data).execute()


def total_steps(config: RunConfig, samples: int) -> int:
    """Return the number of optimizer steps; the incomplete last batch of an epoch is left out."""
    return min(config.max_steps, config.epochs * (samples // min(config.batch_size, samples)))


def recorded_steps(total: int) -> tuple[int, ...]:
    """Return the steps at which accuracy and parameters are recorded, from 0 to ``total``."""
    later = (round(k * total / _LATER) for k in range(_LATER + 1))
    early = (step for step in _EARLY if step <= total)
    return tuple(sorted({*early, *(s for s in later if s > _EARLY[-1] or s in {0, total})}))


@contextmanager
def _one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The state of one training run and what it has recorded so far."""

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        self.config, self.majority = config, data.info.majority
        self.generator = torch.Generator().manual_seed(config.random_seed())
        # torch.tensor copies: the arrays may be read-only memory maps shared by all workers.
        self.train: _Tensors = torch.tensor(data.train_x), torch.tensor(data.train_y)
        self.test: _Tensors = torch.tensor(data.test_x), torch.tensor(data.test_y)
        self.network = build_network(
            data.train_x.shape[1],
            len(data.info.classes),
            hidden=config.hidden,
            batch_norm=config.batch_norm,
            generator=self.generator,
        )
        self.steps: list[int] = []
        self.accuracies: list[float] = []
        self.window: list[float] = []
        self.losses: list[float | None] = []
        self.affine: dict[tuple[str, str], list[torch.Tensor]] = {}

    def execute(self) -> tuple[RunRecord, nn.Sequential]:
        total = total_steps(self.config, len(self.train[1]))
        recorded = set(recorded_steps(total))
        optimizer = _optimizer(self.config, self.network)
        self.record(0)
        first, finite = math.nan, True
        for step, (x, y) in enumerate(self.batches(total), start=1):
            loss = cross_entropy(self.network(x), y)
            value = loss.item()
            first = value if step == 1 else first
            self.window.append(value)
            finite = math.isfinite(value)
            if finite:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if step in recorded or not finite:
                self.record(step)
            if not finite:
                break
        return self.finish(first=first, finite=finite), self.network.eval()

    def batches(self, total: int) -> Iterator[_Tensors]:
        """Yield ``total`` shuffled batches; a list of indices picks a whole batch at once."""
        data = TensorDataset(*self.train)
        size = min(self.config.batch_size, len(data))
        order = BatchSampler(RandomSampler(data, generator=self.generator), size, drop_last=True)
        loader = DataLoader(data, sampler=order, batch_size=None, generator=self.generator)
        left = total
        while left > 0:
            for _, batch in zip(range(left), loader, strict=False):
                yield batch[0], batch[1]
                left -= 1

    def record(self, step: int) -> None:
        """Note accuracy, mean loss since the last note, gamma and beta."""
        self.steps.append(step)
        self.accuracies.append(_accuracy(self.network, self.test))
        mean = math.fsum(self.window) / len(self.window) if self.window else math.nan
        self.losses.append(mean if math.isfinite(mean) else None)
        self.window.clear()
        for name, layer in norm_layers(self.network).items():
            for parameter, tensor in (("gamma", layer.weight), ("beta", layer.bias)):
                assert isinstance(tensor, torch.Tensor)  # noqa: S101 - attribute of a module
                self.affine.setdefault((name, parameter), []).append(tensor.detach().clone())

    def finish(self, *, first: float, finite: bool) -> RunRecord:
        samples = len(self.train[1])  # as many of them as test samples are enough
        few = torch.linspace(0, samples - 1, min(samples, MAX_TEST)).long()
        trained = _accuracy(self.network, (self.train[0][few], self.train[1][few]))
        known = [loss for loss in self.losses if loss is not None]
        peak = max(known, default=math.inf)
        reached = (
            s for s, a in zip(self.steps, self.accuracies, strict=True) if a >= self.config.target
        )
        return RunRecord(
            config=self.config,
            steps=tuple(self.steps),
            test_accuracy=tuple(self.accuracies),
            train_loss=tuple(_short(math.nan if v is None else v) for v in self.losses),
            steps_to_target=next(reached, None),
            best_accuracy=max(self.accuracies),
            final_accuracy=self.accuracies[-1],
            final_train_accuracy=trained,
            first_loss=_short(first),
            peak_loss=_short(peak),
            finite=finite,
            outcome=judge(
                accuracy=trained,
                majority=self.majority,
                finite=finite,
                first_loss=first,
                peak_loss=peak,
            ),
            trajectories=tuple(_trajectory(*key, seen) for key, seen in self.affine.items()),
        )


def _optimizer(config: RunConfig, network: nn.Module) -> torch.optim.Optimizer:
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    return kinds[config.optimizer](network.parameters(), lr=config.rate, fused=True)


@torch.no_grad()
def _accuracy(network: nn.Sequential, data: _Tensors) -> float:
    """Return the share of right answers in inference mode, with the running statistics."""
    network.eval()
    logits = network(data[0])
    network.train()
    right = (logits.argmax(dim=1) == data[1]) & logits.isfinite().all(dim=1)
    return int(right.sum()) / len(data[1])


def _trajectory(layer: str, parameter: str, seen: list[torch.Tensor]) -> Trajectory:
    """Summarise one parameter over the channels, at each recorded step."""
    values = torch.stack(seen).double()
    low, median, high = values.quantile(torch.tensor([0.1, 0.5, 0.9]).double(), dim=1)
    picks = torch.linspace(0, values.shape[1] - 1, min(_CHANNELS, values.shape[1])).long().tolist()
    return Trajectory(
        layer=layer,
        parameter="gamma" if parameter == "gamma" else "beta",
        mean=_shorts(values.mean(dim=1)),
        min=_shorts(values.amin(dim=1)),
        max=_shorts(values.amax(dim=1)),
        low=_shorts(low),
        median=_shorts(median),
        high=_shorts(high),
        channels={str(pick): _shorts(values[:, pick]) for pick in picks},
    )


def _short(value: float) -> float | None:
    """Round to six significant digits (float32 carries seven); None if not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _shorts(values: torch.Tensor) -> Values:
    return tuple(_short(value) for value in values.tolist())
