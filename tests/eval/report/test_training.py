# SPDX-License-Identifier: Apache-2.0
"""Tables of training runs: ratios to the first setting, means over seeds, and names that tell settings apart."""

from __future__ import annotations

import csv
import io
import json
import statistics

import pytest

from hylora_eval.report.charts import series_styles
from hylora_eval.report.collect import collect
from hylora_eval.report.thesis_tables import lay_tables
from hylora_eval.report.write import table_csv, write_report
from tests.eval.report import made
from tests.eval.report.laid import chart_of, tables_of, texts
from tests.eval.report.pages import Checked


def test_costs_are_relative_to_the_single_scale_sampler(tmp_path):
    """Whatever comes first among the files."""
    tables = tables_of(
        tmp_path,
        made.training("out/vbswc", sampler="msc_vbswc", updates=66, seconds=42.0, flops=7e12),
        made.training("out/ssc", updates=100, seconds=50.0, flops=1e13, evaluation={"accuracy": 0.8131}),
    )
    table = tables["training-ratios"]
    assert texts(table) == {
        ("resnet8", "SSc-FBS"): {
            "Peak memory (×)": "1.00",
            "Training FLOPs (×)": "1.00",
            "Optimization updates (×)": "1.00",
            "Training time (×)": "1.00",
            "Top-1 accuracy (%)": "81.31",
        },
        ("resnet8", "MSc-VBSWC"): {
            "Peak memory (×)": "1.00",
            "Training FLOPs (×)": "0.70",
            "Optimization updates (×)": "0.66",
            "Training time (×)": "0.84",
            "Top-1 accuracy (%)": "80.00",
        },
    }
    assert "first row (SSc-FBS)" in table.caption and "learned from digits, held_out 0.2." in table.conditions
    assert not any(cell.best for cell in table.cells())
    taken = texts(tables["training-taken"])["resnet8", "MSc-VBSWC"]
    assert taken["Peak memory (MiB)"] == "1024" and taken["Training FLOPs (10¹²)"] == "7.00"
    assert taken["Updates"] == "66"


def test_seeds_are_averaged(tmp_path):
    accuracies, seconds = (0.80, 0.83, 0.84), (40.0, 50.0, 60.0)
    tables = tables_of(
        tmp_path,
        made.training("out/ssc", seconds=100.0),
        *(
            made.training(f"out/vbs-{seed}", seed, "msc_vbs", seconds=seconds[seed], evaluation={"accuracy": accuracy})
            for seed, accuracy in enumerate(accuracies)
        ),
    )
    (section,) = tables["training-ratios"].sections
    assert [row.detail for row in section.rows] == ["1 seed", "3 seeds"]
    measured = texts(tables["training-measured"])["resnet8", "MSc-VBS"]
    assert measured["Top-1 accuracy (%)"] == f"82.33 ± {100 * statistics.stdev(accuracies):.2f}"
    assert texts(tables["training-ratios"])["resnet8", "MSc-VBS"]["Training time (×)"] == "0.50 ± 0.10"
    cell = section.rows[1].cells[-1]
    assert [place.pointer for place in cell.measurement.places] == ["evaluation.accuracy"] * 3


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    older = made.training("out/old", evaluation={"accuracy": 0.1}, created="2026-01-01T00:00:00+00:00")
    tables = tables_of(tmp_path, made.training("out/new", evaluation={"accuracy": 0.9}), older)
    assert texts(tables["training-measured"]) == {("resnet8", "SSc-FBS"): {"Top-1 accuracy (%)": "90.00"}}


def test_settings_are_called_by_what_tells_them_apart(tmp_path):
    tables = tables_of(
        tmp_path,
        made.training("a"),
        made.training("b", recipe={"model.dropout": 0.2}),
        made.training("c", sampler="msc_vbs"),
        made.training("d", 1, sampler="msc_vbs", recipe={"training.workers": 8}),
    )
    labels = [label for _, label in texts(tables["training-ratios"])]
    assert labels == ["SSc-FBS, model dropout 0.0", "SSc-FBS, model dropout 0.2", "MSc-VBS"]


