import io

import pytest
from rich.console import Console

from medjax.report import summary_table
from medjax.report.words import format_duration, format_si, format_value, name_metric, pluralise, sort_metrics


def print_table(report, width=100):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(summary_table(report))
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_the_table_lines_up_in_100_columns():
    entry = {"value": 0.953, "ci95": [0.91, 0.982]}
    report = {
        "metrics": {
            "test": {
                "auroc_matched": {"value": 0.9, "ci95": None, "reason": "few"},
                "auroc": entry,
                "auroc/a": entry,
                "log_loss": {"value": 0.3, "ci95": [0.2, 0.4]},
                "[red]new": entry,
            },
            "val": {"auroc": {"value": 0.1, "ci95": None}},
        },
        "baselines": {name: {"auroc": {"value": 0.5}} for name in ("majority", "header", "gbdt", "logistic")},
    }
    lines = print_table(report)
    assert max(map(len, lines)) <= 100
    rows = {line.split("  ")[0].strip(): line for line in lines}
    auroc = rows["AUROC"]
    assert auroc.split()[1:] == ["0.953", "[0.910,", "0.982]", *["0.500"] * 4]
    assert "no interval" in rows["AUROC on header-matched pairs"]
    assert "Log loss ↓" in rows
    assert "[red]new" in rows
    assert not any("· a" in line for line in lines)
    ends = {line.index("0.982]") for line in lines if "0.982]" in line}
    assert len(ends) == 1  # right-aligned


def test_the_table_of_a_report_without_numbers():
    assert "No metrics were written" in print_table({})[0]
    assert any("–" in line for line in print_table({"metrics": {"cv": {"auroc": {"value": None, "ci95": None}}}}))


@pytest.mark.parametrize(
    ("value", "sign", "said"),
    [
        (0.9534, False, "0.953"),
        (-0.0001, True, "0.000"),
        (0.0741, True, "+0.074"),
        (-1234.5678, False, "−1,234.568"),
        (None, False, "–"),
        (float("nan"), True, "–"),
        (True, False, "–"),
    ],
)
def test_values_have_three_decimals(value, sign, said):
    assert format_value(value, sign=sign) == said


def test_words():
    assert [format_duration(s) for s in (4.2, 42, 192.2, 7500, None)] == ["4.2 s", "42 s", "3 min 12 s", "2 h 05 min", "–"]
    assert [format_si(v, "FLOP") for v in (4.12e10, 999, 1.5e3)] == ["41.2 GFLOP", "999 FLOP", "1.5 kFLOP"]
    assert [pluralise(noun) for noun in ("image", "study", "box", "day")] == ["images", "studies", "boxes", "days"]
    assert name_metric("auroc/glioma") == "AUROC · glioma"
    assert name_metric("new_one") == "New one"
    assert sort_metrics(["ece", "auroc/b", "zzz", "auroc"]) == ["auroc", "ece", "zzz", "auroc/b"]
