"""What is measured: `local_service` starts a service, `baselines` with generate_loop are compared with it.

`canary_checkpoints`, `swapping` and `versions` swap checkpoints under load and check the answers; `processes` and
`watching` measure the service's processes.
"""
