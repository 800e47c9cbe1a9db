"""From an AWS account to a trained model, in AWS's own words; the only door to boto3.

This package and all it imports needs Python and boto3 alone: it runs at home, where there is no torch.
"""

from trainer.cloud._account import Finding, look_at
from trainer.cloud._aws import Aws, aws_errors
from trainer.cloud._checkout import origin, pushed_commit, require_clonable
from trainer.cloud._data import Data, plan_data
from trainer.cloud._down import plan_down
from trainer.cloud._plan import Plan
from trainer.cloud._status import shown, status
from trainer.cloud._tunnel import Tunnel, find_tunnel
from trainer.cloud._up import Up, plan_up

__all__ = [
    "Aws",
    "Data",
    "Finding",
    "Plan",
    "Tunnel",
    "Up",
    "aws_errors",
    "find_tunnel",
    "look_at",
    "origin",
    "plan_data",
    "plan_down",
    "plan_up",
    "pushed_commit",
    "require_clonable",
    "shown",
    "status",
]
