"""``inspect``: rows, findings, tables, and that it changes nothing."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import evenkeel
from evenkeel.errors import FileError, InputError
from evenkeel.spec import Momentum
from evenkeel.tools import Inspection, Range, inspect


def trained(**settings: object) -> nn.BatchNorm1d:
    """A layer of eight channels that has seen ordinary data."""
    torch.manual_seed(0)
    module = nn.BatchNorm1d(8, **settings)
    for _ in range(20):
        module(torch.randn(64, 8))
    return module


def with_values(**values: float) -> nn.BatchNorm1d:
    """A trained layer with one value replaced in the first channel of each named array."""
    module = trained()
    for name, value in values.items():
        getattr(module, name).data[0] = value
    return module


def codes(report: Inspection) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in report.findings]


def test_a_healthy_layer_has_a_row_and_no_finding():
    module = trained()
    report = inspect(nn.Sequential(nn.Linear(3, 8), module))
    assert report.findings == ()
    assert not report.suspicious
    (row,) = report.rows
    assert (row.name, row.kind, row.channels, row.mode) == ("1", "BatchNorm1d", 8, "train")
    assert (row.eps, row.momentum, row.variance) == (1e-5, Momentum(0.1, "new"), "unbiased")
    assert (row.affine, row.batches) == (("weight", "bias"), 20)
    assert (row.parameter_dtype, row.statistics_dtype) == ("float32", "float32")
    assert (row.parameters, row.buffers) == (16, 17)  # 2C and 2C + 1
    mean = module.running_mean
    assert row.running_mean == Range(float(mean.min()), float(mean.max()))
    assert row.weight == Range(1.0, 1.0)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (with_values(running_mean=float("nan")), ("error", "non-finite")),
        (with_values(running_var=float("inf")), ("error", "non-finite")),
        (with_values(weight=float("nan")), ("error", "non-finite")),
        (with_values(running_var=-1e-6), ("error", "negative-variance")),
        (with_values(running_var=0.0), ("warning", "dead-channels")),
        (with_values(running_var=0.9e-7), ("warning", "dead-channels")),
        (with_values(weight=1e-5), ("note", "zero-scale")),
        (with_values(running_mean=1.2e3), ("warning", "cancellation")),
        (trained(momentum=0.99), ("warning", "momentum")),
        (trained(momentum=0.9), ("warning", "momentum")),
        (trained(momentum=1.5), ("warning", "momentum")),
        (trained(eps=1e-3), ("note", "eps")),
        (trained(track_running_stats=False), ("note", "no-statistics")),
        (trained().half(), ("warning", "16-bit-statistics")),
        (trained().bfloat16(), ("warning", "16-bit-statistics")),
    ],
)
def test_each_suspicious_value_is_marked(module, found):
    report = inspect(module)
    assert codes(report) == [found]
    assert report.suspicious == (found[0] != "note")


@pytest.mark.parametrize(
    "module",
    [
        with_values(running_var=1.1e-7),
        with_values(weight=1.1e-3),
        with_values(running_mean=500.0),
        trained(momentum=0.5),
        trained(momentum=None),
        trained(eps=1e-4),
        trained().double(),
    ],
)
def test_what_is_in_order_is_not_marked(module):
    assert codes(inspect(module)) == []


def test_the_evidence_counts_channels():
    module = trained()
    module.running_mean[2] = float("nan")
    module.running_mean[5] = float("inf")
    (finding,) = inspect(module).findings
    assert finding.text == "running_mean: 1 NaN, 1 Inf in 2 of 8 channels (25.0%), first is 2"


def test_non_finite_values_stay_out_of_the_ranges():
    module = with_values(running_mean=float("nan"))
    (row,) = inspect(module).rows
    rest = module.running_mean[1:]
    assert row.running_mean == Range(float(rest.min()), float(rest.max()))
    module.running_mean.fill_(float("nan"))
    assert inspect(module).rows[0].running_mean is None


def test_a_share_of_dead_channels_decides_its_weight():
    module = nn.BatchNorm1d(100)
    module(torch.randn(50, 100))
    module.running_var[:9] = 0
    assert codes(inspect(module)) == [("note", "dead-channels")]
    module.running_var[:10] = 0
    assert codes(inspect(module)) == [("warning", "dead-channels")]


def test_a_fresh_model_is_only_noted_while_it_trains():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    assert codes(inspect(model)) == [("note", "never-updated")] * 2
    assert codes(inspect(copy.deepcopy(model).eval())) == [("warning", "never-updated")] * 2
    model[0](torch.randn(4, 2))
    assert [(f.layer, f.severity) for f in inspect(model).findings] == [("1", "warning")]


def test_zero_initialization_is_told_from_dying_scales():
    fresh = nn.BatchNorm1d(8)
    nn.init.zeros_(fresh.weight)
    assert ("note", "zero-scale") in codes(inspect(fresh))
    old = trained()
    nn.init.zeros_(old.weight)
    assert codes(inspect(old)) == [("warning", "zero-scale")]


def test_statistics_that_never_moved_are_found():
    module = nn.BatchNorm1d(2, momentum=0.0)
    module(torch.randn(4, 2))
    assert codes(inspect(module)) == [("warning", "not-moving"), ("note", "momentum")]


def test_counter_zero_with_statistics_is_fine_unless_the_average_is_cumulative():
    module = trained()
    module.num_batches_tracked.zero_()
    assert codes(inspect(module)) == []
    module.momentum = None
    assert codes(inspect(module)) == [("warning", "counter-reset")]


def test_layers_that_cannot_be_read_do_not_hide_the_others():
    broken = trained()
    broken.running_mean = torch.zeros(3)
    meta = nn.BatchNorm1d(4, device="meta")
    report = inspect(nn.Sequential(trained(), broken, nn.LazyBatchNorm1d(), meta))
    assert [row.channels for row in report.rows] == [8, 8, None, 4]
    found = [(f.layer, f.severity, f.code) for f in report.findings]
    assert found == [
        (n, s, "unreadable") for n, s in [("1", "error"), ("2", "note"), ("3", "note")]
    ]


def test_settings_that_nothing_accepts_are_an_error():
    module = trained()
    module.eps = -1.0
    assert codes(inspect(module)) == [("error", "unreadable")]
    assert inspect(module).rows[0].running_var is not None


def test_a_shared_layer_is_listed_once():
    shared = trained()
    assert [r.name for r in inspect(nn.Sequential(shared, nn.ReLU(), shared)).rows] == ["0"]


def test_nothing_is_changed():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LazyBatchNorm2d()).train()
    model[1].eval()
    seed = torch.get_rng_state()
    before = {n: t.clone() for n, t in model[1].state_dict().items()}
    versions = {n: t._version for n, t in model[1].state_dict().items()}
    names = {id(m): dict(vars(m)) for m in model.modules()}
    inspect(model)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    for name, tensor in model[1].state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor._version == versions[name]
    assert torch.equal(torch.get_rng_state(), seed)
    assert {id(m): dict(vars(m)) for m in model.modules()} == names


def test_a_checkpoint_says_what_it_does_not_store(tmp_path):
    model = nn.Sequential(trained(), trained().bfloat16())
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "a.pt")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    report = inspect(tmp_path / "a.pt")
    for row, live in zip(report.rows, inspect(model).rows, strict=True):
        assert (row.eps, row.momentum, row.variance, row.mode) == (None, None, None, None)
        assert row.running_var == live.running_var
        assert (row.parameters, row.buffers) == (live.parameters, live.buffers)
    assert codes(report) == [("warning", "16-bit-statistics")]
    assert report.remarks == ("read from model", "not looked at: epoch")
    assert "not stored with the weights" in str(report)
    assert "not stored" not in str(inspect(model))
    other = inspect(str(tmp_path / "a.safetensors"))
    assert (other.rows, other.findings) == (report.rows, report.findings)
    assert inspect(model.state_dict()).rows == report.rows


def test_a_damaged_layer_of_a_checkpoint_is_a_finding(tmp_path):
    arrays = {"a.running_mean": torch.ones(2), "a.running_var": torch.ones(3)}
    arrays |= {f"b.{name}": tensor for name, tensor in trained().state_dict().items()}
    report = inspect(arrays)
    assert [(f.layer, f.severity) for f in report.findings] == [("a", "error")]
    assert report.rows[1].channels == 8


def test_the_table_fits_and_names_survive():
    long = {
        "features": nn.ModuleDict({"a_rather_long_name_of_a_block_" * 3: with_values(bias=-123.4)})
    }
    model = nn.ModuleDict({**long, "ok": trained(eps=1e-3), "n": nn.BatchNorm1d(3, momentum=None)})
    with torch.no_grad():
        model["ok"].weight[0], model["ok"].running_mean[1] = -1.23e-12, 4.56e17
    text = str(inspect(model))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert all(part in text for part in ("-123 ..", "cumulative", "0.1 (new)"))
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    column = [line[: lines[head].index(" set")].strip() for line in lines[head + 2 :]]
    names = "".join(column[: column.index("")])
    assert names.startswith("features." + "a_rather_long_name_of_a_block_" * 3)


def test_control_characters_of_names_do_not_reach_the_terminal():
    arrays = {f"\x1b[31mx.{key}": torch.ones(2) for key in ("running_mean", "running_var")}
    text = str(inspect(arrays))
    assert "\x1b" not in text
    assert "\\x1b[31mx" in text


def test_markup_in_names_is_text():
    arrays = {f"[red]x[/red].{key}": torch.ones(2) for key in ("running_mean", "running_var")}
    assert "[red]x[/red]" in str(inspect(arrays))


def test_equal_findings_are_told_once():
    text = str(inspect(nn.Sequential(*[nn.BatchNorm1d(2) for _ in range(6)])))
    assert text.count("never updated") == 1
    assert "0, 1, 2 and 3 more" in text


def test_the_records_are_json():
    model = nn.Sequential(with_values(running_var=float("nan")), nn.BatchNorm1d(2, affine=False))
    records = json.loads(json.dumps(inspect(model).to_dict(), allow_nan=False))
    assert records["rows"][0]["momentum"] == {"value": 0.1, "weighs": "new"}
    assert set(records["rows"][0]["running_mean"]) == {"low", "high"}
    assert records["rows"][1]["weight"] is None
    assert records["findings"][0]["code"] == "non-finite"


def test_numbers_have_their_plural():
    assert "0 parameters, 1 buffer value\n" in str(inspect(nn.LazyBatchNorm1d()))
    assert "1 batch-norm layer, 2 parameters, 3 buffer values" in str(inspect(nn.BatchNorm1d(1)))


@pytest.mark.parametrize(("training", "severity"), [(True, "error"), (False, "warning")])
def test_eps_of_zero_is_worse_in_training(training, severity):
    module = trained().train(training)
    module.eps = 0.0
    assert (severity, "eps") in codes(inspect(module))


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (3, "an int"),
        (None, "None"),
        (nn.BatchNorm1d, "the class torch.nn"),
        (np.ones(1), "a numpy"),
    ],
)
def test_what_came_is_named_in_plain_words(thing, words):
    with pytest.raises(InputError, match=f"got: {words}"):
        inspect(thing)


def test_no_layers_at_all():
    report = inspect(nn.Linear(2, 2))
    assert report.rows == ()
    assert str(report) == "Linear: no batch-norm layers"


def test_the_layer_itself_can_be_inspected():
    assert "(top)" in str(inspect(trained()))


@pytest.mark.parametrize("thing", [3, None, np.ones(3), nn.BatchNorm1d])
def test_other_things_are_refused(thing):
    with pytest.raises(InputError, match="no model of torch"):
        inspect(thing)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        inspect(tmp_path / "x.pt")


def test_it_is_the_public_verb():
    assert evenkeel.inspect is inspect


def test_a_safetensors_file_needs_no_torch(tmp_path):
    save_file(trained().state_dict(), tmp_path / "x")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from evenkeel.tools import inspect\n"
        "print(inspect(sys.argv[1]).rows[0].channels)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
