"""The configuration of a Keras batch-norm layer as Spec, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import InputError, explain
from evenkeel.spec import Momentum, Renorm, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What Keras's own settings are when nobody says otherwise: class name of the object, or None.
_OBJECTS: Final = {
    "beta_initializer": "Zeros",
    "gamma_initializer": "Ones",
    "moving_mean_initializer": "Zeros",
    "moving_variance_initializer": "Ones",
    "beta_regularizer": None,
    "gamma_regularizer": None,
    "beta_constraint": None,
    "gamma_constraint": None,
}
#: Options of Spec that are arguments of the constructor by the same name.
OPTIONS: Final = (*_OBJECTS, "dtype", "nonfinite")
_CLIPPING: Final = {"rmin": "r_min", "rmax": "r_max", "dmax": "d_max"}


def read_config(
    config: Mapping[str, Any],
    *,
    channels: int,
    rank: int | None,
    parameter_dtype: str,
    statistics_dtype: str,
    name: str,
    class_name: str | None = None,
    variance: str | None = None,
) -> Spec:
    """The description that a configuration gives.

    Args:
        config: as ``get_config`` writes it, of Keras 3 or Keras 2.
        channels: from the arrays.
        rank: of the input that the layer was built for, or None.
        parameter_dtype: from the arrays.
        statistics_dtype: from the arrays.
        name: of the layer.
        class_name: where the layer's class has arithmetic of its own.
        variance: convention, where the configuration does not say it.

    Raises:
        InputError: the layer normalizes several axes, or a number is impossible.
    """
    value = config.get("momentum", 0.99)
    frozen = not config.get("trainable", True)
    affine = bool(config.get("scale", True)) or bool(config.get("center", True))
    settings: dict[str, Any] = {
        "channels": channels,
        "eps": float(config.get("epsilon", 1e-3)),
        "momentum": Momentum.cumulative() if value is None else Momentum(float(value), "old"),
        "scale": bool(config.get("scale", True)),
        "offset": bool(config.get("center", True)),
        "variance": config.get("variance") or variance or "biased",
        "axis": _axis(config.get("axis", -1), name),
        "rank": rank,
        "parameter_dtype": parameter_dtype,
        "statistics_dtype": statistics_dtype,
        "affine_frozen": frozen and affine,
        "statistics_frozen": frozen,
        "synchronized": bool(config.get("synchronized", False)),
        "renorm": _renorm(config),
        "name": name,
        "options": _options(config, class_name),
    }
    return Spec(**settings)


def write_config(spec: Spec) -> dict[str, Any]:
    """Arguments of the constructor of a batch-norm layer that means what ``spec`` says."""
    config: dict[str, Any] = {
        "axis": spec.axis,
        "momentum": spec.momentum.as_weighing("old").value,
        "epsilon": spec.eps,
        "center": spec.offset,
        "scale": spec.scale,
        "trainable": not spec.statistics_frozen,
        "synchronized": spec.synchronized,
        "dtype": spec.parameter_dtype,
    }
    if spec.renorm is not None:
        bounds = {key: getattr(spec.renorm, field) for key, field in _CLIPPING.items()}
        config |= {
            "renorm": True,
            "renorm_clipping": {key: value for key, value in bounds.items() if value is not None},
            "renorm_momentum": spec.renorm.momentum.as_weighing("old").value,
        }
    if spec.name:
        config["name"] = spec.name.replace("/", "_")
    return config | {key: spec.options[key] for key in OPTIONS if key in spec.options}


def _axis(axis: Any, name: str) -> int:
    numbers = [axis] if isinstance(axis, int) else [*axis]
    if len(numbers) != 1:
        raise InputError(
            explain(
                asked=f"read the batch-norm layer {name!r}",
                got=f"axis={axis!r}",
                why="a layer with several channel axes has one mean per combination of them",
                do="reshape the input so that one axis holds the channels",
            )
        )
    return int(numbers[0])


def _renorm(config: Mapping[str, Any]) -> Renorm | None:
    if not config.get("renorm"):
        return None
    clipping = config.get("renorm_clipping") or {}
    bounds = {field: clipping.get(key) for key, field in _CLIPPING.items()}
    return Renorm(Momentum(float(config.get("renorm_momentum", 0.99)), "old"), **bounds)


def _options(config: Mapping[str, Any], class_name: str | None) -> dict[str, Any]:
    """Settings that only Keras understands, where they are not Keras's defaults."""
    options = {
        key: config[key]
        for key, usual in _OBJECTS.items()
        if key in config and _class_of(config[key]) != usual
    }
    policy = config.get("dtype")
    if not _is_plain(policy):
        options["dtype"] = policy
    # What every framework's own layer does goes without saying.
    if config.get("nonfinite", "propagate") != "propagate":
        options["nonfinite"] = config["nonfinite"]
    if class_name is not None:
        options["class"] = class_name
    return options


def _class_of(value: Any) -> str | None:
    if isinstance(value, dict):
        return value.get("class_name")
    return value.capitalize() if isinstance(value, str) and value in {"zeros", "ones"} else value


def _is_plain(policy: Any) -> bool:
    """Whether variables and computation have the same dtype, which the arrays tell."""
    if isinstance(policy, dict):
        if policy.get("class_name", "Policy") not in {"DTypePolicy", "Policy"}:
            return False
        policy = policy.get("config", {}).get("name", "")
    return not str(policy).startswith("mixed_")
