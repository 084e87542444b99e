"""What is read off a trace: next tokens, logit lens, attribution, heads, circuits, patching."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import gpt2lab
from gpt2lab import lens, reference
from gpt2lab.errors import InputError
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lens import heads, page, prediction, unembedding

from .support import TINY, tiny_params
from .test_lens import IDS, TEXT, tiny


@pytest.fixture(scope="module")
def fable():
    return gpt2lab.load(engine="numpy")


@pytest.fixture(scope="module")
def trace(fable):
    return fable.trace(TEXT)


# ---- Next tokens.


def test_surprisal_is_what_score_says(fable, trace):
    found, score = lens.next_tokens(trace), fable.score(TEXT, after_end=False)
    assert found.surprisals[0] is None
    np.testing.assert_allclose(
        [-x for x in found.surprisals[1:]], score.logprobs[1:], rtol=1e-5, atol=1e-6
    )
    assert found.total == pytest.approx(-score.total, rel=1e-6)


def test_surprisal_after_the_end_token_is_that_of_score(fable):
    trace = fable.trace([fable.config.begin, *fable.encode(TEXT)])
    assert lens.next_tokens(trace).total == pytest.approx(-fable.score(TEXT).total, rel=1e-6)


def test_rank_entropy_and_alternatives_by_hand(trace):
    found = lens.next_tokens(trace, top=3)
    for i, row in enumerate(found.expected[1:]):
        p = np.exp(log_softmax(trace["logits"][0, i].astype(np.float64)))
        order = np.argsort(-p, kind="stable")
        assert [token for token, _ in row.alternatives] == order[:3].tolist()
        assert row.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
        if row.token is not None:
            assert order[row.rank - 1] == row.token
            assert row.probability == pytest.approx(p[row.token], rel=1e-4)
    assert found.next.token is None
    told = found.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert len(told["tokens"]) == trace.tokens.shape[1]
    assert told["next"]["alternatives"][0]["text"] == found.names(found.next)[0][0]


@pytest.mark.parametrize("count", [1, 3, 96, 97, 200])
def test_the_largest_come_first_and_ties_by_id(count):
    p = np.round(np.random.default_rng(0).random(97), 1)
    expected = sorted(range(97), key=lambda i: (-p[i], i))[:count]
    assert prediction.top(p, count).tolist() == expected


@pytest.mark.parametrize("top", [0, -1, 1.5, True, None])
def test_a_count_that_is_none(trace, top):
    with pytest.raises(InputError, match="top is"):
        lens.next_tokens(trace, top)


def test_views_need_their_values(fable):
    with pytest.raises(InputError, match=r"logits was not traced; trace with names=\['logits'\]"):
        lens.next_tokens(fable.trace(TEXT, names="z"))
    with pytest.raises(InputError, match="resid_pre was not traced"):
        lens.logit_lens(fable.trace(TEXT, names="logits"))


# ---- Logit lens.


def test_the_last_row_of_the_lens_is_the_model(trace):
    found = lens.logit_lens(trace, top=4)
    p = np.exp(log_softmax(trace["logits"][0]))
    assert found.keys[-1] == "h.5.resid_post"
    np.testing.assert_array_equal(found.best[-1, :, 0], p.argmax(-1))
    np.testing.assert_allclose(found.probabilities[-1, :, 0], p.max(-1), rtol=1e-6)
    np.testing.assert_allclose(found.divergences[-1], 0, atol=1e-6)
    assert (found.target_ranks[-1, -1], found.targets[-1]) == (1, p[-1].argmax())
    np.testing.assert_array_equal(found.targets[:-1], trace.tokens[0, 1:])


def test_every_row_of_the_lens_is_the_head_on_that_place(trace):
    """Also past the rows that are unembedded at once, and between attention and MLP."""
    places = ("resid_pre", "resid_mid", "resid_post")
    found = lens.logit_lens(trace, names=places, top=2)
    assert len(found.keys) == 13
    for n, key in enumerate(found.keys):
        logprobs = log_softmax(lens.unembed(trace, trace[key][0])).astype(np.float64)
        np.testing.assert_array_equal(found.best[n, :, 0], logprobs.argmax(-1))
        own = logprobs[np.arange(len(found.targets)), found.targets]
        np.testing.assert_allclose(found.target_probabilities[n], np.exp(own), rtol=1e-4)
        np.testing.assert_array_equal(found.target_ranks[n], (logprobs > own[:, None]).sum(1) + 1)
        entropy = -(np.exp(logprobs) * logprobs).sum(-1)
        np.testing.assert_allclose(found.entropies[n], entropy, rtol=1e-4)


def test_a_long_text_is_read_in_parts():
    """More tokens than are unembedded at once give the same as one by one."""
    model = tiny(dataclasses.replace(TINY, n_ctx=200))
    long = model.trace(np.random.default_rng(0).integers(0, 97, 2 * unembedding.ROWS + 5).tolist())
    found = lens.logit_lens(long)
    assert found.best.shape == (3, 2 * unembedding.ROWS + 5, 5)
    for at in (0, unembedding.ROWS - 1, unembedding.ROWS, 2 * unembedding.ROWS + 4):
        alone = lens.unembed(long, long["resid_post", 0][0, at])
        assert found.best[1, at, 0] == alone.argmax()


def test_depth_is_the_place_from_which_the_answer_stays(trace):
    found = lens.logit_lens(trace)
    for t, depth in enumerate(found.depths):
        course = found.best[:, t, 0] == found.best[-1, t, 0]
        assert course[depth:].all() and (depth == 0 or not course[depth - 1])


def test_the_lens_on_a_head_of_its_own():
    other = np.random.default_rng(1).normal(size=(97, 32)).astype(np.float32)
    model = tiny(**{"lm_head.weight": other})
    trace = model.trace(IDS)
    np.testing.assert_allclose(
        lens.unembed(trace, trace["resid_post", 1]), trace["logits"], atol=1e-5
    )
    assert abs(lens.attribution(trace, by="neuron").error) < 1e-4


def test_a_lens_on_what_is_no_stream(trace):
    with pytest.raises(InputError, match="resid_pre, resid_mid, resid_post"):
        lens.logit_lens(trace, names="attn_out")


# ---- Attribution.


@pytest.mark.parametrize("by", ["layer", "head", "neuron"])
@pytest.mark.parametrize("position", [0, 3, -1])
def test_the_parts_sum_to_the_logit(fable, trace, by, position):
    found = lens.attribution(trace, by=by, position=position)
    assert found.logit == trace["logits"][0, position].max()
    assert abs(found.error) < 1e-4
    difference = lens.attribution(trace, " was", against=" had", position=position, by=by)
    was, had = fable.encode(" was had")
    row = trace["logits"][0, position].astype(np.float64)
    assert difference.logit == pytest.approx(row[was] - row[had])
    assert difference.values.sum() == pytest.approx(row[was] - row[had], abs=1e-4)


@pytest.mark.parametrize("by", ["layer", "head", "neuron"])
def test_in_float64_the_sum_is_exact(by):
    trace = tiny(dtype="float64").trace(IDS)
    assert abs(lens.attribution(trace, 13, against=5, position=4, by=by).error) < 1e-10


def test_heads_and_neurons_sum_to_their_layers(trace):
    def grouped(found):
        sums = {}
        for label, value in zip(found.labels, found.values, strict=True):
            attn = ".head." in label or ".attn" in label
            mlp = ".neuron." in label or ".mlp" in label
            part = label.split(".")[1] if attn or mlp else label
            sums[part, attn, mlp] = sums.get((part, attn, mlp), 0) + value
        return sums

    layers = grouped(lens.attribution(trace))
    for by in ("head", "neuron"):
        assert grouped(lens.attribution(trace, by=by)) == pytest.approx(layers, abs=1e-5)


def test_a_head_s_part_is_what_its_removal_from_the_stream_takes():
    """With the spread of the last norm held fixed, as the method says."""
    trace = tiny(dtype="float64").trace(IDS)
    found = lens.attribution(trace, 9, position=5, by="head")
    out = trace.params["h.1.attn.c_proj.weight"].reshape(4, 8, 32)[2]
    part = trace["z", 1][0, 2, 5] @ out
    h = trace["resid_post", 1][0, 5]
    spread = np.sqrt(h.var() + 1e-5)

    def logit(x):
        normed = (x - x.mean()) / spread * trace.params["ln_f.weight"]
        return (normed + trace.params["ln_f.bias"]) @ trace.params["wte.weight"][9]

    value = found.values[found.labels.index("h.1.head.2")]
    assert value == pytest.approx(logit(h) - logit(h - part), abs=1e-10)


def test_what_an_act_added_is_a_part_of_its_own():
    model = tiny(dtype="float64")
    trace = model.trace(IDS, acts=[lens.steer(0, np.arange(32.0), 1.5)])
    found = lens.attribution(trace)
    assert found.labels[-1] == "acts" and abs(found.values[-1]) > 0.1
    assert abs(found.error) < 1e-10
    assert "acts" not in lens.attribution(model.trace(IDS)).labels


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"token": "two words"}, "tokens"),
        ({"token": 4096}, "token 4096"),
        ({"against": "…………"}, "other token"),
        ({"position": 99}, "position 99"),
        ({"by": "letter"}, "layer, head, neuron"),
    ],
)
def test_attributions_that_cannot_be(trace, given, message):
    with pytest.raises(InputError, match=message):
        lens.attribution(trace, **given)


# ---- Heads.


def test_the_written_out_arithmetic_is_the_trace(trace):
    length = trace.tokens.shape[1]
    for layer in range(6):
        for head in range(4):
            found = lens.attention(trace, layer, head)
            np.testing.assert_allclose(
                found.masked, trace["scores", layer][0, head], rtol=1e-5, atol=1e-5
            )
            np.testing.assert_allclose(found.pattern, trace["pattern", layer][0, head], atol=1e-6)
            np.testing.assert_allclose(found.z, trace["z", layer][0, head], atol=1e-5)
            assert found.scale == 1 / math.sqrt(64)
    told = found.explain(-1, top=3)
    assert len(told.splitlines()) == 6
    strongest = int(found.pattern[-1].argmax())
    assert f"{strongest} {trace.pieces[strongest]!r}" in told.splitlines()[2]
    assert f"the {length} exponentials" in told


def test_attention_of_a_step_is_refused(fable):
    steps = [t for _, t in fable.watch("The dog", max_new_tokens=2, seed=0)]
    with pytest.raises(InputError, match="whole text"):
        lens.attention(steps[1], 0, 0)
    with pytest.raises(InputError, match="head 4"):
        lens.attention(steps[0], 0, 4)


def test_the_qk_circuit_gives_the_scores():
    model = tiny(dtype="float64")
    trace = model.trace(IDS)
    for layer in range(2):
        x = np.concatenate([trace["ln_1", layer][0], np.ones((8, 1))], axis=1)
        for head in range(4):
            qk = lens.qk_circuit(trace, layer, head)
            dots = lens.attention(trace, layer, head).dots
            np.testing.assert_allclose(x @ qk @ x.T, dots, atol=1e-10)


def test_the_ov_circuits_give_what_attention_adds():
    model = tiny(dtype="float64")
    trace = model.trace(IDS)
    x = np.concatenate([trace["ln_1", 1][0], np.ones((8, 1))], axis=1)
    ov = [lens.ov_circuit(trace, 1, head) for head in range(4)]
    out = sum(trace["pattern", 1][0, head] @ x @ ov[head] for head in range(4))
    out = out + trace.params["h.1.attn.c_proj.bias"]
    np.testing.assert_allclose(out, trace["attn_out", 1][0], atol=1e-10)


def test_copying_scores_are_those_of_the_whole_matrix():
    """The eigenvalues of the V x V matrix, without the detour through D x D."""
    model = tiny(dtype="float64")
    wte = model.params["wte.weight"].astype(np.float64)
    expected = np.zeros((2, 4))
    for layer, head in np.ndindex(2, 4):
        whole = wte @ lens.ov_circuit(model, layer, head)[:-1].astype(np.float64) @ wte.T
        eigenvalues = np.linalg.eigvals(whole)
        expected[layer, head] = eigenvalues.real.sum() / np.abs(eigenvalues).sum()
    np.testing.assert_allclose(lens.copying_scores(model), expected, atol=1e-6)


def test_a_head_that_only_copies_scores_one():
    params = tiny_params()
    c_attn, c_proj = params["h.0.attn.c_attn.weight"], params["h.0.attn.c_proj.weight"]
    c_proj[8:16] = c_attn[:, 64 + 8 : 64 + 16].T  # W_O of head 1 is the transpose of its W_V
    model = tiny(**{"h.0.attn.c_proj.weight": c_proj})
    assert lens.copying_scores(model)[0, 1] == pytest.approx(1)


def test_what_a_head_pushes_when_it_sees_a_token():
    model = tiny()
    p = model.params
    x = reference.norm(p["wte.weight"][5], p["h.1.ln_1.weight"], p["h.1.ln_1.bias"])
    out = np.append(x, 1) @ lens.ov_circuit(model, 1, 3)
    expected = ((out - out.mean()) * p["ln_f.weight"]) @ p["wte.weight"].T
    found = lens.ov_tokens(model, 1, 3, 5, 4)
    assert [token for token, _ in found] == np.argsort(-expected)[:4].tolist()
    assert found[0][1] == pytest.approx(expected.max(), rel=1e-5)


def shifted(distance: int, start: int = 0):
    """A pattern in which every token from start + distance on looks back by the distance."""

    def change(pattern):
        length = pattern.shape[-1]
        new = np.zeros_like(pattern)
        for i in range(length):
            new[..., i, i - distance if i - distance >= start else i] = 1
        return new

    return change


@pytest.mark.parametrize("end_tokens", [(), (0,)])
@pytest.mark.parametrize(
    ("kind", "distance"), [("previous", 1), ("duplicate", 12), ("induction", 11)]
)
def test_heads_made_to_look_somewhere_score_there(kind, distance, end_tokens):
    config = dataclasses.replace(TINY, end_tokens=end_tokens)
    act = lens.custom("h.1.attn.pattern", shifted(distance), f"back {distance}")
    found = lens.head_scores(tiny(config).acting(act), length=12, batch=2)
    for other in heads.KINDS:
        score = getattr(found, other)
        assert score.shape == (2, 4)
        if other == kind:
            assert (score[1] >= (1 if distance > 1 else 0.95)).all() and (score[0] < 0.9).all()
            assert found.strongest(kind, 1)[0][0] == 1
        else:
            assert (score[1] == 0).all()


def test_head_scores_by_hand():
    """On the same tokens, from whole traces."""
    model = tiny()
    tokens = heads.repeated_tokens(model, 10, 3, seed=4)
    assert tokens.shape == (3, 20) and (tokens[:, :10] == tokens[:, 10:]).all()
    trace = model.trace(tokens.tolist())
    found = lens.head_scores(model, length=10, batch=3, seed=4)
    second = np.arange(10, 20)
    for layer in range(2):
        pattern = trace["pattern", layer]
        np.testing.assert_allclose(
            found.induction[layer], pattern[:, :, second, second - 9].mean((0, 2)), atol=1e-6
        )
        np.testing.assert_allclose(
            found.duplicate[layer], pattern[:, :, second, second - 10].mean((0, 2)), atol=1e-6
        )
        every = np.arange(1, 20)
        np.testing.assert_allclose(
            found.previous[layer], pattern[:, :, every, every - 1].mean((0, 2)), atol=1e-6
        )
    own = log_softmax(trace["logits"])[:, :-1]
    own = np.take_along_axis(own, tokens[:, 1:, None], 2)[..., 0]
    np.testing.assert_allclose(found.losses[1], -own[:, -10:].mean(), rtol=1e-5)
    np.testing.assert_allclose(found.losses[0], -own[:, :-10].mean(), rtol=1e-5)


def test_random_tokens_are_texts(fable):
    """No end token among them; one stands before them, as documents begin."""
    tokens = heads.repeated_tokens(fable, 40, 2, 0)
    assert (tokens[:, 0] == fable.config.begin).all()
    assert not np.isin(tokens[:, 1:], fable.config.end_tokens).any()


@pytest.mark.parametrize("length", [1, 33, 0, 2.5])
def test_a_length_that_does_not_fit_the_window(length):
    with pytest.raises(InputError, match="length is"):
        lens.head_scores(tiny(), length=length)


# ---- Patching and steering.


@pytest.mark.parametrize("name", ["resid_pre", "mlp_out", "z", "pattern", "v"])
def test_a_sweep_is_every_single_patch(name):
    """What is computed from one layer on, many at once, is what each patched trace gives alone."""
    model = tiny(dtype="float64")
    clean, corrupt = IDS, [IDS[0], 60, *IDS[2:]]
    found = lens.sweep(model, clean, corrupt, 11, 12, name=name, position=6)
    source = model.trace(clean)
    for layer, place in np.ndindex(found.values.shape):
        where = {"units": [place]} if found.by == "head" else {"positions": [place]}
        act = lens.patch(lens.hook_names.key_of(name, layer), source, **where)
        row = model.trace(corrupt, acts=[act])["logits"][0, 6]
        assert found.values[layer, place] == pytest.approx(row[11] - row[12], abs=1e-9)
    ends = [t["logits"][0, 6] for t in (source, model.trace(corrupt))]
    assert (found.clean, found.corrupt) == pytest.approx([r[11] - r[12] for r in ends])
    assert found.values.shape == ((2, 4) if found.by == "head" else (2, 8))


def test_where_the_prompts_differ_a_patch_at_the_bottom_brings_all_back(fable):
    found = lens.sweep(fable, "The boy went out. The", "The dog went out. The", " boy", " dog")
    assert found.restored[0, 1] == pytest.approx(1, abs=1e-4)
    assert np.abs(found.restored[0, [0, 2, 3]]).max() < 1e-3
    assert found.clean > found.corrupt
    assert found.tokens[1] == " dog"


def test_a_sweep_takes_any_metric():
    model = tiny()
    corrupt = [IDS[0], 60, *IDS[2:]]
    found = lens.sweep(model, IDS, corrupt, lambda logits: logits.max(axis=1))
    assert found.clean == pytest.approx(model.logits([IDS])[0, -1].max(), rel=1e-5)


@pytest.mark.parametrize(
    ("clean", "corrupt", "more", "message"),
    [
        (IDS, IDS[:-1], {}, "8 and 7 tokens"),
        (IDS, IDS, {"name": "zz"}, "zz"),
        (IDS, IDS, {"position": 8}, "position 8"),
        (IDS, IDS, {"answer": 97}, "token 97"),
    ],
)
def test_sweeps_that_cannot_be(clean, corrupt, more, message):
    answer = more.pop("answer", 3)
    with pytest.raises(InputError, match=message):
        lens.sweep(tiny(), clean, corrupt, answer, **more)


def test_a_direction_is_the_difference_of_means(fable):
    toward, away = ["She was happy", "a good, glad day"], ["He was sad"]
    found = lens.direction(fable, toward, away, 3)
    states = [fable.trace(t)["h.3.resid_post"][0, -1] for t in (*toward, *away)]
    np.testing.assert_allclose(found, (states[0] + states[1]) / 2 - states[2], atol=1e-5)
    mean = lens.direction(fable, toward[0], away, 1, name="resid_mid", tokens="mean")
    states = [fable.trace(t)["h.1.resid_mid"][0].mean(0) for t in (toward[0], away[0])]
    np.testing.assert_allclose(mean, states[0] - states[1], atol=1e-5)


def test_a_direction_moves_the_model_towards_its_texts(fable):
    """Steered towards a kind of text, the model finds such a text likelier, and the other less."""
    d = lens.direction(fable, [" the king and the queen", " a king"], [" the dog", " a cat"], 3)
    king, dog = fable.encode(" king dog")

    def preference(strength):
        logits = fable.acting(lens.steer(3, d, strength)).logits([fable.encode("Then came the")])
        return logits[0, -1, king] - logits[0, -1, dog]

    assert preference(-1) < preference(0) < preference(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"toward": []}, "no text in toward"),
        ({"layer": 6}, "layer 6"),
        ({"tokens": "first"}, "last, mean"),
        ({"name": "pattern"}, "name is .pattern.; it must be one of resid_pre"),
    ],
)
def test_directions_that_cannot_be(fable, given, message):
    full = {"toward": ["a"], "away": ["b"], "layer": 0, **given}
    with pytest.raises(InputError, match=message):
        lens.direction(fable, **full)


def test_plain_values_for_json(fable, trace):
    made = [
        lens.logit_lens(trace),
        lens.attribution(trace),
        lens.head_scores(fable, length=5, batch=1),
        lens.sweep(fable, "The boy", "The dog", " was"),
    ]
    for one in made:
        assert json.loads(json.dumps(one.to_dict())) == one.to_dict()


def test_weights_that_make_nan_are_told():
    """A row of NaN has no largest entries: an error of ours, not one of NumPy's shapes."""
    broken = tiny_params()["h.1.mlp.c_fc.weight"].copy()
    broken[0, 0] = np.nan
    trace = tiny(**{"h.1.mlp.c_fc.weight": broken}).trace(IDS)
    for view in (lens.next_tokens, lens.logit_lens):
        with pytest.raises(InputError, match="NaN"):
            view(trace)


