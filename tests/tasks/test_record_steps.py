"""Events become steps: what stands where, what is carried in, and that nothing from after the prediction time can enter."""

import numpy as np
import pytest

from medjax.cases import Varying
from medjax.data.records import Variable
from medjax.errors import InputError
from medjax.tasks.record_answers import running_summaries
from medjax.tasks.record_steps import NO_CODE, NO_STEP, Steps, record_preprocess, summarise

VARIABLES = (Variable("HR"), Variable("A00", code=True), Variable("pH"), Variable("B00", code=True))


def example(events, *, end=4.0, **more):
    times, which, values = zip(*events) if events else ((), (), ())
    arrays = (("times", times, np.float32), ("variables", which, np.int32), ("values", values, np.float32))
    found = {name: Varying(np.array(column, dtype)) for name, column, dtype in arrays}
    return {"id": "a/1", "patient": "1", "label": 1, "end": np.float32(end), "static": np.zeros(1, np.float32), **found, **more}


def grid(events, *, end=4.0, **options):
    return record_preprocess(VARIABLES, Steps(hours=4, **options))(example(events, end=end))


EVENTS = [(0.2, 0, 70), (0.5, 0, 80), (0.5, 1, np.nan), (1.5, 2, 7.3), (1.6, 3, np.nan), (1.7, 1, np.nan), (4.0, 0, 90)]


def test_a_grid_holds_means_or_last_values_and_nan_elsewhere():
    made = grid(EVENTS)
    nan = np.nan
    np.testing.assert_array_equal(made["values"], np.array([[75, nan], [nan, np.float32(7.3)], [nan, nan], [90, nan]], "f4"))
    np.testing.assert_array_equal(grid(EVENTS, value="last")["values"][0], [80, nan])
    np.testing.assert_array_equal(made["times"], [1, 2, 3, 4])
    assert (made["length"], made["begin"]) == (4, 0)
    assert made["values"].dtype == np.float32


def test_codes_are_listed_by_step_each_once():
    made = grid(EVENTS, codes=2)
    np.testing.assert_array_equal(made["codes"], [[1, NO_CODE], [1, 2], [NO_CODE] * 2, [NO_CODE] * 2])
    one = grid([(1.5, 1, np.nan), (1.6, 3, np.nan), (1.7, 3, np.nan)], codes=1)["codes"]
    assert one[1, 0] == 2  # the latest


def test_a_short_record_has_fewer_steps_and_a_long_one_hands_its_past_on():
    short = grid([(0.2, 0, 70), (2.5, 0, 80)], end=2.5)
    assert short["length"] == 3
    np.testing.assert_array_equal(short["times"], [1, 2, 3, 0])
    assert short["values"][2, 0] == 80
    long = grid([(1.0, 0, 60), (2.0, 0, 65), (2.0, 2, 7.1), (6.5, 2, 7.4)], end=10.0)
    assert (long["length"], long["begin"]) == (4, 6)
    np.testing.assert_allclose(long["values"][0], [65, 7.4], rtol=1e-6)  # its own value wins over an earlier one
    assert np.isnan(long["values"][1:]).all()


def test_the_irregular_form_has_a_step_for_each_time_and_keeps_the_latest():
    made = grid(EVENTS, form="irregular", most=8)
    assert made["length"] == 6
    np.testing.assert_allclose(made["times"][:6], np.array([0.2, 0.5, 1.5, 1.6, 1.7, 4.0]) - 0.2, atol=1e-6)
    few = grid(EVENTS, form="irregular", most=2)
    np.testing.assert_array_equal(few["values"], np.array([[80, 7.3], [90, np.nan]], "f4"))  # with what was known by then
    assert few["length"] == 2


def test_a_record_without_events_is_a_step_of_nothing():
    for form in ("grid", "irregular"):
        made = grid([], form=form, most=3, end=0.0)
        assert made["length"] == 1
        assert np.isnan(made["values"]).all()
        assert (made["summary"].reshape(-1)[5::7][:2] == 0).all()


def test_an_event_after_the_prediction_time_is_refused():
    with pytest.raises(InputError, match=r"a/1: an event at 4\.1 h comes after the prediction time 4 h"):
        grid([*EVENTS, (4.1, 0, 99)])
    with pytest.raises(InputError, match="variable 9"):
        grid([(1, 9, 1)])


def test_what_comes_later_changes_no_earlier_step():
    before, after = grid(EVENTS[:-1]), grid(EVENTS)
    np.testing.assert_array_equal(before["values"][:3], after["values"][:3])


def test_summaries_are_numpys():
    rng = np.random.default_rng(0)
    column, values = rng.integers(0, 3, 50), rng.normal(size=50)
    found = summarise(column, values, 4)
    for k in range(3):
        mine = values[column == k]
        wanted = [mine.mean(), mine.min(), mine.max(), mine[0], mine[-1], len(mine), mine.std()]
        np.testing.assert_allclose(found[k], wanted, rtol=1e-6)
    np.testing.assert_array_equal(found[3], [np.nan] * 5 + [0, np.nan])


def test_running_summaries_are_those_of_each_prefix():
    rng = np.random.default_rng(1)
    values = np.where(rng.random((9, 3)) < 0.5, rng.normal(size=(9, 3)), np.nan)
    values[:, 2] = np.nan
    found = running_summaries(values).reshape(9, 3, 7)
    for t in range(9):
        step, column = np.nonzero(~np.isnan(values[: t + 1]))
        np.testing.assert_allclose(found[t], summarise(column, values[step, column], 3), rtol=1e-5, atol=1e-6)


def test_questions_look_no_further_than_their_time():
    more = {
        "label_times": Varying(np.array([0.5, 1.0, 2.7, 4.0], "f4")),
        "label_values": Varying(np.array([1, 0, 1, -1], "i1")),
    }
    made = record_preprocess(VARIABLES, Steps(hours=4), per_step=True)(example(EVENTS, **more))
    # Nothing is known at half an hour; at 2.7 h the step that ends at 2 h is the last one.
    np.testing.assert_array_equal(made["label_steps"], [0, 1, 3, NO_STEP])
    np.testing.assert_array_equal(made["label_times"][:3], np.array([1, 2.7, 4], "f4"))
    np.testing.assert_array_equal(made["label_values"], [0, 1, -1, -1])
    assert (made["label"], made["unasked"]) == (1, 1)
    asked = record_preprocess(VARIABLES, Steps(hours=4), per_step=True)(
        example(EVENTS, end=3.0) | {"times": Varying(np.zeros(7, "f4"))}
    )
    np.testing.assert_array_equal(asked["label_steps"], [0, 1, 2, NO_STEP])
    assert asked["label"] == -1
