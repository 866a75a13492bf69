"""Reports of the IU X-ray collection in their true encoding."""

import tarfile

import pytest
from toy import fails

from medjax.data import texts
from medjax.data.layouts import detect, iu_xray, open_layout

XML = """<?xml version="1.0" encoding="utf-8"?><eCitation><meta type="rr"/><uId id="{id}"/>
<MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">XXXX-year-old</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{mesh}</MeSH></eCitation>"""


def write(folder, *reports):
    folder.mkdir(parents=True)
    for i, (findings, impression, terms) in enumerate(reports, 1):
        mesh = "".join(f"<major>{term}</major>" for term in terms)
        text = XML.format(id=f"CXR{i}", findings=findings, impression=impression, mesh=mesh)
        (folder / f"{i}.xml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def reports(tmp_path):
    return write(
        tmp_path / "x" / "ecgen-radiology",
        ("Heart is large. &lt;5 mm", "Cardiomegaly.", ("Cardiomegaly/mild", "Lung/hypoinflation", "Lung/left")),
        ("Clear naïve lungs XXXX.", "Normal.", ("normal",)),
        ("", "Normal.", ("normal",)),
        ("Clear.", "", ()),
    ).parent


def test_terms_are_labels(reports):
    assert list(detect(reports)) == ["iu_xray"]
    layout = open_layout(reports, least=1)
    assert (layout.kind, layout.classes, layout.texts) == ("multi", ("Cardiomegaly", "Lung", "normal"), ("text",))
    source = layout.sources["all"]
    assert [source[i]["label"].tolist() for i in range(4)] == [[1, 1, 0], [0, 0, 1], [0, 0, 1], [-1, -1, -1]]
    assert source[0]["text"] == "Heart is large. <5 mm\nCardiomegaly."
    assert [source.case_id(i) for i in range(4)] == ["CXR1", "CXR2", "CXR3", "CXR4"]
    assert source.tally() == {(iu_xray.UNLABELLED, ""): 1}


def test_findings_to_impression(reports):
    layout = open_layout(reports, write=True)
    assert (layout.kind, layout.texts) == ("pairs", ("text", "target"))
    source = layout.sources["all"]
    assert [(source[i]["text"], source[i]["target"]) for i in range(len(source))] == [
        ("Heart is large. <5 mm", "Cardiomegaly."),
        ("Clear naïve lungs XXXX.", "Normal."),
    ]
    assert source.tally() == {(iu_xray.LACKING, ""): 2}
    assert texts.EMPTY not in str(source.tally())


def test_bad_reports_are_named(reports, tmp_path):
    fails(lambda: open_layout(reports), "fewer than two MeSH terms")
    (reports / "ecgen-radiology" / "5.xml").write_text("<eCitation><uId id='CXR5'/></eCitation>")
    fails(lambda: open_layout(reports, "iu_xray", least=1), "5.xml", "no radiology report")
    (reports / "ecgen-radiology" / "5.xml").write_text("<eCitation>")
    fails(lambda: open_layout(reports, "iu_xray", least=1), "5.xml", "cannot be read as XML")
    (tmp_path / "empty").mkdir()
    fails(lambda: open_layout(tmp_path / "empty", "iu_xray"), "no .xml file")
    twice = write(tmp_path / "y", ("a", "b", ("c",)), ("d", "e", ("f",)))
    (twice / "2.xml").write_text((twice / "1.xml").read_text())
    fails(lambda: iu_xray.sources(twice, write=True), "share the id 'CXR1'")


def test_the_archive_is_read_as_it_was_published(reports, tmp_path):
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(reports / "ecgen-radiology", "ecgen-radiology")
    path = tmp_path / "NLMCXR_reports.tgz"
    assert list(detect(path)) == ["iu_xray"]
    packed, plain = (open_layout(of, write=True).sources["all"] for of in (path, reports))
    assert [packed[i]["target"] for i in range(len(packed))] == [plain[i]["target"] for i in range(len(plain))]
    assert packed.case_id(0) == "CXR1"
    path.write_bytes(path.read_bytes()[:200])
    fails(lambda: iu_xray.sources(path), "NLMCXR_reports.tgz", "fetch it again")
