"""Where a block's code has a batch norm with an addition or an activation behind it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.fx import Node
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from evenkeel.spec import IDENTITY, Activation
from evenkeel.tools._adopt._activations import activation_of, does_nothing, is_watched
from evenkeel.tools._adopt._followed import followed, in_place

if TYPE_CHECKING:
    from torch.fx import Graph

_ADDITIONS: Final = (operator.add, torch.add, "add")

#: Functions, and names of methods -> name and default parameter of the activation.
_FUNCTIONS: Final[dict[Any, tuple[str, float]]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_"), ("relu", 0.0)),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), ("leaky_relu", 0.01)),
    F.relu6: ("relu6", 0.0),
    F.silu: ("silu", 0.0),
    F.gelu: ("gelu", 0.0),
    F.hardswish: ("hardswish", 0.0),
}


@dataclass(frozen=True, slots=True)
class Site:
    """One call of a batch norm, and what becomes one pass with it.

    Args:
        layer: path of the batch norm in its block.
        adds: whether a residual is added.
        activation: what is applied last.
    """

    layer: str
    adds: bool
    activation: Activation

    def __str__(self) -> str:
        return f"{self.layer} + {self.partners}"

    @property
    def partners(self) -> str:
        """What follows the batch norm, in words."""
        applied = [] if self.activation == IDENTITY else [self.activation.name]
        return " + ".join(["add"] * self.adds + applied)


@dataclass(slots=True)
class _Chain:
    """The nodes from a batch norm to the last operation that can be fused with it."""

    norm: Node
    nodes: list[Node]
    residual: Node | None = None
    keep: bool = False
    #: Path of the activation module, or what was called.
    then: str | tuple[str, float] | None = None
    activation: Activation | None = None
    #: Why it ends there.
    reason: str = ""


def fuse_sites(
    graph: Graph, block: nn.Module, layers: set[nn.Module]
) -> list[tuple[str, Site | str]]:
    """Rewrite a graph so that batch norms are called with what follows them.

    Args:
        graph: of the block's own code; changed.
        block: what the paths in the graph start from.
        layers: the batch norms that may be fused.

    Returns:
        Path of the batch norm in each call, and what it was fused with, or why it was not.
    """
    found: list[tuple[str, Site | str]] = []
    for node in list(graph.nodes):
        if node.op == "call_module" and block.get_submodule(node.target) in layers:
            chain = _follow(node, block)
            if chain.residual is None and chain.activation is None:
                found.append((node.target, chain.reason))
            else:
                _rewrite(graph, chain)
                how = chain.activation or IDENTITY
                found.append((node.target, Site(node.target, chain.residual is not None, how)))
    return found


def _follow(norm: Node, block: nn.Module) -> _Chain:
    chain = _Chain(norm, [norm])
    if len(norm.args) != 1 or norm.kwargs:
        chain.reason = "it is called with more than its input"
    elif is_watched(block.get_submodule(str(norm.target))):
        chain.reason = "it has hooks, which would see another output"
    else:
        _take_addition(chain, block)
        _take_activation(chain, block)
    return chain


def _take_addition(chain: _Chain, block: nn.Module) -> None:
    passed, user = _only_user(chain.nodes[-1], block)
    if user is None or not _may_move(chain, user, block):
        return
    summands, keeps = _summands(user)
    if len(summands) != 2:
        return
    (left, right), last = summands, passed[-1]
    if keeps and left is not last:
        return  # it is added into the residual, which somebody else may read
    other = right if left is last else left
    if isinstance(other, Node) and other is not last:
        chain.residual, chain.keep = other, keeps
        chain.nodes += [*passed[1:], user]


def _summands(node: Node) -> tuple[tuple[Any, ...], bool]:
    """What a node adds, and whether into the first of them; nothing if it is no plain addition."""
    if node.kwargs or node.op not in ("call_function", "call_method"):
        return (), False
    if node.target is in_place and node.args[0] == "iadd":
        return node.args[1:], True
    if node.target == "add_":
        return node.args, True
    return (node.args if node.target in _ADDITIONS else ()), False


def _take_activation(chain: _Chain, block: nn.Module) -> None:
    passed, user = _only_user(chain.nodes[-1], block)
    if user is None:
        chain.reason = f"its result goes to {_uses(passed[-1])}"
        return
    target = _activation_target(user, passed[-1], block)
    if target is None:
        chain.reason = f"{_called(user, block)} follows"
        if user.target is followed:
            chain.reason = "another batch norm adds it in its own pass"
        return
    then = block.get_submodule(target) if isinstance(target, str) else target
    how = activation_of(then)
    if how is None:
        watched = isinstance(then, nn.Module) and is_watched(then)
        why = "has hooks" if watched else "is none that the kernels know"
        chain.reason = f"the activation {_called(user, block)} {why}"
    elif not _may_move(chain, user, block):
        chain.reason = "other code writes in place before the activation"
    else:
        chain.then, chain.activation = target, how
        chain.nodes += [*passed[1:], user]


def _only_user(node: Node, block: nn.Module) -> tuple[list[Node], Node | None]:
    """The one node that uses a result, behind ``nn.Identity``; and the nodes up to it."""
    passed = [node]
    while len(node.users) == 1:
        user = next(iter(node.users))
        if not _is_identity(user, block):
            return passed, (user if user.op != "output" else None)
        node = user
        passed.append(node)
    return passed, None


def _is_identity(node: Node, block: nn.Module) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    return does_nothing(block.get_submodule(str(node.target)))


def _activation_target(user: Node, last: Node, block: nn.Module) -> str | tuple[str, float] | None:
    """The path of an activation module, or what a function or method computes."""
    if not user.args or user.args[0] is not last:
        return None
    if user.op == "call_module":
        module = block.get_submodule(str(user.target))
        elementwise = type(module).__module__ == "torch.nn.modules.activation"
        return str(user.target) if elementwise and len(user.args) == 1 else None
    if user.op == "output" or user.target not in _FUNCTIONS:
        return None
    name, parameter = _FUNCTIONS[user.target]
    options = ("negative_slope", "inplace") if name == "leaky_relu" else ("inplace",)
    rest: dict[str, Any] = {**dict(zip(options, user.args[1:], strict=False)), **user.kwargs}
    rest.pop("inplace", None)
    parameter = rest.pop("negative_slope", parameter)
    plain = rest.pop("approximate", "none") == "none" and not rest
    return (name, float(parameter)) if plain and isinstance(parameter, int | float) else None


def _may_move(chain: _Chain, end: Node, block: nn.Module) -> bool:
    """Whether the batch norm may run as late as ``end``.

    Nothing between them may use its input, which could be to write into it, or write in place
    into what may be the same memory.
    """
    mine, node = {*chain.nodes}, chain.norm.next
    x = chain.norm.args[0]
    while node is not end:
        if node not in mine and (x in node.all_input_nodes or _writes(node, block)):
            return False
        node = node.next
    return True


def _writes(node: Node, block: nn.Module) -> bool:
    """Whether a node looks as if it wrote into an argument."""
    if node.op == "call_module":
        return bool(getattr(block.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        name.endswith("_")
        or node.target is in_place
        or bool(node.kwargs.get("inplace"))
        or "out" in node.kwargs
    )


def _rewrite(graph: Graph, chain: _Chain) -> None:
    """Put one call in the place of the last node of a chain, and take the others out."""
    end = chain.nodes[-1]
    with graph.inserting_before(end):
        layer = graph.create_node("get_attr", str(chain.norm.target))
        then: Any = chain.then
        if isinstance(then, str):
            then = graph.create_node("get_attr", then)
        rest: list[Any] = [then]
        if chain.residual is not None:
            rest += [chain.residual, chain.keep]
        fused = graph.call_function(followed, (layer, chain.norm.args[0], *rest))
    end.replace_all_uses_with(fused)
    for node in reversed(chain.nodes):
        graph.erase_node(node)


def _uses(node: Node) -> str:
    """Where a result goes, in words."""
    users = list(node.users)
    if len(users) != 1:
        return f"{len(users)} places"
    return "the block's caller"


def _called(node: Node, block: nn.Module) -> str:
    """What a node calls, in words."""
    if node.target is in_place:
        return f"operator.{node.args[0]}"
    if node.op == "call_module":
        return f"{type(block.get_submodule(str(node.target))).__name__} {str(node.target)!r}"
    return str(getattr(node.target, "__name__", node.target))
