"""What all batch-norm layers share: settings, buffers that stay float32, the training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import (
    _NormBase,  # pyright: ignore[reportPrivateUsage] - the base of torch's own layers
)
from torch.nn.parameter import is_lazy

from evenkeel.errors import TransformError, explain
from evenkeel.nn import _checks
from evenkeel.nn._composite import normalize_running
from evenkeel.nn._quick import train_step
from evenkeel.nn._statistics import (
    POLICIES,
    VARIANCES,
    Policy,
    Rule,
    Running,
    Variance,
    commit,
    refuse_nonfinite,
    report_skipped,
)
from evenkeel.nn._strict import is_strict
from evenkeel.nn._torch_state import jit_tracing, path_from_caller
from evenkeel.nn.ops import normalize_batch
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from torch.fx import Proxy

    from evenkeel.kernels import Moments

Init = float | Callable[[Tensor], object]
#: A layer's weight, bias, running mean and running variance.
Own = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Extras(TypedDict, total=False):
    """The keyword-only settings beyond torch's, with their defaults in `NormCore._extras`."""

    bias: bool
    variance: Variance
    weight_init: Init
    bias_init: Init
    nonfinite: Policy


_HALF: Final = (torch.bfloat16, torch.float16)
_STATISTICS: Final = ("running_mean", "running_var")


