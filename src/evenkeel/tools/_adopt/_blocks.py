"""Fuses batch norms with what follows them in the code of the block that calls them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from torch import nn
from torch.fx import graph_module
from torch.package.importer import sys_importer

from evenkeel.tools._adopt._activations import is_watched
from evenkeel.tools._adopt._classes import become_original, become_rewritten, original_class
from evenkeel.tools._adopt._sites import Site, fuse_sites
from evenkeel.tools._adopt._trace import UntraceableError, trace_own_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import fx

_CONTAINERS: Final = (nn.ModuleList, nn.ModuleDict)
_WAYS: Final = [(training, tensors) for training in (True, False) for tensors in (True, False)]


def fuse_blocks(model: nn.Module, layers: set[nn.Module]) -> dict[nn.Module, list[Site | str]]:
    """Rewrite every block that calls one of these batch norms.

    Returns:
        For each batch norm what each of its calls is fused with, or why it is not; those of the
        outermost block last.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, list[Site | str]] = {layer: [] for layer in layers}
    owned_by = _owners(modules, layers)
    inside_out = [block for block in reversed(dict.fromkeys(modules.values())) if block in owned_by]
    for block in inside_out:
        try:
            outcomes = fuse_block(block, layers)
        except UntraceableError as error:
            for layer in owned_by[block]:
                found[layer].append(str(error))
            continue
        for path, sites in outcomes.items():
            found[block.get_submodule(path)] += sites
    return found


def _owners(
    modules: dict[str, nn.Module], layers: set[nn.Module]
) -> dict[nn.Module, set[nn.Module]]:
    """Blocks that should call batch norms -> which.

    A module list calls nothing; the block that holds it does. What follows a Sequential that
    ends in a batch norm stands in the code of the block around it.
    """
    found: dict[nn.Module, set[nn.Module]] = defaultdict(set)
    for name, module in modules.items():
        if module in layers:
            for owner in _around(name, modules):
                found[owner].add(module)
                if not _ends_in_norm(owner, layers):
                    break
    return found


def _around(name: str, modules: dict[str, nn.Module]) -> Iterator[nn.Module]:
    """The modules that may call the one of this name, from the inside."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], _CONTAINERS):
            yield modules[name]


def _ends_in_norm(module: nn.Module, layers: set[nn.Module]) -> bool:
    """Whether it is a Sequential whose last part is a batch norm, or such a Sequential again."""
    kind = original_class(module) or type(module)
    if kind.forward is not nn.Sequential.forward or is_watched(module):
        return False
    *_, last = module.children()
    return last in layers or _ends_in_norm(last, layers)


def _inlined(block: nn.Module, layers: set[nn.Module]) -> Iterator[nn.Module]:
    for child in block.children():
        if _ends_in_norm(child, layers):
            yield child
            yield from _inlined(child, layers)


def fuse_block(block: nn.Module, layers: set[nn.Module]) -> dict[str, list[Site | str]]:
    """Rewrite one block.

    Args:
        block: a module whose own code calls batch norms.
        layers: those that may be fused.

    Returns:
        Path of each batch norm that its code calls -> what it is fused with, or why it is not,
        for each of the calls.

    Raises:
        UntraceableError: the code cannot be known beforehand.
    """
    if original_class(block) is not None:
        become_original(block)  # rewritten before, perhaps when it had other children
    _require_plain_object(block)
    inlined = list(_inlined(block, layers))
    found: dict[str, list[Site | str]] = {}
    sources: list[tuple[tuple[bool, bool], str]] = []
    for training, tensors in _WAYS:
        try:
            graph = trace_own_code(block, inlined, training=training, tensors=tensors)
        except UntraceableError:
            if tensors:
                raise
            continue  # code that takes nothing but tensors
        for path, outcome in fuse_sites(graph, block, layers):
            known = found.setdefault(path, [])
            known += [outcome] * (outcome not in known)
        sources.append(((training, tensors), _source(graph)))
    sites = [str(one) for outcomes in found.values() for one in outcomes if isinstance(one, Site)]
    if sites:
        try:
            become_rewritten(block, tuple(sources), tuple(sites), inlined)
        except (SyntaxError, ImportError) as error:
            raise UntraceableError(f"its code cannot be written down: {error}") from error
    return found


def _source(graph: fx.Graph) -> str:
    code = graph.python_code("self")
    imports = graph_module._format_import_block(code.globals, sys_importer)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as torch.fx pickles a graph
    return f"{imports}\n{code.src}"


def _require_plain_object(block: nn.Module) -> None:
    kind = type(block)
    if "forward" in vars(block):
        raise UntraceableError("somebody has put another forward() into its block")
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        raise UntraceableError(f"its block, a {kind.__name__}, has a way of its own to be pickled")
