"""One tracked run as a use case: typed options in, a result out; no arguments to parse and no console.

    from trainer.run import TrainOptions, train_run

    result = train_run(TrainOptions(recipe="digits", data=Path("data/digits")))
    print(result.top1, result.model)

Names are imported when they are asked for: what is wrong with the options is said before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.run._champion import for_record, promote_model, record, roll_back
    from trainer.run._compare import check_page, compare_runs, write_comparison
    from trainer.run._demo import show_demo
    from trainer.run._eta import Eta, duration
    from trainer.run._evaluate import EvaluationResult, evaluate_model
    from trainer.run._export import export_model
    from trainer.run._extension import Extension, make_extension
    from trainer.run._find_lr import LrSuggestion, find_lr
    from trainer.run._limits import Budgeted, check_budget, priced, within_budget
    from trainer.run._mirror import check_mirror, restore_run, upload_run
    from trainer.run._options import (
        EvaluateOptions,
        ExtendOptions,
        FindLrOptions,
        PublishOptions,
        ReportOptions,
        StartOptions,
        TrainOptions,
        Weights,
    )
    from trainer.run._plan import Plan, make_plan, proof_of, require_single_process
    from trainer.run._preflight import network_summary, preflight
    from trainer.run._publish import Published, publish_model
    from trainer.run._report import report_run
    from trainer.run._resolve import ResolvedModel, resolve_model
    from trainer.run._result import RunResult, read_result
    from trainer.run._train import extend_run, train_run
    from trainer.run._worker import Display

_MODULES = {
    "Budgeted": "_limits",
    "Display": "_worker",
    "Eta": "_eta",
    "EvaluateOptions": "_options",
    "EvaluationResult": "_evaluate",
    "ExtendOptions": "_options",
    "Extension": "_extension",
    "FindLrOptions": "_options",
    "LrSuggestion": "_find_lr",
    "Plan": "_plan",
    "PublishOptions": "_options",
    "Published": "_publish",
    "ReportOptions": "_options",
    "ResolvedModel": "_resolve",
    "RunResult": "_result",
    "StartOptions": "_options",
    "TrainOptions": "_options",
    "Weights": "_options",
    "check_budget": "_limits",
    "check_mirror": "_mirror",
    "check_page": "_compare",
    "compare_runs": "_compare",
    "duration": "_eta",
    "evaluate_model": "_evaluate",
    "export_model": "_export",
    "extend_run": "_train",
    "find_lr": "_find_lr",
    "make_extension": "_extension",
    "for_record": "_champion",
    "make_plan": "_plan",
    "network_summary": "_preflight",
    "preflight": "_preflight",
    "priced": "_limits",
    "promote_model": "_champion",
    "proof_of": "_plan",
    "publish_model": "_publish",
    "read_result": "_result",
    "record": "_champion",
    "report_run": "_report",
    "require_single_process": "_plan",
    "resolve_model": "_resolve",
    "restore_run": "_mirror",
    "roll_back": "_champion",
    "show_demo": "_demo",
    "train_run": "_train",
    "upload_run": "_mirror",
    "within_budget": "_limits",
    "write_comparison": "_compare",
}

__all__ = [
    "Budgeted",
    "Display",
    "Eta",
    "EvaluateOptions",
    "EvaluationResult",
    "ExtendOptions",
    "Extension",
    "FindLrOptions",
    "LrSuggestion",
    "Plan",
    "PublishOptions",
    "Published",
    "ReportOptions",
    "ResolvedModel",
    "RunResult",
    "StartOptions",
    "TrainOptions",
    "Weights",
    "check_budget",
    "check_mirror",
    "check_page",
    "compare_runs",
    "duration",
    "evaluate_model",
    "export_model",
    "extend_run",
    "find_lr",
    "for_record",
    "make_extension",
    "make_plan",
    "network_summary",
    "preflight",
    "priced",
    "promote_model",
    "proof_of",
    "publish_model",
    "read_result",
    "record",
    "report_run",
    "require_single_process",
    "resolve_model",
    "restore_run",
    "roll_back",
    "show_demo",
    "train_run",
    "upload_run",
    "within_budget",
    "write_comparison",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
