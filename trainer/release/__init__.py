"""From a trained checkpoint to production: `card`, `publish`, `promote`, and `retrain`, which runs every stage.

`launch_job` starts a retraining in Kubernetes.
"""
