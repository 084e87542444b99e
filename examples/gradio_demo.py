"""A text box in, a text box out: GPT-2 in a web page, in a screenful of code.

Run it: pip install 'gpt2lab[demo]' && python examples/gradio_demo.py [MODEL]
"""

from __future__ import annotations

import sys

import gradio as gr

import gpt2lab

EXAMPLES = [["The meaning of life is"], ["Once upon a time in a galaxy far, far away"]]


def build(model: str | None = None) -> gr.Interface:
    """The page over a model: the bundled one, a path, an official size, a hub name."""
    lm = gpt2lab.load(model)

    def generate_text(prompt: str) -> str:
        try:
            return prompt + lm.generate(prompt, max_new_tokens=100)
        except gpt2lab.InputError as error:
            raise gr.Error(str(error)) from error

    return gr.Interface(
        fn=generate_text,
        inputs=gr.Textbox(lines=2, placeholder="Enter a prompt", label="Prompt"),
        outputs=gr.Textbox(label="Text"),
        title="GPT-2 text generation",
        description="Type a beginning; GPT-2 goes on.",
        examples=EXAMPLES,
        analytics_enabled=False,
    )


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else None).launch()