class NormCore(_NormBase):
    """Mixin over torch's `_NormBase`: evenkeel's training step and its keyword-only extras."""

    _ranks: tuple[int, ...] = ()
    # Defaults for a layer that was pickled, or became ours, without them.
    activation: Activation = IDENTITY
    variance: Variance = "unbiased"
    nonfinite: Policy = "skip"
    inplace = False
    weight_init: Init = 1.0
    bias_init: Init = 0.0
    _reported = 0

    def _extras(
        self,
        *,
        bias: bool = True,
        variance: Variance = "unbiased",
        weight_init: Init = 1.0,
        bias_init: Init = 0.0,
        nonfinite: Policy = "skip",
        **unknown: object,
    ) -> None:
        """Take the keyword-only settings; called once the tensors exist."""
        for name in unknown:
            kind = type(self).__name__
            raise TypeError(f"{kind}() got an unexpected keyword argument {name!r}")
        _checks.check_choice("variance", variance, VARIANCES, self._label)
        _checks.check_choice("nonfinite", nonfinite, POLICIES, self._label)
        self.variance, self.nonfinite = variance, nonfinite
        self.weight_init, self.bias_init = weight_init, bias_init
        if not bias:
            self.register_parameter("bias", None)
        self._count_from_zero()
        self._keep_statistics_wide()
        self.reset_parameters()

    def _count_from_zero(self) -> None:
        # A plain tensor, no buffer: torch's layers count 2C + 1 buffers, and DDP broadcasts each.
        device = None if self.num_batches_tracked is None else self.num_batches_tracked.device
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._reported = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_skipped" not in self.__dict__:
            self._count_from_zero()

    def __prepare_scriptable__(self) -> None:
        """Refuse ``torch.jit.script``, which cannot compile a subclass, with a way out."""
        raise TransformError(
            explain(
                asked=f"torch.jit.script of {self._label()}",
                got="a layer that is a subclass of torch's, or has an activation inside",
                why="the scripting compiler knows torch's own classes only",
                do="ek.release(model) gives torch's classes back; or use torch.export or "
                "torch.jit.trace on the model in eval() mode, or torch.compile to train",
            )
        )

    def reset_running_stats(self) -> None:
        """Running mean 0, running variance 1, counters 0."""
        super().reset_running_stats()
        self._count_from_zero()

    def reset_parameters(self) -> None:
        """Reset the statistics, and weight and bias to ``weight_init`` and ``bias_init``."""
        super().reset_parameters()
        _fill(self.weight, self.weight_init)
        _fill(self.bias, self.bias_init)

    @property
    def nonfinite_batches(self) -> int:
        """How many batches with NaN or Inf were kept out of the running statistics."""
        return int(self._skipped)

    # Statistics stay float32 (float64 for a float64 layer).

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: self._buffers.get(name) for name in _STATISTICS}
        result = super()._apply(fn, recurse)
        if not is_strict():
            for name, old in before.items():
                new = self._buffers.get(name)
                narrow = new is not None and new.dtype in _HALF and not is_lazy(new)
                if old is not None and new is not None and narrow:
                    self._buffers[name] = old.to(device=new.device, dtype=torch.float32)
        skipped = fn(self._skipped)
        fresh = self._skipped.is_meta and not skipped.is_meta  # to_empty: no value to move
        self._skipped = torch.zeros_like(skipped) if fresh else skipped
        return result

    def _keep_statistics_wide(self) -> None:
        """Make 16-bit statistics float32 again, however they came (assign=True, FSDP)."""
        for name in _STATISTICS:
            value = self._buffers.get(name)
            if value is not None and value.dtype in _HALF and not is_lazy(value):
                if is_strict():
                    return
                self._buffers[name] = value.float()

    # Warn on the way out of training, where a compiled commit could only count.

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode; going to evaluation reports kept-out batches."""
        if not mode:
            self._report()
        return super().train(mode)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._report()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _report(self) -> None:
        if not torch.compiler.is_compiling():
            self._reported = report_skipped(self._skipped, self._reported, self._label)

    # The forward pass.

    def _check_input_dim(self, input: Tensor) -> None:
        _checks.check_rank(input, self._ranks, self._label)

    def _check(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Own:
        """Refuse what cannot be normalized, before anything has changed; return what is there."""
        label = self._label
        self._check_input_dim(x)
        self._keep_statistics_wide()
        own = self.weight, self.bias, self.running_mean, self.running_var
        _checks.check_dtype(x, own[:2], label)
        if jit_tracing():  # shapes are tensors there, and asking one warns
            return own
        _checks.check_channels(x, (own[2], own[0]), label)
        _checks.check_residual(x, residual, label)
        _checks.check_mask(x, mask, label)
        return own

    def _run(
        self,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        activation: Activation | None = None,
    ) -> Tensor:
        """Normalize with the batch or with the running statistics."""
        how = activation or self.activation
        if self.training and self.track_running_stats and mask is None and not self.inplace:
            y = train_step(self, x, residual, how)
            if y is not None:
                return y
        own = self._check(x, residual, mask)
        if self.training or own[2] is None or own[3] is None:
            return self._with_batch_statistics(x, own, residual, mask, how)
        return self._with_running_statistics(x, own, residual, mask, how)

    def _with_batch_statistics(
        self,
        x: Tensor,
        own: Own,
        residual: Tensor | None,
        mask: Tensor | None,
        activation: Activation,
    ) -> Tensor:
        label = self._label
        _checks.check_eps(self.eps, label)
        if not jit_tracing():
            _checks.check_enough_values(x, label)
        y, moments = self._normalize_batch(x, own, residual, mask, activation)
        mean, var = own[2:]
        if self.training and self.track_running_stats and mean is not None and var is not None:
            running = Running(mean, var, self.num_batches_tracked, self._skipped)
            if commit(running, moments, self._rule(), label):
                self._reported = 1
        elif self._rule().nonfinite == "raise":
            refuse_nonfinite(moments, label)
        return y

    def _normalize_batch(
        self,
        x: Tensor,
        own: Own,
        residual: Tensor | None,
        mask: Tensor | None,
        activation: Activation,
    ) -> tuple[Tensor, Moments]:
        return normalize_batch(x, *own[:2], self.eps, activation, residual, mask)

    def _rule(self) -> Rule:
        if is_strict():
            return Rule(self.momentum, self.variance, "propagate", count_empty=True)
        return Rule(self.momentum, self.variance, self.nonfinite)

    def _with_running_statistics(
        self,
        x: Tensor,
        own: Own,
        residual: Tensor | None,
        mask: Tensor | None,
        activation: Activation,
    ) -> Tensor:
        """Lower to aten's batch norm, so that exported graphs hold no op of evenkeel."""
        weight, bias = own[:2]
        mean, var = cast("tuple[Tensor, Tensor]", own[2:])
        return normalize_running(x, mean, var, weight, bias, self.eps, activation, residual, mask)

    # How the layer names itself.

    def _label(self) -> str:
        kind = f"{type(self).__name__}({self.num_features})"
        path = None if torch.compiler.is_compiling() else path_from_caller(self)
        return f"{kind} at {path!r}" if path else kind

    def extra_repr(self) -> str:
        """Torch's text, and the extras that differ from its behaviour."""
        extras = []
        if self.variance != "unbiased":
            extras.append(f"variance={self.variance!r}")
        if self.nonfinite != "skip":
            extras.append(f"nonfinite={self.nonfinite!r}")
        if self.activation != IDENTITY:
            slope = f", {self.activation.parameter:g}" if self.activation.parameter else ""
            extras.append(f"activation={self.activation.name}{slope}")
        return ", ".join([super().extra_repr(), *extras])


def leaf_call(layer: torch.nn.Module, x: Proxy, *rest: Any) -> Tensor:
    """Record one ``call_module`` node, as torch.fx does for the layers of ``torch.nn``."""
    tracer = x.tracer
    path = tracer.path_of_module(layer)  # type: ignore[attr-defined] - the Tracer that found x
    return cast("Tensor", tracer.create_proxy("call_module", path, (x, *rest), {}))


def _fill(parameter: Tensor | None, how: Init) -> None:
    if parameter is None or is_lazy(parameter):
        return
    with torch.no_grad():
        if callable(how):
            how(parameter)
        else:
            parameter.fill_(how)
