"""From an AWS account to a trained model: what `trainer cloud` does, by boto3."""