ODD = (
    None,
    True,
    10**30,
    1.5,
    math.nan,
    "x",
    "",
    [None],
    {1: 2},
    b"ab",
    np.array(3),
    object(),
    "\ud800",
)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd)[:12])
def test_whatever_is_given_is_taken_or_refused_by_name(fable, trace, odd):
    """No caller sees an error of NumPy or of Python's own: each border says what it takes."""
    works = [
        lambda: fable.trace(odd),
        lambda: fable.trace("The", odd),
        lambda: fable.trace("The", layers=odd),
        lambda: fable.trace("The", acts=odd),
        lambda: trace[odd],
        lambda: trace["z", odd],
        lambda: trace.stack(odd),
        lambda: lens.next_tokens(trace, odd),
        lambda: lens.next_tokens(trace, row=odd),
        lambda: lens.logit_lens(trace, names=odd),
        lambda: lens.logit_lens(trace, row=odd),
        lambda: lens.attribution(trace, odd),
        lambda: lens.attribution(trace, position=odd),
        lambda: lens.attribution(trace, by=odd),
        lambda: lens.attribution(trace, row=odd),
        lambda: lens.attention(trace, odd, 0),
        lambda: lens.attention(trace, 0, 0, row=odd),
        lambda: lens.attention(trace, 0, 0).explain(odd),
        lambda: lens.attention(trace, 0, 0).explain(top=odd),
        lambda: lens.ov_tokens(fable, 0, odd, 5),
        lambda: lens.head_scores(fable, length=3, batch=odd),
        lambda: lens.head_scores(fable, length=3, batch=1, seed=odd),
        lambda: lens.sweep(fable, odd, "The", 1),
        lambda: lens.sweep(fable, "The", "A", odd),
        lambda: lens.sweep(fable, "The", "A", 1, name=odd),
        lambda: lens.direction(fable, odd, ["a"], 1),
        lambda: lens.direction(fable, ["a"], ["b"], 1, name=odd),
        lambda: fable.trace("The", acts=[lens.scale_heads(odd, 0, 2)]),
        lambda: fable.trace("The", acts=[lens.scale_heads(0, odd, 2)]),
        lambda: fable.trace("The", acts=[lens.scale_heads(0, 0, odd)]),
        lambda: fable.trace("The", acts=[lens.steer(0, odd)]),
        lambda: fable.trace("The", acts=[lens.patch("h.0.attn.z", odd)]),
        lambda: fable.trace("The", acts=[lens.custom("logits", lambda value: odd, "odd")]),
        lambda: lens.custom(odd, lambda value: value, "odd"),
        lambda: page.render(fable, odd),
    ]
    for work in works:
        try:
            work()
        except InputError as error:
            assert len(str(error)) < 400


