"""Train GPT-2: batches to weights, resumable to the same bits.

Training from scratch, fine-tuning and resuming are one loop. `loss`, `optim` and `step` make one
step; `launch` starts or resumes a run, `run` is its loop, `saving` and `checkpoint_files` keep its
state; `log`, `progress` and `report` describe it. Batches come from `corpus`.
"""
