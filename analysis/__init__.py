"""What is made of trained models: the paper's experiments, its tables, and what runs and evaluations leave.

One experiment of the paper each, a command that writes results/analysis: `time_shuffle` (Table II, Fig. 1),
    `encoder_classification` (Table III), `image_grids` (Fig. 3, 8 to 11), `latent_raster` (Fig. 4), `noise_robustness`
    (Fig. 5, 12, 13), `firing_rates` (Fig. 6, 7), `spike_operations` (energy) and `fad_parts`, not in the paper.
What all experiments share: `experiment` (settings and command), `subjects` (the models compared), `experiment_result`
    (files), `drawing`; `notebook` and `report` show them.
Parts of one or two: `perturbation` (of a latent), `latents` (drawn for the figures of rates), `features` and
    `classifier` (Table III), `rate_histograms` and `rate_log` (firing rates), `operations` (of synapses).
One model or a file of images, for evaluate.py: `evaluation`, `generation` (metrics of samples), `comparison` (with the
    paper, in words).
Runs behind the tables, for reproduce.py: `rows` (of experiments.toml), `reproduction` (train them), `release` (weights
    and card), `row_results` (read results), `fingerprint` (of weights), `status`.
Tables for docs/: `tables` writes them all, from `table1`, `experiment_tables` (II, III), `full_budget`, `run_list`,
    `summaries` (of experiments), `rate_convergence` (Fig. 7), `trial_tables`; `table_lines` and `table_layout` make the
    lines of I to III, `published` has others' numbers, `formats` writes any table as text, Markdown, LaTeX.
Studies by many short runs: `recipe_search`, `variant_switches`, `precisions`; `trials` runs theirs.
"""
