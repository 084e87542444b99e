"""Benchmarks against independent code: the reference in NumPy, and each rule written again."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

import gpt2lab
from gpt2lab import InputError, reference
from gpt2lab.config import Config
from gpt2lab.evals import TASKS, bytes_of_text, choices, generated, lambada, perplexity, suite
from gpt2lab.evals.detokenizers import DETOKENIZERS
from gpt2lab.evals.measures import Measure
from gpt2lab.evals.task import drawn, rotated
from gpt2lab.lm import LM
from gpt2lab.weights import Checkpoint

from .support import DATA, tiny_params
from .test_compress import byte_tokenizer

WINDOW = 96


def small(seed: int = 0, end: bool = True) -> LM:
    """A random model over bytes, by the numpy engine in float64."""
    tokenizer = byte_tokenizer(end)
    ends = (tokenizer.end_token,) if end else ()
    config = Config(
        n_vocab=tokenizer.n_vocab, n_ctx=WINDOW, n_embd=16, n_head=2, n_layer=1, end_tokens=ends
    )
    params = tiny_params(config, seed, 30.0)
    return LM(Checkpoint(config, params, tokenizer, "huggingface"), engine="numpy", dtype="float64")


def logprobs(lm: LM, context: list[int], ending: list[int]) -> np.ndarray:
    """The log-probabilities of an ending, by one pass of the reference."""
    ids = np.array([[*context, *ending]])[:, :-1]
    params = {name: value.astype(np.float64) for name, value in lm.params.items()}
    logits = reference.model(lm.config, params, ids)["logits"][0]
    logits = logits - logits.max(-1, keepdims=True)
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return rows[len(context) - 1 :][np.arange(len(ending)), ending]


def greedy(lm: LM, context: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache."""
    ids, params = list(context), {n: v.astype(np.float64) for n, v in lm.params.items()}
    for _ in range(count):
        ids.append(
            int(reference.model(lm.config, params, np.array([ids]))["logits"][0, -1].argmax())
        )
    return ids[len(context) :]


def by_protocol(measures: list[Measure]) -> dict[str, float]:
    return {m.protocol: m.value for m in measures}


def quiet(done: int) -> None:
    pass


# ---- Numbers.


def test_the_standard_error_is_that_of_a_bootstrap():
    random = np.random.default_rng(0)
    weights = random.integers(5, 40, 300).astype(float)
    values = weights * random.normal(3, 0.4, 300)
    for metric in ("perplexity", "bits_per_byte"):
        m = Measure("x", metric, values.tolist(), weights.tolist())
        draws = []
        for _ in range(600):
            i = random.integers(0, 300, 300)
            draws.append(Measure("x", metric, values[i].tolist(), weights[i].tolist()).value)
        assert m.error == pytest.approx(np.std(draws), rel=0.15)
    flips = (random.random(200) < 0.3).astype(float)
    m = Measure("x", "accuracy", flips.tolist(), [1.0] * 200)
    assert m.error == pytest.approx(math.sqrt(m.value * (1 - m.value) / 199), rel=1e-9)


def test_limits_draw_with_a_fixed_seed_and_no_item_keeps_its_input():
    items = list(range(1000))
    assert drawn(items, 20) == drawn(items, 20) == sorted(drawn(items, 20)) != items[:20]
    for n in (2, 3, 10, 11):
        assert all(a != b for a, b in zip(rotated(range(n)), range(n), strict=True))


# ---- Perplexity.

TEXT = [
    "The cat sat on the mat .\n",
    "It was a @-@ day , he said .\n",
    "\n",
    "The end of the day\n",
]


