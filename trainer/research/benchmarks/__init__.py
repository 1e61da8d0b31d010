"""`python -m trainer benchmark`: public multi-image benchmarks (paper, tables 8 to 10).

Read in this order: layouts (the published columns → one record), published (the parquet files around them), questions
(the record, and a split benchmark on disk), divide (which half), split (the stage that makes it), prompt, answer
(asking and reading), engine, evaluate, report (scoring), sft, reward, hcm_grpo (training).
"""