def test_one_sampler_for_all_is_not_named(tmp_path):
    tables = tables_of(
        tmp_path, made.training("a", recipe={"training.epochs": 3}), made.training("b", recipe={"training.epochs": 4})
    )
    assert [label for _, label in texts(tables["training-ratios"])] == ["training epochs 3", "training epochs 4"]


def test_each_network_has_a_baseline_of_its_own(tmp_path):
    """Table 4.4."""
    tables = tables_of(
        tmp_path,
        made.training("a", seconds=10.0),
        made.training("b", sampler="msc_vbs", seconds=8.0),
        made.training("c", model="vgg11", seconds=100.0),
        made.training("d", sampler="msc_vbs", model="vgg11", seconds=50.0),
    )
    times = {key: row["Training time (×)"] for key, row in texts(tables["training-ratios"]).items()}
    assert times == {
        ("resnet8", "SSc-FBS"): "1.00",
        ("resnet8", "MSc-VBS"): "0.80",
        ("vgg11", "SSc-FBS"): "1.00",
        ("vgg11", "MSc-VBS"): "0.50",
    }


def test_networks_of_transformers_and_timm_are_called_by_their_own_names(tmp_path):
    """And those that differ in the rest of their settings stand together."""
    configs = ({"model_type": "vit"}, {"model_type": "swin"}, {"architecture": "vit", "model_args": {"depth": 2}})
    tables = tables_of(
        tmp_path,
        *(made.training(str(config), model="any", recipe={"model.config": config}) for config in configs),
        made.training("d", model="any", recipe={"model.config": None, "model.path": "some/vit"}),
        made.training("e", recipe={"model.config": None, "model.path": None}),
    )
    networks = [section.title for section in tables["training-ratios"].sections]
    assert networks == ["vit", "swin", "some/vit", "resnet8"]


def test_runs_that_learned_from_other_data_stand_apart(tmp_path):
    tables = tables_of(tmp_path, made.training("a"), made.training("b", images="mnist"))
    assert {slug for slug in tables if "ratios" in slug} == {"training-ratios-1", "training-ratios-2"}
    assert tables["training-ratios-2"].title == "Cost of training: mnist"


def test_what_a_baseline_lacks_has_no_ratio(tmp_path):
    tables = tables_of(tmp_path, made.training("a", peak_bytes=0), made.training("b", sampler="msc_vbs", flops=1e9))
    row = texts(tables["training-ratios"])["resnet8", "MSc-VBS"]
    assert row["Training FLOPs (×)"] == row["Peak memory (×)"] == "—"


def test_times_of_another_machine_have_a_note(tmp_path):
    other = made.training("c", 2)
    other["environment"]["processor"] = "two"
    tables = tables_of(tmp_path, made.training("a"), made.training("b", sampler="msc_vbs"), made.training("d", 1))
    assert not tables["training-ratios"].notes
    tables = tables_of(
        tmp_path, made.training("a"), made.training("b", sampler="msc_fbs"), other | {"recipe": vbs()["recipe"]}
    )
    (note,) = tables["training-ratios"].notes
    assert "processor: two, where others have one" in note


def vbs(**options):
    return made.training("e", sampler="msc_vbs", **options)


def test_accuracy_by_resolution_is_a_table_and_a_chart(tmp_path):
    tables = tables_of(
        tmp_path, made.training("a", sides={"16": 0.5, "8": 0.8}), vbs(sides={"16": 0.7, "8": 0.75, "24": 0.6})
    )
    table = tables["training-sides"]
    assert texts(table) == {
        ("resnet8", "SSc-FBS"): {"8": "80.00", "16": "50.00", "24": "—"},
        ("resnet8", "MSc-VBS"): {"8": "75.00", "16": "70.00", "24": "60.00"},
    }
    assert [cell.best for cell in table.cells()] == [True, False, False, False, True, False]
    (panel,) = chart_of(table)["panels"]
    drawn = {series["name"]: [(point["x"], point["y"]) for point in series["points"]] for series in panel["series"]}
    assert drawn == {"SSc-FBS": [(8, 80.0), (16, 50.0)], "MSc-VBS": [(8, 75.0), (16, 70.0), (24, 60.0)]}
    assert [style["color"] for style in series_styles(table.subjects()).values()] == [5, 6]


