"""Writers of small sets of records in the true layouts and encodings."""

import csv
import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medjax.data.record_source import RecordSource


def write_csv(path, header, rows):
    """A CSV with Windows line ends, as most downloads have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def read(layout):
    """{id: example} of all splits, with what is `Varying` as plain arrays, and the tally."""
    found, tally = {}, {}
    for split, source in layout.sources.items():
        assert isinstance(source, RecordSource)
        for i in range(len(source)):
            example = source[i]
            assert source.case_id(i) == example["id"] not in found
            found[example["id"]] = {k: getattr(v, "array", v) for k, v in example.items()} | {"split": split}
        for key, n in source.tally().items():
            tally[key] = tally.get(key, 0) + n
    return found, tally


def check(layout):
    """Whether the examples are what `medjax.data.records` says; returns `read`'s."""
    found, tally = read(layout)
    for example in found.values():
        times, variables, values = (example[name] for name in ("times", "variables", "values"))
        assert (times.dtype, variables.dtype, values.dtype) == (np.float32, np.int32, np.float32)
        assert times.shape == variables.shape == values.shape == (len(times),)
        assert (np.diff(times) >= 0).all()
        assert np.isfinite(times).all()
        assert (times <= example["end"]).all()
        assert example["end"].dtype == np.float32
        assert not len(variables) or (variables.min() >= 0 and variables.max() < len(layout.variables))
        code = np.array([v.code for v in layout.variables], bool)[variables]
        assert np.isfinite(values[~code]).all()
        assert not np.isinf(values).any()
        assert example["static"].dtype == np.float32
        assert example["static"].shape == (len(layout.statics),)
        if layout.kind == "multi":
            assert example["label"].dtype == np.int8
            assert example["label"].shape == (len(layout.classes),)
        elif layout.kind == "steps":
            assert example["label"] == -1
            hours, answers = example["label_times"], example["label_values"]
            assert (hours.dtype, answers.dtype, hours.shape) == (np.float32, np.int8, answers.shape)
            assert (np.diff(hours) > 0).all()
            assert (hours <= example["end"]).all()
        else:
            assert -1 <= example["label"] < max(len(layout.classes), 2)
    return found, tally


def events(layout, example):
    """[(time, name, value)] of an example."""
    names = [variable.name for variable in layout.variables]
    rows = zip(example["times"], example["variables"], example["values"])
    return [(round(float(t), 4), names[k], round(float(x), 4)) for t, k, x in rows]


def physionet_record(id, rows=(), *, age="54", gender="0", height="-1", icu="4", weight="-1"):
    """The text of one record."""
    head = [("RecordID", id), ("Age", age), ("Gender", gender), ("Height", height), ("ICUType", icu), ("Weight", weight)]
    lines = ["Time,Parameter,Value", *(f"00:00,{name},{value}" for name, value in head), *rows]
    return "\n".join(lines) + "\n"


def write_physionet(folder, letter="a", n=6, first=132539, *, seed=0):
    """set-X and Outcomes-X.txt: the dying have a fast heart."""
    rng = np.random.default_rng(seed)
    (folder / f"set-{letter}").mkdir(parents=True)
    outcomes = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    for i in range(n):
        id, dies = first + i, i % 3 == 0
        rows = []
        for hour in range(48):
            rows.append(f"{hour:02d}:07,HR,{rng.normal(120 if dies else 75, 8):.0f}")
            rows += [f"{hour:02d}:07,Temp,{rng.normal(37, 0.5):.1f}"] * (hour % 4 == 0)
        (folder / f"set-{letter}" / f"{id}.txt").write_text(physionet_record(id, rows, age=str(40 + i), gender=str(i % 2)))
        outcomes.append(f"{id},6,1,5,-1,{int(dies)}")
    (folder / f"Outcomes-{letter}.txt").write_text("\n".join(outcomes) + "\n")
    return folder


