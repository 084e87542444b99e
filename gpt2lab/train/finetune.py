"""Train a model in one call: `finetune` starts from a checkpoint, `pretrain` from scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2lab.errors import InputError
from gpt2lab.lm import LM, load
from gpt2lab.train import progress
from gpt2lab.train.aliases import translate
from gpt2lab.train.launch import prepare_run

Text = str | Path | Sequence[str | Path] | None
Callback = Callable[[dict[str, Any]], None]


def _trained(
    text: Text, given: dict[str, Any], tunes: bool, verbose: bool, callback: Callback | None
) -> LM:
    with progress.shown(verbose):
        ours = translate(given)
        named = ours.pop("text", None)  # gpt-2-simple's name of it
        if text is not None and named is not None:
            raise InputError("the text is given twice, as an argument and as dataset; give one")
        texts = text if text is not None else named or []
        listed = [texts] if isinstance(texts, str | Path) else texts
        with prepare_run([str(path) for path in listed], ours, tunes=tunes) as run:
            for record in progress.logged(run.folder, run.go()):
                if callback is not None:
                    callback(record)
    return load(str(run.folder))


def finetune(
    text: Text = None, *, verbose: bool = True, callback: Callback | None = None, **given: Any
) -> LM:
    """Fine-tune a model on texts and return it; everything the run made is in its folder.

    text: files, folders, patterns, or a set of tokens, as `gpt2lab train` takes them; also called
    dataset; not needed to resume. verbose: log a line of loss every ten seconds, validations and
    notes as INFO records of loggers below `gpt2lab`, on stderr where the program has no handler for
    them. callback: called with each record of the run (its kind, step, loss and so on, as in
    log.jsonl).
    given: model (the bundled one by default), out (the run's folder, "finetuned"), val, held_out,
    overwrite, resume, how texts are read (the fields of `documents.Reading`), every field of
    `TrainConfig`; or other trainers' words for them, each explained by a warning once in a process
    (`translate`): output_dir, num_train_epochs, per_device_train_batch_size, save_steps, run_name,
    restore_from, accumulate_gradients and so on. Raises InputError for what does not fit.
    """
    return _trained(text, given, True, verbose, callback)


def pretrain(
    data: Text = None, *, verbose: bool = True, callback: Callback | None = None, **given: Any
) -> LM:
    """Train a GPT-2 from scratch and return it, as `gpt2lab train` does, to the same weights.

    data: texts or sets of tokens, several with their `weights`; not needed to resume. given: the
    shape of the model by size ("124M"; layers, heads, width and context change it) or by layers
    (6), heads (6), width (384) and context (256), init ("paper", "openai" or "hf"), vocabulary (a
    model's name or a `Tokenizer`; GPT-2's by default), out (the run's folder, "trained"), a budget
    (steps, epochs, tokens or minutes) and everything else as in `finetune`. With resume=True the
    run in `out` is resumed, and what is given again is compared with it: the weights become, bit
    for bit, those of an uninterrupted run. Raises InputError for what does not fit.
    """
    return _trained(data, given, False, verbose, callback)