def lcs(kind, seed, curve, compression="sparsity", costs=None, **options):
    """A run of a subspace, with `curve` of (accuracy, loss, reversed accuracy) by level."""
    names = ("accuracy", "loss", "reversed_accuracy")
    points = {level: dict(zip(names, values, strict=False)) for level, values in curve.items()}
    run = made.training(f"out/{kind}-{seed}", seed, curve=points, costs=costs or {}, **options)
    run["recipe"]["subspace"] = {"kind": kind, "compression": compression}
    return run


def test_accuracies_along_subspaces_are_a_table_and_a_chart(tmp_path):
    """Lines, points and baselines in one picture, over seeds; and each line beside itself reversed."""
    tables = tables_of(
        tmp_path,
        lcs("line", 0, {"0": (0.9, 0.3, 0.5), "0.5": (0.8, 0.4, 0.8), "0.975": (0.7, 1.5, 0.25)}),
        lcs("line", 1, {"0": (0.8, 0.5, 0.3), "0.5": (0.8, 0.4, 0.8), "0.975": (0.6, 2.5, 0.15)}),
        lcs("point", 0, {"0": (0.95, 0.2), "0.9": (0.5, 2.0)}),
        made.training("out/plain"),
    )
    table = tables["training-curve-sparsity"]
    assert texts(table) == {
        ("resnet8", "LCS+L"): {
            "0": "85.00 ± 7.07",
            "0.5": "80.00 ± 0.00",
            "0.9": "—",
            "0.975": "65.00 ± 7.07",
        },
        ("resnet8", "LCS+P"): {"0": "95.00", "0.5": "—", "0.9": "50.00", "0.975": "—"},
    }
    drawn = chart_of(table)
    (panel,) = drawn["panels"]
    assert not drawn["logX"] and panel["categories"] is None and "share of weights that go" in drawn["xLabel"]
    points = [[(point["x"], point["y"], point["gap"]) for point in series["points"]] for series in panel["series"]]
    assert points[1] == [(0, 95.0, False), (0.9, 50.0, True)] and [x for x, _, _ in points[0]] == [0, 0.5, 0.975]
    assert texts(tables["training-curve-loss-sparsity"])["resnet8", "LCS+L"]["0.975"] == "2.00 ± 0.71"
    assert texts(tables["training-reversed-sparsity"]) == {
        ("resnet8", "LCS+L"): {"0": "85.00 ± 7.07", "0.5": "80.00 ± 0.00", "0.975": "65.00 ± 7.07"},
        ("resnet8", "LCS+L, reversed"): {
            "0": "40.00 ± 14.14",
            "0.5": "80.00 ± 0.00",
            "0.975": "20.00 ± 7.07",
        },
    }
    (panel,) = chart_of(tables["training-reversed-sparsity"])["panels"]
    assert [series["name"] for series in panel["series"]] == ["LCS+L", "LCS+L, reversed"]


def test_batch_norms_of_baselines_are_told_of(tmp_path):
    points = {"0": {"accuracy": 0.9, "recalibrated_accuracy": 0.9, "drift": 0.01}}
    points["0.9"] = {"accuracy": 0.1, "recalibrated_accuracy": 0.4, "drift": 0.25}
    tables = tables_of(tmp_path, lcs("line", 0, {"0": (0.9, 0.3)}), {**lcs("point", 0, {}), "curve": points})
    assert texts(tables["training-drift-sparsity"]) == {("resnet8", "LCS+P"): {"0": "0.0100", "0.9": "0.250"}}
    assert texts(tables["training-recalibrated-sparsity"]) == {
        ("resnet8", "LCS+P"): {"0": "90.00", "0.9": "10.00"},
        ("resnet8", "LCS+P, recalibrated"): {"0": "90.00", "0.9": "40.00"},
    }