# ---- Printed, and asked in other words.


def test_no_result_floods_a_terminal(fable):
    """Printing an attribution by neuron once gave 110,613 characters; now a few lines."""
    trace = fable.trace(TEXT)
    other = fable.encode(TEXT)
    other[0] = other[0] + 1
    for result in (
        lens.next_tokens(trace),
        lens.logit_lens(trace),
        lens.attribution(trace, by="neuron"),
        lens.attention(trace, 0, 1),
        lens.head_scores(fable, batch=1),
        lens.sweep(fable, TEXT, other, 5, name="z"),
    ):
        assert len(repr(result)) < 1500 and len(repr(result).splitlines()) < 16
        assert type(result).__name__ in repr(result).splitlines()[-1]


def test_a_sweep_takes_the_hooks_of_transformerlens_and_tells_its_progress(fable):
    other = fable.encode(TEXT)
    other[0] = other[0] + 1
    told = []
    found = lens.sweep(
        fable, TEXT, other, 5, name="hook_z", progress=lambda *step: told.append(step)
    )
    assert np.array_equal(found.values, lens.sweep(fable, TEXT, other, 5, name="z").values)
    assert told == [(i + 1, 6) for i in range(6)]
    best = found.top(1)[0]
    assert best[2] == found.restored.max() == found.restored[best[:2]]


