"""The README's Python lines run as they stand, only with smaller settings and other data."""

import dataclasses
import re
import shutil

import pytest
from conftest import ROOT, SMALL

import medjax
from medjax import config, experiments


@pytest.mark.usefixtures("brief")
def test_the_lines_from_python_run(finished, tmp_path, monkeypatch):
    _, blobs = finished
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 9

    def small(name):
        module = experiments.load(experiments.find(name))
        chosen = config.parse(module.PRESETS_OF, ["--data.path", str(blobs), *SMALL], preset="fast", program="test")
        module.Config = lambda: dataclasses.replace(chosen, train=dataclasses.replace(chosen.train, steps=4))
        return module

    monkeypatch.setattr(experiments, "load_by_name", small)
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((blobs / "yes").iterdir()), tmp_path / "scan.png")
    found = {}
    exec(code, found)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    assert (tmp_path / "runs" / "first" / "again" / "report.json").is_file()
    assert (tmp_path / "predictions" / "predictions.csv").read_text().splitlines()[1].startswith("scan,,,")
    assert found["rows"]["score"].shape == (1, 2)
    # Importing the package's modules must not take the functions' names away.
    assert all(callable(getattr(medjax, name)) for name in medjax.__all__)


def test_links_in_the_readme_point_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