MIMIC3 = (
    *("Capillary refill rate", "Diastolic blood pressure", "Fraction inspired oxygen", "Glascow coma scale eye opening"),
    *("Glascow coma scale motor response", "Glascow coma scale total", "Glascow coma scale verbal response", "Glucose"),
    *("Heart Rate", "Height", "Mean blood pressure", "Oxygen saturation", "Respiratory rate", "Systolic blood pressure"),
    *("Temperature", "Weight", "pH"),
)


def mimic3_row(hours, **values):
    """A line of an episode; names with "_" for blanks."""
    named = {name.replace("_", " "): value for name, value in values.items()}
    return [hours, *(named.get(name, "") for name in MIMIC3)]


def write_mimic3(folder, task, n=36, *, seed=0):
    """A task of the benchmark: n patients, a third of them with a second stay, every fourth patient in test."""
    rng = np.random.default_rng(seed)
    phenotypes = [f"Phenotype {k}" for k in range(25)]
    lists = {"train": [], "test": []}
    for k in range(n):
        split = "test" if k % 4 == 3 else "train"
        for episode in range(1, 2 + (k % 3 == 0)):
            name, dies, stay = f"{100 + k}_episode{episode}_timeseries.csv", k % 5 == 0, 60 + 24 * (k % 12)
            last = 48 if task == "in-hospital-mortality" else stay
            rows = []
            for hour in np.arange(0, last, 1.5):
                row = mimic3_row(f"{hour:.4f}", Heart_Rate=f"{rng.normal(110 if dies else 80, 9):.1f}")
                if hour % 6 == 0:
                    more = mimic3_row(f"{hour:.4f}", Temperature="37.0", Glascow_coma_scale_total="15.0", pH="7.4")
                    more[1 + MIMIC3.index("Glascow coma scale eye opening")] = "4 Spontaneously"
                    rows.append(more)
                rows.append(row)
            write_csv(folder / split / name, ("Hours", *MIMIC3), rows)
            if task == "in-hospital-mortality":
                lists[split].append((name, int(dies)))
            elif task == "phenotyping":
                lists[split].append((name, f"{stay:.1f}", *rng.integers(0, 2, 25)))
            else:
                for hour in range(5, stay, 6):
                    answer = int(dies and stay - hour < 24) if task == "decompensation" else f"{stay - hour:.4f}"
                    lists[split].append((name, f"{hour:.1f}", answer))
    header = {"in-hospital-mortality": ("stay", "y_true"), "phenotyping": ("stay", "period_length", *phenotypes)}
    for split, rows in lists.items():
        write_csv(folder / split / "listfile.csv", header.get(task, ("stay", "period_length", "y_true")), rows)
    return folder


def split_mimic3(folder):
    """As the benchmark's script does: part of the training patients for validation, by listfiles in the task's folder."""
    rows = list(csv.reader((folder / "train" / "listfile.csv").open(newline="")))
    for name, odd in (("train", False), ("val", True)):
        kept = [row for row in rows[1:] if (int(row[0][:3]) % 5 == 2) == odd]
        write_csv(folder / f"{name}_listfile.csv", rows[0], kept)
    (folder / "test" / "listfile.csv").rename(folder / "test_listfile.csv")


START = datetime.datetime(2020, 1, 1)
MEDS_DATA = pa.schema(
    [
        *(("subject_id", pa.int64()), ("time", pa.timestamp("us")), ("code", pa.string())),
        *(("numeric_value", pa.float32()), ("text_value", pa.large_string())),
    ]
)

BOOLEAN = ("boolean_value", pa.bool_())


def at(hours):
    return START + datetime.timedelta(hours=hours)


