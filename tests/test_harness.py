"""lm-evaluation-harness 0.4.13: its own values on a small model, and the class that it calls.

`python -m tests.test_harness` in an environment with lm_eval prints the values below.
"""

from __future__ import annotations

import importlib.util
import json
import tomllib

import pytest

from gpt2lab import InputError
from gpt2lab.evals import lambada, perplexity
from gpt2lab.evals.detokenizers import DETOKENIZERS

from .support import ROOT
from .test_evals import small

PAGES = [
    " = First = \n \n" + " Some text , with a @-@ mark ( and brackets ) , he said . \n" * 5,
    " = Second = \n \n A short one 's end . \n ",
    "  = Third = \n" + " It went on , and on ; 1 @,@ 000 times . " * 9,
]
PASSAGES = [f"She gave him {n} figs and then he ate the {w}" for n, w in enumerate(("figs", "cat"))]
#: Printed by lm-evaluation-harness 0.4.13.
VALUES = {
    "word_perplexity": 55716903000.67261,
    "bits_per_byte": 9.975710667897905,
    "perplexity": 3233877039792035.5,
    "acc": 0.0,
}


def quiet(done: int) -> None:
    pass


def harness_values(folder) -> dict[str, float]:
    """What the harness's evaluator makes of its two tasks, on these pages and passages."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks.wikitext import preprocess_wikitext

    from gpt2lab.evals.harness import Harness

    def task(name, rows, **config):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")}
        return ConfigurableTask(
            config={"task": name, "dataset_path": "json", "dataset_kwargs": files,
                    "test_split": "test", **config}
        )  # fmt: skip

    model = object.__new__(Harness)
    super(Harness, model).__init__()
    model.lm = small()
    wikitext = task(
        "wikitext_here", [{"page": page} for page in PAGES], output_type="loglikelihood_rolling",
        doc_to_text="", doc_to_target=preprocess_wikitext.wikitext_detokenizer,
        process_results=preprocess_wikitext.process_results,
        metric_list=[
            {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
    )  # fmt: skip
    last_word = task(
        "lambada_here", [{"text": text} for text in PASSAGES], output_type="loglikelihood",
        doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
        doc_to_target="{{' '+text.split(' ')[-1]}}",
        metric_list=[
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    )  # fmt: skip
    tasks = {"wikitext_here": wikitext, "lambada_here": last_word}
    found = lm_eval.evaluate(model, tasks, bootstrap_iters=0)["results"]
    flat = {k.split(",")[0]: v for result in found.values() for k, v in result.items()}
    return {name: float(flat[name]) for name in VALUES}


def our_values() -> dict[str, float]:
    lm = small()
    blocks = [perplexity.TextBlock(page) for page in PAGES]
    found = {m.protocol: m.value for m in perplexity.harness_pages(lm, blocks, quiet)}
    items = lambada._passages(PASSAGES, "here")
    found |= {m.protocol: m.value for m in lambada.scored(lm, items, "x", quiet)}
    return {
        "word_perplexity": found["harness/pages/word"],
        "bits_per_byte": found["harness/pages/byte"],
        "perplexity": found["x/word-perplexity"],
        "acc": found["x/word-forced"],
    }


def test_our_cells_are_the_harness_s_numbers():
    assert our_values() == pytest.approx(VALUES, rel=1e-6)


def test_the_command_names_the_extra(run):
    if importlib.util.find_spec("lm_eval") is None:
        code, _, err = run("evaluate", "--harness", "--", "--tasks", "piqa")
        assert code == 2 and "pip install 'gpt2lab[harness]'" in err and err.count("\n") == 1
    code, _, err = run("evaluate", "piqa")
    assert code == 2 and "'piqa' is no option" in err


def test_live_against_the_harness(tmp_path):
    pytest.importorskip("lm_eval")
    assert harness_values(tmp_path) == pytest.approx(our_values(), rel=1e-9)


def test_windows_are_those_of_the_harness():
    utils = pytest.importorskip("lm_eval.utils")
    lm = small()
    for length in (1, 2, 95, 96, 97, 98, 191, 192, 193, 400):
        tokens = [i % 250 for i in range(length)]
        theirs = list(utils.get_rolling_token_windows(tokens, lm.config.begin, 96, 1))
        ours = [(c + e[0][:-1], e[0]) for c, e in perplexity.harness_windows(lm, tokens)]
        assert ours == theirs


def test_the_detokenizer_is_the_harness_s():
    module = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    for page in PAGES:
        ours = DETOKENIZERS["wikitext-megatron"](page)
        assert ours == module.wikitext_detokenizer({"page": page})


def test_the_entry_point_names_the_class():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["lm_eval.models"]["gpt2lab"].partition(":")
    assert (module, name) == ("gpt2lab.evals.harness", "Harness")
    if importlib.util.find_spec("lm_eval") is None:
        with pytest.raises(InputError, match=r"pip install 'gpt2lab\[harness\]'"):
            importlib.import_module(module)
    else:
        assert hasattr(importlib.import_module(module), name)


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    print(harness_values(Path(tempfile.mkdtemp())))