def test_levels_of_other_compressions_stand_apart_from_the_weakest_on(tmp_path):
    tables = tables_of(
        tmp_path,
        lcs("line", 0, {"1": (0.9, 0.3, 0.5), "0.25": (0.8, 0.4, 0.8)}, "width"),
        lcs("line", 0, {"8": (0.7, 0.3, 0.5), "3": (0.6, 0.4, 0.8)}, "bits"),
    )
    assert ("resnet8", "LCS+L, bits") in texts(tables["training-measured"])
    columns = {slug: [column.label for column in table.columns] for slug, table in tables.items() if "curve-" in slug}
    assert columns["training-curve-width"] == ["1", "0.25"] and columns["training-curve-bits"] == ["8", "3"]
    assert not any("costs" in slug for slug in tables)


def test_networks_trained_at_fixed_levels_are_called_by_these(tmp_path):
    runs = [lcs("point", seed, {"0": (0.9, 0.3), "0.9": (0.1, 2.0)}) for seed in (0, 0)]
    runs[1]["recipe"]["subspace"] |= {"targets": [0.5, 0.9], "norm": "keep"}
    assert [label for _, label in texts(tables_of(tmp_path, *runs)["training-curve-sparsity"])] == [
        "LCS+P",
        "trained at 0.5, 0.9",
    ]


def test_what_levels_take_is_told_for_each_setting(tmp_path):
    """Tables 3.2 and 3.4 to 3.6."""
    costs = {
        "1": {"sparsity": 0.0, "parameters": 1234, "bytes": 4321, "operations": 5e7, "seconds": 0.003},
        "0.25": {"sparsity": 0.93491, "parameters": 99, "bytes": 321, "operations": None, "relative_seconds": 0.4},
    }
    tables = tables_of(
        tmp_path,
        lcs("line", 0, {"1": (0.9, 0.3)}, "width", costs),
        lcs("line", 1, {"1": (0.9, 0.3)}, "width", {"1": {**costs["1"], "seconds": 0.004}}),
        lcs("point", 0, {"1": (0.9, 0.3)}, "width"),
    )
    table = tables["training-costs-width"]
    assert texts(table) == {
        ("LCS+L", "Sparsity (%)"): {"1": "0.00 ± 0.00", "0.25": "93.49"},
        ("LCS+L", "Parameters"): {"1": "1234 ± 0", "0.25": "99"},
        ("LCS+L", "Weights (kB)"): {"1": "4.32 ± 0.00", "0.25": "0.321"},
        ("LCS+L", "Operations (10⁶)"): {"1": "50.0 ± 0.0", "0.25": "—"},
        ("LCS+L", "Time on the CPU (ms)"): {"1": "3.50 ± 0.71", "0.25": "—"},
        ("LCS+L", "Time on the CPU (×)"): {"1": "—", "0.25": "0.40"},
    }
    assert [row.detail for row in table.sections[0].rows] == ["2 seeds"] * 5 + ["1 seed"]
    assert chart_of(table) is None


def test_the_page_draws_curves_and_holds_what_levels_take(tmp_path):
    curve, costs = {"0": (0.9, 0.3, 0.5), "0.5": (0.8, 0.4, 0.8)}, {"0": {"parameters": 9}, "0.5": {"parameters": 5}}
    made.write(tmp_path, "runs/a.json", lcs("line", 0, curve, costs=costs))
    write_report(tmp_path / "report", collect([tmp_path / "runs"]))
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert all(f'data-chart="training-{slug}-sparsity"' in text for slug in ("curve", "curve-loss", "reversed"))
    assert "What a network takes by level of sparsity" in text and "| Parameters | 1 seed | 9 | 5 |" in (
        tmp_path / "report" / "report.md"
    ).read_text(encoding="utf-8")