def windows(lm: LM, ids: list[int], stride: int) -> float:
    """The nats of all tokens after the first, in windows, written again."""
    total, done = 0.0, 0
    while done < len(ids) - 1:
        end = min(len(ids) - 1, WINDOW if done == 0 else done + stride)
        start = max(0, end - WINDOW)
        total -= logprobs(lm, ids[start : done + 1], ids[done + 1 : end + 1]).sum()
        done = end
    return total


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("stride", ["half", "whole"])
def test_perplexities_in_three_normalisations(end, stride):
    lm = small(end=end)
    texts = TEXT * 5  # longer than the window
    blocks = [perplexity.TextBlock(text) for text in texts]
    variant = perplexity.Variant("as-is", stride, ("token", "word+eos", "byte"))
    found = by_protocol(perplexity.scorer([variant])(lm, blocks, quiet))
    whole = "".join(texts)
    ids = lm.tokenizer.encode(whole)
    nats = windows(lm, [lm.config.begin, *ids] if end else ids, WINDOW if stride == "whole" else 48)
    per = {"token": len(ids) - (not end), "word+eos": len(whole.split()) + whole.count("\n")}
    for unit, count in per.items():
        assert found[f"as-is/stride-{stride}/per-{unit}"] == pytest.approx(
            math.exp(nats / count), rel=1e-6
        )
    bits = nats / math.log(2) / len(whole.encode())
    assert found[f"as-is/stride-{stride}/per-byte"] == pytest.approx(bits, rel=1e-6)


def test_a_text_shorter_than_a_window_and_its_missing_control():
    lm = small()
    blocks = [perplexity.TextBlock("One short line .\n"), perplexity.TextBlock("Two .\n")]
    scoring = perplexity.scorer([perplexity.Variant("as-is", "half", ("token",))])
    assert scoring(lm, blocks, quiet)[0].value > 1
    with pytest.raises(InputError, match="fewer than three half windows"):
        scoring(lm, perplexity.swap(blocks), quiet)


