"""Records a training while it runs: its log, example decisions, and a copy of both in MLflow.

The run directory is the record, and MLflow is for comparing many runs. So MLflow never delays or ends a training, and
what it missed is sent later.
"""
