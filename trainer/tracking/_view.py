"""The list of an experiment's runs with the columns that matter, as a view saved in the experiment.

MLflow's UI keeps such a view in a tag of the experiment; `?viewStateShareKey=trainer` opens it. No public API:
the form is that of MLflow 3.17, and another one would ignore it.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

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
        "orderByKey": "attributes.start_time",
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
    # A constant time, so that the tag is the same whoever writes it.
    return _packed({"name": "Runs", "createdAt": 0, "updatedAt": 0}, state)


def with_children(view: str, parent: str) -> str:
    """The same view, with the runs below the run `parent` shown: the UI folds them, the one that is going on as well.

    Raises: ValueError if somebody has changed it to another form.
    """
    try:
        stored = json.loads(view)
        _, _, packed = stored["state"].partition(";")
        state = json.loads(zlib.decompress(base64.b64decode(packed)))
        return _packed(stored, {**state, "runsExpanded": {**state.get("runsExpanded", {}), parent: True}})
    except (ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
        raise ValueError(f"no view of MLflow 3.17: {error}") from None


def _packed(view: dict[str, Any], state: dict[str, Any]) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)).decode()
    return json.dumps({**view, "state": f"deflate;{packed}"})