def test_a_damaged_curve_is_named(tmp_path):
    path = made.write(tmp_path, "a.json", {**lcs("line", 0, {}), "curve": {"0.5": 0.3}})
    with pytest.raises(ValueError, match=r"curve\['0.5'\] is 0.3, not of type dict"):
        collect([path])


def sparse(schedule, sparsity, seed, accuracy, finish="sparse", **numbers):
    run = made.training(schedule, seed, evaluation={"accuracy": accuracy}, **numbers)
    run["recipe"]["sparse"] = {"schedule": schedule, "sparsity": sparsity, "finish": finish}
    return {"setting": f"{schedule} {sparsity} {finish}", **run}


def comparison(tmp_path, *runs):
    record = {"kind": "comparison", "question": "which?", "environment": {**made.ENVIRONMENT, "processor": "one"}}
    return tables_of(tmp_path, {**record, "runs": list(runs)})


def test_networks_compressed_at_once_stand_beside_those_trained_sparse(tmp_path):
    """Tables 3.1 and 5.2; levels from the weakest on, and patterns last."""
    levels = {
        "2:4": {"accuracy": 0.4, "loss": 2.0, "tuned_accuracy": 0.6, "tuned_loss": 1.0},
        "0.95": {"accuracy": 0.1, "loss": 3.0, "tuned_accuracy": 0.3, "tuned_loss": 2.0},
        "0.5": {"accuracy": 0.7, "loss": 0.5},
    }
    tables = comparison(
        tmp_path,
        sparse("none", 0.9, 0, 0.9, one_shot=levels),
        sparse("none", 0.9, 1, 0.9, one_shot={"0.5": {"accuracy": 0.8}}),
        sparse("gradual", 0.95, 0, 0.85),
        sparse("alternating", "2:4", 0, 0.8),
        sparse("alternating", 0.5, 0, 0.9, finish="dense"),
    )
    table = tables["training-sparse-accuracy"]
    assert texts(table) == {
        ("resnet8", "none 0.9 sparse"): {"0.5": "75.00 ± 7.07", "0.95": "10.00", "2:4": "40.00"},
        ("resnet8", "none 0.9 sparse, tuned"): {"0.5": "—", "0.95": "30.00", "2:4": "60.00"},
        ("resnet8", "gradual 0.95 sparse"): {"0.5": "—", "0.95": "85.00", "2:4": "—"},
        ("resnet8", "alternating 2:4 sparse"): {"0.5": "—", "0.95": "—", "2:4": "80.00"},
    }
    assert [column.label for column in table.columns] == ["0.5", "0.95", "2:4"]
    assert [cell.best for row in table.sections[0].rows for cell in row.cells].index(True) == 7
    (panel,) = chart_of(table)["panels"]
    assert panel["categories"] == ["0.5", "0.95", "2:4"] and len(panel["series"]) == 4
    # Nothing of it is shown twice, by its path.
    assert [column.label for column in tables["training-measured"].columns] == ["Top-1 accuracy (%)"]
    assert "training-sparse-outcomes" not in tables and "training-mask-change" not in tables


def test_sparse_runs_are_called_by_how_they_were_trained(tmp_path):
    """What a section says that does nothing, and what was measured, tell no runs apart."""
    runs = [sparse("none", 0.9, 0, 0.9), sparse("none", 0.5, 1, 0.8), sparse("alternating", 0.9, 0, 0.9)]
    runs += [sparse("gradual", 0.9, 0, 0.9), sparse("none", 0.9, 0, 0.9)]
    runs[0]["recipe"]["one_shot"] = {"levels": [0.5]}
    for run in runs:
        del run["setting"]
        run["recipe"]["cram"] = {"update": "none", "plus": True, "radius": run["recipe"]["sparse"]["sparsity"]}
    runs[-1]["recipe"]["cram"]["update"] = "cram"
    (section,) = tables_of(tmp_path, *runs)["training-measured"].sections
    labels = [(row.label, row.detail) for row in section.rows]
    assert labels == [("SSc-FBS", "2 seeds"), ("AC/DC 0.9", "1 seed"), ("gradual 0.9", "1 seed"), ("CrAM+", "1 seed")]


