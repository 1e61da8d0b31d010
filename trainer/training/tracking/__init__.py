"""What a training leaves behind while it runs: its log, example decisions, and a copy of both in MLflow.

The run directory is the record; MLflow is for looking at many runs at once. So MLflow never holds up or ends a
training, and whatever it missed is sent later.
"""
