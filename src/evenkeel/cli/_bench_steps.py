"""``evenkeel bench-steps``: training steps of whole networks, with time and memory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from evenkeel.cli._benching import counting, default_threads, names_of, peers_of, print_tables
from evenkeel.cli._output import print_json

if TYPE_CHECKING:
    from evenkeel.bench import StepRecord


def bench_steps(
    network: Annotated[
        str, typer.Option(help="resnet50, mobilenet_v2, or both by commas.")
    ] = "resnet50,mobilenet_v2",
    peers: Annotated[
        str, typer.Option(help="torch, compile, evenkeel, evenkeel-fused; all by default.")
    ] = "",
    layout: Annotated[str, typer.Option(help="Channels first, last, or first,last.")] = "first",
    batch: Annotated[int, typer.Option(min=2, help="Images in a batch.")] = 32,
    pixels: Annotated[int, typer.Option(min=32, help="Height and width of an image.")] = 224,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each peer.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; as many as torch would use.")
    ] = None,
    huge_pages: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--huge-pages", help="Give every peer huge pages (glibc on Linux).")
    ] = False,
    patience: Annotated[
        float, typer.Option(help="Seconds for one answer; compiling a network takes minutes.")
    ] = 1200,
    csv: Annotated[Path | None, typer.Option(help="File to add the records to.")] = None,
    as_json: Annotated[  # noqa: FBT002 - likewise
        bool, typer.Option("--json", help="Print the same records as JSON.")
    ] = False,
) -> None:
    """Time whole training steps with torch's batch norm, compiled, and with evenkeel's.

    A step is forward, loss, backward and SGD with momentum, in float32, on one batch of random
    images. Each peer runs in a process of its own, in turns. Memory is what is resident in the
    process, and what the forward pass saves for the backward pass. Networks are torchvision's.

    Examples:
        evenkeel bench-steps

        evenkeel bench-steps --network mobilenet_v2 --batch 8 --peers torch,evenkeel-fused
    """
    from evenkeel import bench

    networks = [
        bench.Network(name=name, batch=batch, pixels=pixels, layout=order)
        for name in names_of("--network", network, bench.NETWORKS)
        for order in names_of("--layout", layout, bench.LAYOUTS)
    ]
    chosen = peers_of(peers, bench.VARIANTS)  # after what was typed: what is installed
    workers = threads or default_threads()
    where = bench.setting(threads=workers, huge_pages=huge_pages)
    records: list[StepRecord] = []
    with counting("networks") as progress:
        for timing, memory in bench.measure_steps(
            networks,
            chosen,
            threads=workers,
            rounds=rounds,
            huge_pages=huge_pages,
            patience=patience,
            progress=progress,
        ):
            records.append(bench.step_record(timing, memory, where))
            if csv is not None:
                bench.append(csv, records[-1:])
    if as_json:
        print_json({"records": [asdict(one) for one in records]})
        return
    from evenkeel.bench._tables import step_tables

    print_tables(step_tables(records))