def test_sparse_training_is_told_by_costs_outcomes_and_masks(tmp_path):
    """FLOPs are over the dense ones of the same run, whatever stands in the first row."""

    def run(schedule, training, seed=0, changes=(), **numbers):
        phases = [
            {"first": first, "epochs": 3, "sparsity": 0.9, "mask_change": change, "inactive": None}
            for first, change in changes
        ]
        flops = {"training": training, "dense_training": 200, "inference": 3, "dense_inference": 10}
        return sparse(schedule, 0.9, seed, 0.8, sparse={"phases": phases, "flops": flops}, **numbers)

    dense = {"accuracy": 0.9, "loss": 0.25, "agreement": 0.95, "cross_entropy": 0.125}
    tables = comparison(
        tmp_path,
        run("gradual", 50, changes=[(6, None), (9, 0.0)]),
        run("alternating", 100, changes=[(6, None), (12, 0.2), (18, 0.01)], dense=dense),
        run("alternating", 120, 1, changes=[(6, None), (12, 0.3)], dense={"accuracy": 0.7}),
        sparse("none", 0.9, 0, 0.9),
    )
    rows = texts(tables["training-sparse-outcomes"])
    assert [label for _, label in rows] == ["gradual 0.9 sparse", "alternating 0.9 sparse"]
    assert rows["resnet8", "alternating 0.9 sparse"] == {
        "Top-1 accuracy (%)": "80.00 ± 0.00",
        "Training FLOPs (× dense)": "0.55 ± 0.07",
        "Inference FLOPs (× dense)": "0.30 ± 0.00",
        "Dense outcome: top-1 accuracy (%)": "80.00 ± 14.14",
        "Its loss": "0.250",
        "Its agreement with the sparse one (%)": "95.00",
        "Cross entropy of the two": "0.125",
    }
    assert rows["resnet8", "gradual 0.9 sparse"]["Training FLOPs (× dense)"] == "0.25"
    # Where weights go for good, no mask brings any back.
    assert texts(tables["training-mask-change"]) == {
        ("resnet8", "alternating 0.9 sparse"): {"12": "25.00 ± 7.07", "18": "1.00"}
    }
    cells = tables["training-mask-change"].sections[0].rows[0].cells
    assert [place.pointer for place in cells[0].measurement.places] == [
        f"runs[{number}].sparse.phases[1].mask_change" for number in (1, 2)
    ]


def test_other_images_are_columns(tmp_path):
    """Table 4.3."""
    tables = tables_of(
        tmp_path,
        made.training("a"),
        vbs(),
        made.images("ImageNet-A", 0.16),
        made.images("ImageNet-A", 0.18, sampler="msc_vbs"),
        made.images("ImageNet-R", 0.4, sampler="msc_vbs"),
    )
    assert texts(tables["training-images"]) == {
        ("resnet8", "SSc-FBS"): {
            "ImageNet-A: Top-1 accuracy (%)": "16.00",
            "ImageNet-A: Calibration error (%)": "5.00",
            "ImageNet-R: Top-1 accuracy (%)": "—",
            "ImageNet-R: Calibration error (%)": "—",
        },
        ("resnet8", "MSc-VBS"): {
            "ImageNet-A: Top-1 accuracy (%)": "18.00",
            "ImageNet-A: Calibration error (%)": "5.00",
            "ImageNet-R: Top-1 accuracy (%)": "40.00",
            "ImageNet-R: Calibration error (%)": "5.00",
        },
    }
    # The accuracy on the run's own held-out images is another thing.
    assert texts(tables["training-measured"])["resnet8", "SSc-FBS"]["Top-1 accuracy (%)"] == "80.00"


