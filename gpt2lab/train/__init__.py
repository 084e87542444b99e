"""Train GPT-2: texts to tokens, tokens to batches, batches to weights, exactly resumable.

From scratch and on from a checkpoint are one loop. `documents`, `shards`, `prepare` and `data` make
batches and need no torch; `model`, `loss`, `optim` and `loop` are one step; `checkpoint` and `run`
keep what a run makes; `journal` and `report` tell of it.
"""
