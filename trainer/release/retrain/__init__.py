"""`python -m trainer retrain`: from new labels to a promoted model, in stages that can be killed and started again.

One call of the command locks the work directory, decides, takes a fencing token in the registry, does the stages that
are not done, and writes what happened. docs/retraining.md describes it for users. Read the modules in this order:

The call
    command     options; decide, then work; how a call ends
    config      the settings, one YAML file
    errors      one class per exit status

Is there work?
    collect     where labels come from, and what is new among them
    decide      run or skip, with the reason; needs no GPU and imports no torch

The run
    machine     stage after stage: found or made, recorded, and the errors of all stages given an exit status
    stages      the table of the stages, and what decides the result of each
    context     what each stage is given
    work        what each stage does
    reasoning   the reasoning that fine-tuning teaches, for labels without one
    releasing   the stages that speak to the registry: publish, gate, promote
    confirm     the last stage: do the services serve the new model?

The stages that need a GPU
    worker      a process per stage, or torchrun
    heavy       what that process does
    joining     the other machines of a training (`--join`)

One at a time, and what is remembered
    lock        the file lock, the lease and the fencing token
    state       WORK/state.json
    ledger      WORK/ledger.json: what the GPUs cost

What is told
    explain     `--explain` and `--dry-run`
    report      one HTML page per run
    metrics     the file for Prometheus
    closing     writes these at the end of a call, where no failure may change how the call ended
"""