def test_detectors_are_compared_by_their_average_precision(tmp_path):
    """Table 4.7. They learn from objects, and those of other scenes stand apart."""
    records = [made.training(str(most), evaluation={"ap": 0.4291, "ap50": 0.6}) for most in (3, 4)]
    for most, record in zip((3, 4), records, strict=True):
        record["recipe"] |= {"task": "objects", "objects": {"name": "scenes", "most": most}}
        del record["recipe"]["images"]
    tables = tables_of(tmp_path, *records)
    assert {slug for slug in tables if "ratios" in slug} == {"training-ratios-1", "training-ratios-2"}
    assert tables["training-ratios-1"].title == "Cost of training: scenes"
    assert texts(tables["training-ratios-1"])["resnet8", "SSc-FBS"]["mAP (%)"] == "42.91"
    assert texts(tables["training-measured-1"])["resnet8", "SSc-FBS"] == {"mAP (%)": "42.91", "AP at 0.5 (%)": "60.00"}


def test_metrics_of_other_tasks_are_shown_as_they_are(tmp_path):
    tables = tables_of(tmp_path, made.training("a", evaluation={"word_errors": 0.25}, trees=3))
    assert texts(tables["training-measured"])["resnet8", "SSc-FBS"] == {"Word errors": "0.250", "Trees": "3.00"}


def test_a_comparison_names_its_settings(tmp_path):
    runs = [
        {"setting": name, "seed": seed, **made.training(name, seed, sampler, evaluation={"accuracy": 0.5 + seed / 10})}
        for name, sampler in (("curriculum", "msc_vbswc"), ("usual", "ssc_fbs"))
        for seed in (0, 1)
    ]
    environment = {**made.ENVIRONMENT, "processor": "one"}
    comparison = {"kind": "comparison", "question": "which?", "environment": environment, "runs": runs}
    path = made.write(tmp_path, "comparison.json", comparison)
    (table, *_) = lay_tables(collect([path]))
    rows = texts(table)
    assert list(rows) == [("resnet8", "usual"), ("resnet8", "curriculum")]
    assert rows["resnet8", "usual"]["Top-1 accuracy (%)"] == "55.00 ± 7.07"
    lines = list(csv.DictReader(io.StringIO(table_csv(table))))
    accuracy = next(line for line in lines if line["column"] == "Top-1 accuracy (%)" and line["run"] == "curriculum")
    assert accuracy["pointer"] == "runs[0].evaluation.accuracy; runs[1].evaluation.accuracy"


def test_the_page_holds_every_number_and_offers_no_attentions(tmp_path):
    for seed, sampler in enumerate(("ssc_fbs", "msc_vbs", "msc_vbs")):
        options = {"run": f"a<{seed}>", "seed": seed, "sampler": sampler}
        made.write(tmp_path, f"runs/{seed}.json", made.training(sides={"8": 0.5, "16": 0.6}, **options))
        made.write(tmp_path, f"runs/{seed}-a.json", made.images("a<b>&c", 0.4 + seed / 10, **options))
    tables = write_report(tmp_path / "report", collect([tmp_path / "runs"]))
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    cells = [cell["text"] for cell in Checked(text).cells if cell["links"] and "title" in cell["links"][0]]
    numbers = [cell.text for table in tables for cell in table.cells() if cell.measurement is not None]
    assert len(cells) == len(numbers) > 20
    assert all(found.startswith(number) for found, number in zip(cells, numbers, strict=True))
    assert 'data-chart="training-sides"' in text and "Evaluated with" not in text
    assert "| MSc-VBS | 2 seeds |" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda record: record.pop("recipe"), "recipe is missing"),
        (lambda record: record.pop("evaluation"), "evaluation is missing"),
        (lambda record: record["recipe"].pop("task"), "recipe.task is missing"),
        (lambda record: record["recipe"].pop("output"), "recipe.output is missing"),
    ],
)
def test_a_damaged_result_is_named_with_its_field(tmp_path, damage, words):
    record = json.loads(json.dumps(made.training()))
    damage(record)
    path = made.write(tmp_path, "results.json", record)
    with pytest.raises(ValueError) as caught:
        collect([path])
    assert str(caught.value).endswith(f"\n  {path}: {words}")
