"""A network that lives in a process of its own.

A process has one Keras backend, chosen when Keras is imported. To hold two of them side by side,
each network is hosted by a child process, and everything that crosses is NumPy.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints import StoredArray
from evenkeel.errors import EvenkeelError, InputError, explain

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.dialects._network import Loss, Network, Step, Trace
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Spec

_BACKENDS: Final = ("tensorflow", "jax", "torch")
_ENVIRONMENT_LOCK: Final = threading.Lock()


def open_target(target: str | os.PathLike[str]) -> Network:
    """The network of a file that carries its architecture, or of ``"module:callable"``.

    Args:
        target: path of a ``.keras`` or ``.onnx`` file; or the name of a callable without
            arguments that returns a model of any framework, with the module it is in.

    Raises:
        InputError: it is none of these.
        FileError: the file is missing or cannot be used.
    """
    from evenkeel.dialects._open import open_network

    text = os.fspath(target)
    suffix = Path(text).suffix.lower()
    if suffix == ".keras":
        _require_file(text)
        return open_network(_keras_model(text))
    if suffix == ".onnx":
        onnx = importlib.import_module("onnx")
        _require_file(text)
        return open_network(onnx.load(text))
    module, _, name = text.partition(":")
    if not name or not all(part.isidentifier() for part in module.split(".")):
        raise _unknown(text)
    found = getattr(importlib.import_module(module), name, None)
    if not callable(found):
        raise _unknown(text)
    return open_network(found())


def open_remote(target: str | os.PathLike[str], backend: str | None = None) -> Network:
    """Host a network in a child process.

    The child ends with :meth:`~evenkeel.dialects._network.Network.close`, and with this process
    however that ends. Losses that cross have to be picklable.

    Args:
        target: see :func:`open_target`.
        backend: of Keras in the child: ``"tensorflow"``, ``"jax"`` or ``"torch"``; None for the
            one that the environment or Keras's own settings name.

    Raises:
        InputError: the backend is unknown, or ``target`` cannot be used.
        EvenkeelError: the child ended by itself.
        Exception: what opening the target raised, of the same type.
    """
    if backend is not None and backend not in _BACKENDS:
        raise InputError(
            explain(
                asked="host a network in a process of its own",
                got=f"backend={backend!r}",
                why="Keras has no such backend for training",
                do=f"pass one of {', '.join(_BACKENDS)}",
            )
        )
    host = _Host(backend)
    try:
        return RemoteNetwork(host, *host.ask(_open, os.fspath(target)))
    except BaseException:
        host.close()
        raise


class RemoteNetwork:
    """See :class:`~evenkeel.dialects._network.Network`; every method runs in the child."""

    def __init__(self, host: _Host, key: int, framework: str) -> None:
        self._host = host
        self._key = key
        self.framework = framework

    def layers(self) -> tuple[Layer, ...]:
        """All layers; their arrays come over when they are read."""
        layers: tuple[Layer, ...] = self._host.ask(_layers, self._key)
        return tuple(
            replace(
                layer,
                arrays={
                    role: replace(array, read=partial(self._read, layer.name, role))
                    for role, array in layer.arrays.items()
                },
            )
            for layer in layers
        )

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Inputs in the network's own layout as channels last."""
        return self._call("canonical_inputs", inputs)

    def trace(self, inputs: NDArray[Any]) -> Trace:
        """Run in inference mode on channels-last inputs."""
        return self._call("trace", inputs)

    def write(self, values: Values) -> None:
        """Write canonical arrays in place."""
        self._call("write", {name: dict(arrays) for name, arrays in values.items()})

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        """Make a batch-norm layer mean what ``spec`` says."""
        return self._call("configure", layer, spec)

    def step(self, inputs: NDArray[Any], loss: Loss) -> Step:
        """One pass in training mode; the loss runs in the child."""
        return self._call("step", inputs, loss)

    def double(self) -> Network:
        """A float64 copy in the same child."""
        return RemoteNetwork(self._host, *self._host.ask(_double, self._key))

    def close(self) -> None:
        """Forget the network; the child ends with the one that it was started for."""
        if self._key == 0:
            self._host.close()
        elif self._host.alive:
            self._host.ask(_close, self._key)

    def _call(self, method: str, *arguments: object) -> Any:
        return self._host.ask(_run, self._key, method, arguments)

    def _read(self, layer: str, role: str) -> NDArray[Any]:
        return self._host.ask(_read, self._key, layer, role)


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception of the child; ``pickled`` is read only if its module is loaded here."""

    module: str
    kind: str
    text: str
    trace: str
    pickled: bytes | None

    def error(self) -> Exception:
        """The same exception, or one that names it."""
        if self.pickled is not None and self.module in sys.modules:
            error: Exception = pickle.loads(self.pickled)  # noqa: S301 - from our own child
        else:
            error = EvenkeelError(f"{self.module}.{self.kind}: {self.text}")
        error.add_note(f"in the process that hosts the network:\n{self.trace}")
        return error


class _Host:
    """The child process: one worker of an executor."""

    def __init__(self, backend: str | None) -> None:
        self.alive = True
        self._backend = backend
        self._pool = ProcessPoolExecutor(
            max_workers=1, mp_context=get_context("spawn"), initializer=_end_with_parent
        )

    def ask(self, function: Any, *arguments: object) -> Any:
        """Run one of the functions below in the child."""
        if not self.alive:
            raise InputError(
                explain(
                    asked="use a network in a process of its own",
                    got="one that was closed",
                    why="its process has ended",
                    do="open it again with open_remote",
                )
            )
        try:
            with _environment(self._backend):
                future = self._pool.submit(_guarded, function, arguments)
            answer = future.result()
        except BrokenProcessPool as error:
            self.close()
            raise EvenkeelError(
                explain(
                    asked="an answer of the process that hosts a network",
                    got="the process ended by itself",
                    why="it crashed, was killed (out of memory?), or could not start, as from a "
                    "script that lacks an 'if __name__ == \"__main__\":' around its calls",
                    do="look at what it wrote to stderr, and open the network again",
                )
            ) from error
        if isinstance(answer, _Failure):
            raise answer.error()
        return answer

    def close(self) -> None:
        """End the child."""
        self.alive = False
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _environment(backend: str | None) -> Generator[None]:
    """What the child inherits when it is started, which the first task does."""
    wanted = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    if backend is not None:
        wanted["KERAS_BACKEND"] = backend
    with _ENVIRONMENT_LOCK:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


#: In the child: every network that was opened, by key.
_networks: Final[list[Network | None]] = []
#: In the child: the layers that were asked for last, by key of their network and name.
_known: Final[dict[int, dict[str, Layer]]] = {}


def _end_with_parent() -> None:
    """End the child when the parent is gone, even while it computes."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _guarded(function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - every one belongs to the parent
        kind = type(error)
        return _Failure(
            kind.__module__,
            kind.__qualname__,
            str(error),
            traceback.format_exc(),
            _pickled(error),
        )