def test_the_control_of_a_text_changes_the_contexts_alone():
    lm = small()
    tokens = lm.tokenizer.encode("".join(TEXT * 6))
    found = perplexity._scores(lm, tokens, 48, True)
    text = [lm.config.begin, *tokens]
    places = list(range(48, len(text), 48))
    for i, place in enumerate(places):
        other = places[(i + len(places) // 2) % len(places)]
        ending = text[place : place + 48]
        expected = logprobs(lm, text[other - 48 : other], ending)
        got = found[place - 1 : place - 1 + len(ending)]
        assert got == pytest.approx(expected, rel=1e-6)
    assert np.isnan(found[:47]).all()


WIKI = (
    " \n = First = \n \n Some text , with a @-@ mark . \n \n = = Part = = \n \n More ( of it ) . \n"
    " \n = Second = \n \n The second page 's text . \n \n"
)


def test_pages_are_those_of_the_document_level_data_set(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(WIKI, encoding="utf-8")
    blocks = perplexity.pages(path)
    assert [block.page.split("\n")[0] for block in blocks] == [" = First = ", " = Second = "]
    assert "".join(block.text for block in blocks) == WIKI.split("\n", 1)[1]
    true = DATA / "wikitext2" / "wiki.test.raw"
    if true.exists():
        assert len(perplexity.pages(true)) == 62


def test_the_harness_reads_page_by_page_and_moves_the_last_window_left():
    """Its quirks written again: empty ends are words, the last window is full."""
    lm = small()
    pages = [("A word and another , " * 12) + "\n", " short \n"]
    blocks = [perplexity.TextBlock(page) for page in pages]
    found = by_protocol(perplexity.harness_pages(lm, blocks, quiet))
    nats = words = size = 0.0
    for page in pages:
        ids = lm.tokenizer.encode(DETOKENIZERS["wikitext-megatron"](page))
        whole = [lm.config.begin, *ids]
        first = min(WINDOW, len(ids))
        nats -= logprobs(lm, whole[:1], ids[:first]).sum()
        at = first
        while at < len(ids):
            count = min(WINDOW, len(ids) - at)
            end = at + count
            nats -= logprobs(lm, whole[end - WINDOW : at + 1], ids[at:end]).sum()
            at = end
        words += len(re.split(r"\s+", page))
        size += len(page.encode())
    assert found["harness/pages/word"] == pytest.approx(math.exp(nats / words), rel=1e-6)
    assert found["harness/pages/byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_detokenizers_do_what_their_sources_do():
    wiki = DETOKENIZERS["wikitext-megatron"]
    hall = ' a 12 @,@ 500 @-@ seat hall ( the " old " one ) . It \n'
    assert wiki(hall) == ' a 12,500-seat hall (the "old" one). It\n'
    assert wiki("= = Part = =") == "== Part =="
    assert wiki("a ' 5 b") == "a ' 5 b"  # the rule with slashes never matches
    assert DETOKENIZERS["ptb-megatron"](" it is n't $ N a share \n") == " it isn't $1 a share\n"
    book = "`` Ca n't you see ? '' said the Fox 's wife -LRB- at last -RRB- ."
    assert DETOKENIZERS["treebank"](book) == "\"Can't you see?\" said the Fox's wife (at last)."


def test_text8_is_made_by_its_own_filter():
    """The beginning of text8 is well known; enwik8's beginning gives it."""
    line = "<text x>[[Link|a 2nd]] &amp; ''B'' {{cut}}<ref>no</ref> [http://x.y shown]</text>\n"
    assert bytes_of_text.text8_of(line).strip() in ("a two nd b shown", "")
    page = "<text x>\n[[Link|a 2nd]] &amp; ''B'' {{cut}}[http://x.y shown]\n</text>\n#x\n"
    assert bytes_of_text.text8_of(page).strip() == "a two nd b shown"
    true = DATA / "wiki_xml" / "enwik5"
    if true.exists():
        found = bytes_of_text.text8_of(true.read_text(encoding="utf-8", errors="ignore"))
        assert found.startswith(
            " anarchism originated as a term of abuse first used against early working class "
            "radicals including the diggers of the english revolution and the sans culottes of "
        )
        assert set(found) <= set("abcdefghijklmnopqrstuvwxyz ")


# ---- LAMBADA.

PASSAGES = [
    "The cat saw the dog and the",
    "“A dog,” he said to the cat",
    "It was the end of it all",
]


@pytest.mark.parametrize("text", ["openai-file", "openai-file-prepared"])
def test_lambada_by_every_scoring(text):
    lm = small(3)
    items = lambada._passages(PASSAGES, "here")
    items = [lambada.prepared(item) for item in items] if "prep" in text else items
    measures = {(m.protocol, m.metric): m for m in lambada.scored(lm, items, text, quiet)}
    for i, item in enumerate(items):
        context = lm.tokenizer.encode(item.context)
        word = lm.tokenizer.encode(" " + item.word)
        found = logprobs(lm, context, word)
        forced = [int(w == greedy(lm, context + word[:k], 1)[0]) for k, w in enumerate(word)]
        assert measures[f"{text}/last-token", "accuracy"].values[i] == forced[-1]
        assert measures[f"{text}/word-forced", "accuracy"].values[i] == all(forced)
        nats = measures[f"{text}/word-perplexity", "perplexity"].values[i]
        assert nats == pytest.approx(-found.sum(), rel=1e-6)
        said = lm.decode(greedy(lm, context, lambada.GREEDY)).split()
        right = lambada._word(item.word)
        expected = bool(said) and lambada._word(said[0]) == right
        assert measures[f"{text}/word-greedy", "accuracy"].values[i] == expected


class _Scripted:
    """An engine whose next token is a function of the tokens so far: for planted cases."""

    name, dtype = "numpy", "float32"

    def __init__(self, config: Config, follow: dict[str, list[int]], decode) -> None:
        self.config, self.follow, self.decode = config, follow, decode

    def cache(self, slots=None):
        from gpt2lab.cache import Cache

        self.tokens: dict[int, list[int]] = {}
        return Cache(self.config, np.float32, slots)

    def _rows(self, cache, slots, tokens):
        for slot, new in zip(slots, tokens, strict=True):
            kept = self.tokens.get(slot, [])[: cache.length(slot)]
            rows = []
            for token in new:
                kept = [*kept, token]
                row = np.full(self.config.n_vocab, -20.0)
                text = self.decode(kept)
                key = max((k for k in self.follow if text.endswith(k)), key=len, default="")
                for rank, best in enumerate(self.follow.get(key, [])):
                    row[best] = -rank
                rows.append(row)
            self.tokens[slot] = kept
            cache._lengths[slot] += len(new)
            yield np.array(rows)

    def step(self, cache, slots, tokens, wanted=None):
        return np.stack([rows[-1] for rows in self._rows(cache, slots, tokens)])

    def score(self, cache, slots, tokens, wanted):
        from gpt2lab.engines.wanted import measure

        rows = self._rows(cache, slots, tokens)
        return [measure(r[list(w.positions)], w) for r, w in zip(rows, wanted, strict=True)]


def test_a_model_right_by_one_protocol_and_wrong_by_another():
    """It writes "the" where a stop word is not allowed, a longer word, and the end of a word."""
    lm = small()
    ids = lm.tokenizer.encode
    lm.engine = _Scripted(
        lm.config,
        {
            "saw": ids(" ")[:1], "saw ": [*ids("the"), ids("d")[0]], "saw d": ids("o"),
            "saw do": ids("g"), "saw dog": ids("."), "saw the": ids(" "),
            "ate": ids(" "), "ate ": ids("f"), "ate f": ids("i"), "ate fi": ids("g"),
            "ate fig": ids("s"), "ate figs": ids("."),
        },
        lm.decode,
    )  # fmt: skip
    items = [lambada.Passage("She ate", "fig")]
    found = by_protocol(lambada.scored(lm, items, "t", quiet))
    assert (found["t/last-token"], found["t/word-forced"], found["t/word-greedy"]) == (1, 1, 0)
    # The vocabulary's tokens are bytes, so the blank is a token of its own and passes the filter.
    one = lambada._first_token(lm, [ids("the")[0], ids("d")[0]])
    assert lm.decode([one]) == "d"


# ---- Choices.


def test_choices_by_every_rule():
    lm = small(1)
    items = [
        choices.Choice("The cat sat", ("on the mat", "on it", "the"), 1),
        choices.Choice("A dog", ("ran", "ran away from the house"), 0),
    ]
    found = {m.protocol: m.values for m in choices.plain(lm, items, quiet)}
    for i, item in enumerate(items):
        context = lm.tokenizer.encode(item.context)
        scores = [logprobs(lm, context, lm.tokenizer.encode(" " + e)) for e in item.endings]
        rules = {
            "sum": [s.sum() for s in scores],
            "per-token": [s.mean() for s in scores],
            "per-character": [s.sum() / len(e) for s, e in zip(scores, item.endings, strict=True)],
        }
        for name, values in rules.items():
            assert found[name][i] == (int(np.argmax(values)) == item.right)


def test_hellaswag_as_in_build_nanogpt_and_as_in_the_harness(tmp_path):
    row = {"ctx": "He sits. he", "activity_label": "Rest", "ctx_a": "He sits.", "ctx_b": "he",
           "label": "1", "endings": ["[title] Runs  [x] off.", "sleeps."]}  # fmt: skip
    path = tmp_path / "hellaswag_val.jsonl"
    path.write_text(json.dumps(row))
    [item] = choices.hellaswag_items(path)
    assert (item.context, item.longer, item.right) == ("He sits. he", "Rest: He sits. He", 1)
    assert choices._harness_text(" a [title] b [c] d") == "a. b d"
    lm = small(1)
    found = {m.protocol: m.values[0] for m in choices.score_hellaswag(lm, [item], quiet)}
    for name, context, endings in (
        ("as-is", item.context, item.endings),
        ("harness", item.longer, (choices._harness_text(item.endings[0]), "sleeps.")),
    ):
        ids = lm.tokenizer.encode(context)
        scores = [logprobs(lm, ids, lm.tokenizer.encode(" " + e)) for e in endings]
        assert found[f"{name}/sum"] == (np.argmax([s.sum() for s in scores]) == 1)
        assert found[f"{name}/per-token"] == (np.argmax([s.mean() for s in scores]) == 1)


def test_cloze_and_winograd_score_the_rest():
    lm = small(2)
    item = choices.Choice("The fox ran", ("home", "away"), 1, " again.")
    both, alone = choices.score_cloze(lm, [item], "", quiet)
    context, encode = lm.tokenizer.encode(item.context), lm.tokenizer.encode
    whole = [logprobs(lm, context, encode(f" {e}{item.rest}")) for e in item.endings]
    assert both.values[0] == (np.argmax([w.sum() for w in whole]) == 1)
    assert alone.values[0] == (np.argmax([w[:5].sum() for w in whole]) == 1)
    full, partial = choices.score_winograd(lm, [item], quiet)
    begin, sums, ends = lm.config.begin, [], []
    for option in item.endings:
        ids = encode(f"{item.context} {option}{item.rest}")
        found = logprobs(lm, [begin], ids)
        sums.append(found.sum())
        ends.append(found[len(encode(f"{item.context} {option}")) :].sum())
    assert full.values[0] == (np.argmax(sums) == 1)
    assert partial.values[0] == (np.argmax(ends) == 1)


def test_rates_of_generated_text():
    distinct, again, copied = generated.rates(
        ["the cat sat the cat sat the cat sat", "a b c d e f g h i"],
        {tuple("abcdefgh")},
    )
    assert distinct.values == [3, 8] and distinct.weights == [8, 8]
    assert again.values == [3, 0] and again.weights == [6, 6]
    assert copied.values == [0, 1] and copied.weights == [2, 2]


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch, run):
    (tmp_path / "text.txt").write_text("One day, a little fox ran.\n" * 60)
    out = tmp_path / "out"
    tasks = suite.chosen(names=["text", "generated"])
    real, calls = suite.write_whole, []

    def write(path, *parts):
        calls.append(path)
        if len(calls) > 1:
            raise gpt2lab.Failure(f"{path}: No space left on device; free some space")
        real(path, *parts)

    monkeypatch.setattr(suite, "write_whole", write)
    with pytest.raises(gpt2lab.Failure, match="No space left"):
        list(suite.run(small(), tasks, tmp_path, out=out))
    assert [path.name.split("-")[0] for path in out.iterdir()] == ["text"]
    monkeypatch.setattr(suite, "write_whole", real)
    kept, fresh = suite.run(small(), tasks, tmp_path, out=out)
    assert kept[0].status == fresh[0].status == "done"
    next(out.glob("text-*")).write_text("[{")  # a damaged file is computed again
    assert next(iter(suite.run(small(), tasks, tmp_path, out=out)))[0].value == kept[0].value


def write_fixtures(folder) -> None:
    """20 records of each set in its published form, of our own words."""

    def lines(name, rows):
        (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

    count = range(20)
    lines(
        "lambada_test_plain_text.txt", [f"she gave him {i} figs and he ate the figs" for i in count]
    )
    lines("ptb.test.txt", [f" it is n't N {i} days " for i in count])
    lines("news.en.heldout-00000-of-00050", [f"Item {i} , he said ." for i in count])
    lines("hellaswag_val.jsonl", [
        json.dumps({"ctx": f"A man {i}", "label": i % 4, "endings": ["runs", "[x]", "sits", "is"]})
        for i in count
    ])  # fmt: skip
    lines(
        "valid.jsonl",
        [json.dumps({"goal": f"Cut {i}", "sol1": "a knife", "sol2": "a cup"}) for i in count],
    )
    lines("valid-labels.lst", [str(i % 2) for i in count])
    for name in ("ARC-Easy-Test.jsonl", "ARC-Challenge-Test.jsonl"):
        lines(name, [
            json.dumps({"answerKey": "B", "question": {"stem": f"Why {i}?", "choices": [
                {"text": "so", "label": "A"}, {"text": "no", "label": "B"}]}})
            for i in count
        ])  # fmt: skip
    for kind in ("CN", "NE"):
        rows = []
        for i in count:
            rows += [f"{k} The fox saw {i} ." for k in range(1, 21)]
            rows += ["21 The XXXXX ran .\tfox\t\tfox|cat|dog", ""]
        lines(f"cbtest_{kind}_valid_2000ex.txt", rows)
    xml = "".join(f"<text x>\nA page of {i} words here\n</text>\n" for i in count)
    lines("enwik8", [xml * 2])
    lines("text.txt", [f"Line {i} of a text ." for i in count])
    lines("wiki.test.raw", [WIKI * 3])
    lines("lambada_test.jsonl", [json.dumps({"text": f"It is {i} and the cat"}) for i in count])
    lines("wsc273.jsonl", [
        json.dumps({"before": f"The cat saw {i} as", "pronoun": "it", "after": "ran.",
                    "options": ["The cat", "The dog"], "label": i % 2})
        for i in count
    ])  # fmt: skip


def test_every_task_runs_on_published_forms_and_resumes(tmp_path, monkeypatch):
    lm, data, out = small(), tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_fixtures(data)
    found = [
        cell
        for cells in suite.run(lm, suite.chosen("all"), data, limit=3, out=out)
        for cell in cells
    ]
    assert {cell.task for cell in found} == set(TASKS)
    wrong = [(c.task, c.status) for c in found if c.status != "done"]
    assert not wrong
    for cell in found:
        assert cell.value is not None and cell.n and cell.protocol and cell.metric
        assert cell.target is None or (cell.target_source and cell.target_size.endswith("M"))
        assert "items drawn" in cell.note
    noted = {cell.task for cell in found if "the published file" in cell.note}
    assert {"lambada", "cbt-cn", "ptb", "hellaswag"} <= noted
    calls = []
    monkeypatch.setattr(suite, "evaluate_task", lambda *_: calls.append(1))
    again = [
        cell
        for cells in suite.run(lm, suite.chosen("all"), data, limit=3, out=out)
        for cell in cells
    ]
    assert not calls and [c.value for c in again] == [c.value for c in found]


@pytest.mark.parametrize(
    ("task", "name", "content", "told"),
    [
        ("lambada", "lambada_test.jsonl", '{"text": "a b"}\n{"text"', "line 2"),
        ("lambada", "lambada_test.jsonl", '{"words": 1}\n', "lacks text"),
        ("lambada", "lambada_test.jsonl", '{"text": "one"}\n', "no word before the last"),
        ("hellaswag", "hellaswag_val.jsonl", '{"ctx": "", "label": 7, "endings": []}', "7 of 0"),
        ("hellaswag", "hellaswag_val_full.txt", "a\n1\nb\n", "expected six"),
        ("cbt-cn", "cbtest_CN_valid_2000ex.txt", "1 A .\n21 No gap .\tx\t\tx|y\n", "has no XXXXX"),
        ("arc-easy", "ARC-Easy-Test.jsonl", '{"question": 1, "answerKey": "A"}', "no stem"),
        ("piqa", "valid.jsonl", '{"goal": "a", "sol1": "b", "sol2": "c"}', "0 labels"),
        ("wikitext2", "wiki.test.raw", "\n \n", "has no text"),
        ("ptb", "ptb.test.txt", b"\xff\xfe\x00", "UTF-8"),
    ],
)  # fmt: skip
def test_damaged_files_are_a_cell_and_the_next_task_follows(tmp_path, task, name, content, told):
    lm = small()
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    (tmp_path / "text.txt").write_text("One line .\nTwo lines .\n")
    first, second = suite.run(lm, suite.chosen(names=[task, "text"]), tmp_path, controls=False)
    assert first[0].status.startswith("not run: ") and told in first[0].status
    assert first[0].value is None and second[0].status == "done"


def test_the_command(run, tmp_path):
    code, out, _ = run("evaluate", "--list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(TASKS)
    code, _, err = run("evaluate", "--data", str(tmp_path), "--tasks", "lambda")
    assert code == 2 and "did you mean lambada" in err and err.count("\n") == 1
    code, _, err = run("evaluate", "--tasks", "lambada")
    assert code == 2 and "by --data" in err
    (tmp_path / "text.txt").write_text("One day, a little fox ran.\n" * 100)
    words = [
        "evaluate",
        "--data",
        str(tmp_path),
        "--tasks",
        "text,ptb",
        "--engine",
        "numpy",
        "--json",
    ]
    code, out, err = run(*words)
    cells = json.loads(out)["cells"]
    assert (code, err) == (0, "")
    assert [c["status"] for c in cells if c["task"] == "ptb"] == [
        "not run: data absent (ptb.test.txt)"
    ]
    [byte] = [c for c in cells if c["protocol"].endswith("per-byte")]
    assert byte["task"] == "text" and 0 < byte["value"] < 3
