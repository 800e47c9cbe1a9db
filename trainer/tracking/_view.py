"""The list of an experiment's runs with the columns that matter, as a view saved in the experiment.

MLflow's UI keeps such a view in a tag of the experiment; `?viewStateShareKey=trainer` opens it. No public API:
the form is that of MLflow 3.17, and another one would ignore it.
"""

from __future__ import annotations

import base64
import json
import zlib

from trainer import metrics

VIEW_KEY = "trainer"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"

COLUMNS = (
    f"metrics.`{metrics.VAL_TOP1}`",
    f"metrics.`{metrics.TRAIN_LOSS}`",
    f"metrics.`{metrics.EPOCH}`",
    "attributes.`Models`",
    "tags.`gpu`",
    "tags.`last_seen`",
    "tags.`ended`",
)
# Within the first screen of 1440 pixels, though MLflow's Assistant takes a quarter of it.
ORDER = ("attributes.`Run Name`", "runDateAndNestInfo", "duration", *COLUMNS)
WIDTHS = {"attributes.`Run Name`": 170, "metrics.`epoch`": 70}  # pixels


def saved_view() -> str:
    """Value of the tag: newest runs first, these columns."""
    state = {
        "searchFilter": "",
        # In backticks: by the key of its column "Created" the UI folds runs below their parents, also one that goes on.
        "orderByKey": "attributes.`start_time`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": COLUMNS,
        "columnOrder": ORDER,
        "columnWidths": WIDTHS,
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)).decode()
    # A constant time, so that the tag is the same whoever writes it.
    return json.dumps({"name": "Runs", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})
