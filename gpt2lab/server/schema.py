"""The requests of the HTTP API: one msgspec Struct each, and the shape of each answer.

A body is validated against its Struct, and the OpenAPI description is made from it. Ranges of
settings are `Sampling`'s own, checked where a request is made. Every `model` is optional and the
first of the server by default. Null is the same as leaving a field out.

In answers, `bytes` of a token is a list of integers from 0 to 255, as in OpenAI's logprobs, since a
token may hold a part of a character. Log-probabilities are natural.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

#: One prompt or several: texts or lists of token ids; "" begins a document, after the end token.
Prompts = str | list[int | str | list[int]]


class SamplingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The settings of a generation by the names of `Sampling`, and OpenAI's name for one of them.

    Defaults are the command line's: what the model's files recommend, else temperature 0.7 and
    top_p 0.95. Sample i of a prompt is a function of (prompt, settings, seed, i) alone.
    """

    max_tokens: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words: list[str | list[int]] | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    stop_tokens: list[int] | None = None
    stop_token_ids: list[int] | None = None
    end_on: str | None = None
    n: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    seed: int | None = None
    preset: str | None = None
    processors: list[str] | None = None
    window_keep: float | None = None


class StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """include_usage: end a stream with a chunk that holds the usage and no choices."""

    include_usage: bool = False
    include_obfuscation: bool = False


class CompletionRequest(SamplingFields, kw_only=True):
    """POST /v1/completions: continue prompts.

    logprobs: how many most probable tokens to give for each position. echo: give the prompt too,
    with its log-probabilities where logprobs are asked for; max_tokens may then be 0. suffix: text
    that shall follow; 32 middles are sampled, and the one after which it is most probable is
    returned. overflow: what to do with a text longer than the context window: "refuse", or let the
    window move, cutting a prompt to its "tail" or "head+tail".

    Answer: {id, object: "text_completion", created, model, system_fingerprint,
    choices: [{index, text, finish_reason, logprobs}], usage: {prompt_tokens, completion_tokens,
    total_tokens}}. logprobs: null, or {tokens: [text], token_logprobs: [number or null],
    top_logprobs: [{text: number} or null], text_offset: [int]}; the text of a token that is no
    whole character is "bytes:\\xe2\\x80". The choices of prompt p are those from p * n on.
    A stream has chunks of the same shape, whole characters each, and ends with `data: [DONE]`; an
    error in it is a chunk {error}.
    """

    model: str | None = None
    prompt: Prompts | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
    overflow: str | None = None
    user: str | None = None


class ChatMessage(Struct, kw_only=True, forbid_unknown_fields=True):
    """A message: role "system", "user" or "assistant", and its text, whole or in text parts."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """POST /v1/chat/completions: answer a conversation.

    A base GPT-2 continues a script of two speakers, "You" and "Friend"; a checkpoint that has a
    chat template uses it. The oldest turns are dropped where the script does not fit the window.

    Answer: {id, object: "chat.completion", created, model, system_fingerprint,
    choices: [{index, message: {role, content}, finish_reason, logprobs}], usage}. logprobs: null,
    or {content: [{token, bytes, logprob, top_logprobs: [{token, bytes, logprob}]}]}. A stream has
    chunks {..., choices: [{index, delta: {role, content}, finish_reason, logprobs}]}.
    """

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None
    user: str | None = None


class EmbeddingRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/embeddings: the mean over all tokens of the residual stream after the last layer.

    It is taken before the final layer norm. encoding_format: "float" or "base64" (float32).
    Answer: {object: "list", model, data: [{object: "embedding", index, embedding}], usage}.
    """

    input: Prompts
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None


class NextRequest(SamplingFields, kw_only=True):
    """POST /next: the distribution of the token after each of some prompts.

    prompts: several; prompt: one. top: how many of the most probable tokens. logits: whether all
    logits are wanted. prompt_length: how many tokens of a prompt are not generated, for penalties
    that count generated tokens alone; the whole prompt by default.

    Answer: {data: [{tokens, top: [{id, text, bytes, logit, logprob, logprob_after, reason}],
    logsumexp, entropy, left, logits}]}, one for each prompt. logprob: of the model itself.
    logprob_after: of the distribution that the settings make, null for a token that they rule out,
    and reason then names the processor that did: "top_k", "top_p", ..., "vocabulary", or "greedy".
    entropy: in nats. left: how many tokens can be drawn. logits: base64 of float32, little-endian,
    or null.
    """

    model: str | None = None
    prompt: Prompts | None = None
    prompts: list[str | list[int]] | None = None
    top: int = 10
    logits: bool = False
    prompt_length: int | None = None


class TokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /tokenize: the tokens of a text, given as prompt or content.

    Answer: {tokens: [id], bytes: [[int]], token_strs: [text] where asked for, count,
    max_model_len}.
    """

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /detokenize: the text of tokens. Answer: {prompt, content}, both the text."""

    tokens: list[int]
    model: str | None = None


class ScoreRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /score: how probable texts are. texts: several; text: one.

    after_end: whether a first token is scored too, as the beginning of a document, null where the
    model can. stride: how far the window moves in a longer text. top: how many of the most probable
    tokens at each position.

    Answer: {data: [{tokens, bytes, logprobs, ranks, entropies, top: [[{id, bytes, logprob}]] or
    null, total, perplexity, bits_per_byte, n_bytes, n_scored, stride}]}, one for each text; null
    for a first token that is not scored.
    """

    model: str | None = None
    text: str | list[int] | None = None
    texts: list[str | list[int]] | None = None
    after_end: bool | None = None
    stride: int | None = None
    top: int = 0


class LookRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /look: the data of the page of `gpt2lab look` of a text (`lens.page.gather`).

    scale: [layer, head, factor] of attention heads that are scaled; 0 silences one.
    """

    prompt: str | list[int]
    model: str | None = None
    scale: list[tuple[int, int, float]] = []
