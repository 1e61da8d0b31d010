"""`python -m trainer benchmark`: public multi-image benchmarks (paper, tables 8 to 10).

Read in this order: layouts (published columns → one record), published (the parquet files), questions (the record, and
a split benchmark on disk), divide (assign questions to halves), split (the stage that writes the halves), prompt and
answer (asking and parsing), engine, evaluate and report (scoring), sft, reward and hcm_grpo (training).
"""