def _pickled(error: Exception) -> bytes | None:
    """None where it does not come back as it was."""
    try:
        pickled = pickle.dumps(error)
        again = pickle.loads(pickled)  # noqa: S301 - written in the line above
    except Exception:  # noqa: BLE001 - an exception may be anything but picklable
        return None
    return pickled if type(again) is type(error) and str(again) == str(error) else None


def _added(network: Network) -> tuple[int, str]:
    _networks.append(network)
    return len(_networks) - 1, network.framework


def _open(target: str) -> tuple[int, str]:
    return _added(open_target(target))


def _double(key: int) -> tuple[int, str]:
    return _added(_network(key).double())


def _close(key: int) -> None:
    _network(key).close()
    _networks[key] = None
    _known.pop(key, None)


def _run(key: int, method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_network(key), method)(*arguments)


def _layers(key: int) -> tuple[Layer, ...]:
    layers = _network(key).layers()
    _known[key] = {layer.name: layer for layer in layers}
    return tuple(
        replace(
            layer,
            arrays={
                role: StoredArray(array.shape, array.dtype, partial(_read, key, layer.name, role))
                for role, array in layer.arrays.items()
            },
            settings=dict(layer.settings),
        )
        for layer in layers
    )


def _read(key: int, layer: str, role: str) -> NDArray[Any]:
    return _known[key][layer].arrays[role].read()


def _network(key: int) -> Network:
    network = _networks[key]
    if network is None:
        raise InputError(
            explain(
                asked="use a copy of a network",
                got="one that was closed",
                why="its arrays are gone",
                do="make another with double()",
            )
        )
    return network


def _keras_model(path: str) -> Any:
    keras = importlib.import_module("keras")
    importlib.import_module("evenkeel.integrations.keras")  # registers the layer of evenkeel
    try:
        return keras.models.load_model(path, compile=False)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        text = str(error).strip().splitlines() or [""]
        raise InputError(
            explain(
                asked=f"open the network in {path}",
                got=f"{type(error).__name__}: {text[0]}",
                why="Keras cannot build it; a layer's class may be somebody's own and unknown here",
                do="pass module:function, a function that builds the model and loads its weights",
            )
        ) from error


def _require_file(path: str) -> None:
    from evenkeel.errors import FileError

    if not Path(path).is_file():
        raise FileError(
            explain(
                asked=f"open the network in {path}",
                got="no such file",
                why="a network is read from one",
                do="check the path",
            )
        )


def _unknown(text: str) -> InputError:
    return InputError(
        explain(
            asked="open a network",
            got=repr(text),
            why="it is no .keras or .onnx file and no callable of a module; other files hold "
            "arrays without saying how they are computed with",
            do="pass the model itself, or the name of a function that builds it, module:function",
        )
    )
