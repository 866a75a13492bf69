import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medjax.core import Figure
from medjax.errors import InputError
from medjax.report import save, write_html
from medjax.report.answer import answer
from medjax.report.html import render

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "link", "hr"}
OPTIONAL = [
    "title",
    "question",
    "classes",
    "monitor",
    "warnings",
    "comparisons",
    "figures",
    "best_step",
    "parameters",
    "flops_per_step",
    "skipped_steps",
]
OPTIONAL += [
    "command",
    "licence",
    "point",
    "duration_s",
    "baselines",
    "definitions",
    "throughput",
    "seeds",
    "ci_unit",
    "data",
    "metrics",
]


def metric(value, low=None, high=None, n=614, **more):
    return {"value": value, "ci95": None if low is None else [low, high], "n": n, **more}


def make_report():
    return {
        "task": "classification",
        "experiment": "demo",
        "title": "Tumour on MR",
        "question": "Is there a tumour?",
        "classes": ["healthy", EVIL],
        "monitor": "log_loss",
        "warnings": ["The header alone is a shortcut & more."],
        "data": {
            "name": "Set",
            "fingerprint": "abc",
            "splits": {
                "test": {"n": 614, "patients": 93, "prevalence": {"healthy": 320, EVIL: 294}},
                "train": {"n": 1925, "patients": 261, "prevalence": 0.5},
            },
            "audit": {
                "leaks": {"identical": 0},
                "near_copies": {"groups": 437, "files": 3000, "largest": 61},
                "shortcut": {"auroc": 0.88, "text": "header reaches 0.88"},
                "undefined": {"kappa": "two classes"},
                "something_new": {"a": {"b": 1.5}, "c": [True, None]},
                "notes": ["No patient ids.", EVIL],
            },
        },
        "metrics": {
            "test": {
                "auroc": metric(0.9531, 0.9102, 0.9824),
                "auroc_matched": metric(0.92, n=94, reason="only 7 groups"),
                f"sensitivity/{EVIL}": metric(0.8, 0.7, 0.9),
                "log_loss": metric(0.3, 0.2, 0.4),
            },
            "val": {"auroc": metric(0.96, 0.95, 0.97, n=461)},
        },
        "ci_unit": "group",
        "definitions": {"auroc": "Area under the curve."},
        "baselines": {"header": {"auroc": metric(0.879, 0.83, 0.92)}, "logistic": {"auroc": metric(0.6, 0.5, 0.7)}},
        "comparisons": {
            "header": {
                "auroc": {"difference": 0.0741, "ci95": [0.031, 0.119]},
                "log_loss": {"difference": -0.2, "ci95": [-0.3, -0.1]},
                "auroc_matched": {"difference": 0.1, "ci95": None, "reason": "only 6 groups"},
            }
        },
        "throughput": {"examples_per_s": 1123.4, "step_ms": 50.0, "data_wait_pct": 0.4, "compile_s": 6.2},
        "seeds": [
            {"seed": 0, "fold": None, "metrics": {"auroc": 0.95}},
            {"seed": 1, "metrics": {"test": {"auroc": {"value": 0.94}}}},
        ],
        "best_step": 20,
        "parameters": 307633,
        "flops_per_step": 4.1e10,
        "skipped_steps": 0,
        "command": "medjax train demo --data.path https://example.org/x",
        "licence": "see HTTP://example.org",
        "point": {"threshold": 0.412},
        "duration_s": 192.2,
    }


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 16, 16), dtype=np.uint8)
    line = {"label": "Network", "x": np.linspace(0, 1, 5), "y": np.linspace(0, 1, 5) ** 2, "style": "points"}
    axes = {"xlabel": "x", "ylabel": "y"}
    figures = {
        "roc": Figure("lines", "ROC", f"Caption {EVIL}", {"lines": [line], "diagonal": True, **axes}),
        "misses": Figure("grid", f"Misses {EVIL}", "", {"rows": [{"label": "a", "images": images, "titles": ["1", "2", "3"]}]}),
        "calibration": Figure("lines", "Calibration", "Calm.", {"lines": [line], **axes}),
    }
    report = {**make_report(), "figures": save(figures, tmp_path / "figures")}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 20, "note": EVIL}, "depths": [1, 2]}))
    (tmp_path / "environment.json").write_text(json.dumps({"versions": {"jax": "0.10"}, "devices": ["cpu:0"]}))
    lines = [{"step": s, "loss": 1 / s, "time": s} for s in (5, 10, 15, 20)] + [{"step": 20, "val/log_loss": 0.3}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 25, "lo')
    return tmp_path


class Page(HTMLParser):
    """Checks that tags nest; gathers text by section, pictures and attributes."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.images, self.tags, self.attributes = [], [], [], []
        self.section, self.sections, self.text = "header", {}, []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, attrs))
        if tag == "section":
            self.section = attrs["id"]
        if tag == "img":
            self.images.append((self.section, attrs))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.sections[self.section] = self.sections.get(self.section, "") + data
        if "style" not in self.stack:
            self.text.append(data)

    def words(self, section=None):
        return re.sub(r"\s+", " ", "".join(self.text) if section is None else self.sections.get(section, ""))


def test_the_page_is_one_whole_self_contained_file(run):
    path = write_html(run)
    text = path.read_text()
    page = Page(text)
    assert path == run / "report.html"
    assert "http://" not in text.lower()
    assert "https://" not in text.lower()
    assert "https://example.org/x" in page.words("repeat")  # still readable
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(not name.startswith("on") and name != "href" for _, attrs in page.attributes for name in attrs)
    assert text.count("<html") == text.count("</html>") == 1
    assert not list(run.glob("*.tmp"))
    assert not list(run.glob(".*"))


def test_every_figure_is_embedded_in_its_section(run):
    page = Page(write_html(run).read_text())
    assert [section for section, _ in page.images] == ["results", "failures", "calibration", "training"]
    for (_, attrs), name in zip(page.images, ("roc", "misses", "calibration", "learning_curves"), strict=True):
        kind, data = attrs["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (run / "figures" / f"{name}.png").read_bytes()
        assert Image.open(io.BytesIO(base64.b64decode(data))).size[0] == pytest.approx(int(attrs["width"]) * 130 / 96, abs=1)


def test_the_page_says_what_the_run_wrote(run):
    page = Page(write_html(run).read_text())
    header = page.words("header")
    assert (
        "On 614 test images of 93 groups the network reached AUROC 0.953 (95 % CI 0.910 to 0.982); the strongest baseline "
        "(Header only) reached 0.879, and the network is better by 0.074 (95 % CI 0.031 to 0.119)." in header
    )
    assert "The header alone is a shortcut & more." in header
    order = ["question", "data", "results", "failures", "calibration", "training", "definitions", "repeat"]
    assert [name for name in page.sections if name != "header"] == order
    assert "1,925" in page.words("data")
    assert "52.1 %" in page.words("data")
    assert "50.0 %" in page.words("data")
    assert "3,000 files in 437 groups (the largest has 61)" in page.words("data")
    assert "something new" in page.words("data").lower()
    assert "1.500" in page.words("data")
    results = page.words("results")
    for said in (
        "AUROC on header-matched pairs",
        "no interval",
        "only 7 groups",
        "only 6 groups",
        "n = 94",
        "+0.074",
        "two classes",
    ):
        assert said in results, said
    assert results.count("better") >= 2  # a lower log loss is better, too
    assert "820 GFLOP/s" in page.words("training")
    assert "0.412" in page.words("training")
    assert "3 min 12 s" in page.words("training")
    assert "train.steps" in page.words("repeat")
    assert "cpu:0" in page.words("repeat")
    assert ("th", "auroc_matched") in [(tag, attrs.get("title")) for tag, attrs in page.attributes]


def test_markup_from_the_run_is_text(run):
    text = write_html(run).read_text()
    assert EVIL not in text
    assert "<script" not in text
    page = Page(text)
    for section in ("question", "data", "results", "repeat"):
        assert EVIL in page.words(section), section
    assert any(attrs.get("alt") == f"Misses {EVIL}" for _, attrs in page.images)


@pytest.mark.parametrize("missing", [*OPTIONAL, "everything"])
def test_missing_keys_do_not_break_the_page(missing):
    report = {} if missing == "everything" else {key: value for key, value in make_report().items() if key != missing}
    page = Page(render(report, {}, {}, [], []))
    assert len([tag for tag in page.tags if tag == "section"]) == 8
    assert "None" not in page.words()
    assert "Undefined" not in page.words()


def test_null_where_the_contract_allows_null():
    report = make_report()
    report["data"]["audit"]["shortcut"] = None
    report["data"]["splits"]["test"] = {"n": 5, "patients": None, "prevalence": None}
    report |= {"best_step": None, "comparisons": None, "throughput": {"examples_per_s": None}, "warnings": [], "point": None}
    report["metrics"]["test"]["auroc"]["value"] = None
    assert "None" not in Page(render(report, {"a": None}, {}, [], [])).words()


def test_lone_report_with_a_missing_figure(tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    listed = [{"file": "gone.png", "title": "Gone"}, {"file": "../../secret.png", "title": "Outside"}]
    (run / "report.json").write_text(json.dumps({"metrics": {}, "figures": listed}))
    page = Page(write_html(run).read_text())
    assert not page.images
    assert "gone.png" in page.words("results")
    assert "How it was trained" in page.words()


@pytest.mark.parametrize(
    ("name", "content"),
    [("report.json", None), ("report.json", "{"), ("report.json", "[1]"), ("config.json", "{,}"), ("metrics.jsonl", "{,}\n{}")],
)
def test_broken_files_are_named(run, name, content):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(name)):
        write_html(run)


def test_curves_are_left_alone_when_asked(run):
    write_html(run, draw_curves=False)
    assert not (run / "figures" / "learning_curves.png").exists()


@pytest.mark.parametrize(
    ("metric_name", "difference", "interval", "said"),
    [
        ("auroc", 0.05, [0.01, 0.09], "the network is better by 0.050 (95 % CI 0.010 to 0.090)"),
        ("auroc", -0.05, [-0.09, -0.01], "the network is worse by 0.050 (95 % CI 0.010 to 0.090)"),
        ("auroc", 0.05, [-0.01, 0.11], "not shown to be better (difference +0.050, 95 % CI −0.010 to +0.110)"),
        ("auroc", 0.0, [0.0, 0.0], "not shown to be better"),
        ("hd95", -2.0, [-3.0, -1.0], "the network is better by 2.000 (95 % CI 1.000 to 3.000)"),
        ("hd95", 2.0, [1.0, 3.0], "the network is worse by 2.000"),
        ("auroc", 0.05, None, "a difference of +0.050 whose certainty is not known"),
    ],
)
def test_the_answer_never_claims_more_than_the_interval(metric_name, difference, interval, said):
    report = {
        "metrics": {"test": {metric_name: metric(0.9)}},
        "baselines": {"header": {metric_name: metric(0.8)}},
        "comparisons": {"header": {metric_name: {"difference": difference, "ci95": interval}}},
    }
    assert said in answer(report)


def test_the_strongest_baseline_follows_the_metrics_direction():
    values = {"header": {"psnr": metric(30.0), "nmse": metric(0.1)}, "input": {"psnr": metric(25.0), "nmse": metric(0.2)}}
    for name, n in (("psnr", 30.0), ("nmse", 0.1)):
        report = {"metrics": {"test": {name: metric(0.5)}}, "baselines": values}
        assert f"(Header only) reached {n:.3f}" in answer(report)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8) | st.just(EVIL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    audit=st.dictionaries(
        st.sampled_from(["leaks", "near_copies", "shortcut", "notes", "undefined"]) | st.text(max_size=6), json_values
    ),
    config=st.dictionaries(st.text(max_size=6), json_values, max_size=3),
)
def test_any_audit_and_any_settings_are_drawn(audit, config):
    report = make_report()
    report["data"]["audit"] = audit
    text = render(report, config, config, [], [])
    Page(text)
    assert "<script" not in text