def test_a_sweep_that_can_restore_nothing_is_refused(fable):
    """The same prompt twice gave NaN and a warning of NumPy's; two lists a riddle."""
    with pytest.raises(InputError, match="both prompts give the same logit"):
        lens.sweep(fable, TEXT, TEXT, 5)
    with pytest.raises(InputError, match="takes one pair of texts"):
        lens.sweep(fable, [TEXT, TEXT], [TEXT, TEXT], 5)


def test_positions_count_from_the_end_where_there_is_one(fable):
    count = len(fable.encode(TEXT))
    [last, first] = [
        fable.trace(TEXT, acts=[lens.silence_heads(2, 0, positions=p)])["logits"]
        for p in (-1, count - 1)
    ]
    assert np.array_equal(last, first)
    patch = lens.patch("h.1.mlp_out", fable.trace(TEXT), positions=-2)
    assert patch.positions == (count - 2,)
    with pytest.raises(InputError, match="positions below 0 count from the end"):
        fable.acting(lens.silence_heads(2, 0, positions=-1))
    with pytest.raises(InputError, match=r"outside of the text, .*, or the same twice"):
        fable.trace(TEXT, acts=[lens.silence_heads(2, 0, positions=[-1, count - 1])])


def test_acts_come_in_lists_too_and_ids_become_text(fable):
    acts = [lens.silence_heads(1, 0), lens.scale_heads(2, 1, 0.5)]
    for acting in (fable.acting(*acts), fable.acting(acts), fable.acting(acts[:1], acts[1])):
        assert [act.title for act in acting.acts] == ["head 1.0 silenced", "head 2.1 times 0.5"]
    assert fable.decode(fable.encode(TEXT)) == TEXT
