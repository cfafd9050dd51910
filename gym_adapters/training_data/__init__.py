"""Data for trainers: row files checked, blended and split; files made from stored rollouts.

Nothing here imports a trainer. `rows`, `collation`, `splits`, `row_stats` and `profile` are about
task rows; `stored`, `selection`, `sft`, `preferences` and `export` about stored rollouts;
`replay_buffer` and `curriculum` feed a run.
"""