def history(subject, *, dies, rng):
    """A subject's rows as the standard has them: statics first, then by time."""
    rows = [(subject, None, f"GENDER//{'FM'[subject % 2]}", None, None), (subject, None, "HEIGHT", 170.0 + subject % 9, None)]
    rows.append((subject, START - datetime.timedelta(days=365.25 * (40 + subject % 30)), "MEDS_BIRTH", None, None))
    for hour in range(0, 48, 3):
        rows.append((subject, at(hour), "LAB//lactate", float(rng.normal(4 if dies else 1, 0.3)), None))
        rows.append((subject, at(hour), "DRUG//insulin", None, "as needed"))
    rows.append((subject, at(50), "MEDS_DEATH" if dies else "DISCHARGE", None, None))
    return rows


def write_parquet(path, rows, schema):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(zip(schema.names, row)) for row in rows], schema), path)


def write_labels(path, rows, kind=BOOLEAN):
    write_parquet(path, rows, pa.schema([("subject_id", pa.int64()), ("prediction_time", pa.timestamp("us")), kind]))


def write_meds(folder, n=40, *, extra=()):
    rng = np.random.default_rng(0)
    for shard in range(2):
        rows = [r for s in range(shard, n, 2) for r in history(s, dies=s % 4 == 0, rng=rng)]
        rows += [r for r in extra if r[0] % 2 == shard]
        write_parquet(folder / "data" / "all" / f"{shard}.parquet", rows, MEDS_DATA)
    splits = [(s, ("train", "train", "train", "tuning", "held_out")[s % 5]) for s in range(n)]
    write_parquet(
        folder / "metadata" / "subject_splits.parquet", splits, pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
    )
    codes = pa.schema([("code", pa.string()), ("description", pa.string()), ("parent_codes", pa.list_(pa.string()))])
    write_parquet(folder / "metadata" / "codes.parquet", [("LAB//lactate", "lactate", None)], codes)
    (folder / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": "Toy", "meds_version": "0.4.0"}))
    write_labels(folder / "labels" / "death" / "0.parquet", [(s, at(24), s % 4 == 0) for s in range(n)])
    return folder


EICU_PATIENT = (
    *("patientunitstayid", "gender", "age", "hospitalid", "admissionheight", "hospitaladmitoffset"),
    *("hospitaldischargestatus", "unittype", "admissionweight", "unitdischargeoffset", "unitdischargestatus", "uniquepid"),
)


def write_eicu(folder, n=8, *, extra_labs=()):
    rows, labs, vitals, diagnoses, treatments = [], [], [], [], []
    for k in range(n):
        dies = ("Alive", "Expired", "")[k % 3]
        stay = 1000 + k
        age = "> 89" if k == 0 else 50 + k
        rows.append(
            (stay, "Female", age, 59, 170, -120, dies, "MICU", 80, 600 if k == n - 1 else 3000, "Alive", f"002-{k // 2}")
        )
        for minute in range(-60, 1800, 300):
            labs.append((stay * 100, stay, minute, 1, "glucose", 100 + k, 100 + k, "mg/dL", "mg/dL", minute))
            vitals.append((stay, minute, 37.0, 98, "", 80 + k))
        diagnoses.append((stay, 2000, ("renal|disorder of kidney|x", "pulmonary|respiratory failure")[k % 2]))
        treatments.append((stay, 90, "pulmonary|ventilation"))
    header = ("labid", "patientunitstayid", "labresultoffset", "labtypeid", "labname", "labresult", "labresulttext")
    write_csv(folder / "patient.csv", EICU_PATIENT, rows)
    write_csv(folder / "lab.csv", (*header, "labmeasurenamesystem", "labmeasurenameinterface", "x"), [*labs, *extra_labs])
    write_csv(
        folder / "vitalPeriodic.csv",
        ("patientunitstayid", "observationoffset", "temperature", "sao2", "cvp", "heartrate"),
        [*vitals, (1000, 30, 98.6, "", "", "")],
    )
    write_csv(folder / "diagnosis.csv", ("patientunitstayid", "diagnosisoffset", "diagnosisstring"), diagnoses)
    write_csv(folder / "treatment.csv", ("patientunitstayid", "treatmentoffset", "treatmentstring"), treatments)
    return folder
