"""Command lines of the official scripts and of gpt-2-simple, translated."""

from __future__ import annotations

import pytest

from gpt2lab import InputError
from gpt2lab.commands import aliases
from gpt2lab.commands.generate import command

OWN = {name: not param.is_flag for param in command.params for name in param.opts if name[0] == "-"}


def translate(args):
    return aliases.translate(args, OWN)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--top_k 40 --temperature=0.7", "--top-k=40 --temperature=0.7"),
        ("--model_name=355M --seed=None --nsamples=2", "-n 2 --model 355M"),
        ("--length=None --top_p=1", "--top-p=1"),
        ("--nsamples 0", "--endless"),
        ("--run_name mine", "--model ./checkpoint/mine"),
        ("--checkpoint_dir /runs --run_name a", "--model /runs/a"),
        ("--models_dir nowhere --model_name 124M", "--model 124M"),
        ("--include_prefix True --return_as_list", "--include-prompt"),
        ("--include_prefix=False", ""),
        ("--prefix Hello --truncate END", "--prompt Hello --truncate=END"),
        ("--run_name None --sample_delim x", "--delimiter x"),
        ("--multi_gpu --nfiles 1 --folder gen", ""),
        ("--length 5 -- --length", "--max-new-tokens 5 -- --length"),
        ("--run_name a -- text", "--model ./checkpoint/a -- text"),
        ("--stop --the_end -s 5 -l 7", "--stop=--the_end -s 5 -l 7"),
        ("--seed None --delimiter --x_y", "--delimiter=--x_y"),
        ("--no_such_flag 3", "--no_such_flag 3"),
        ("--ignore_end --json", "--ignore-end --json"),
    ],
)
def test_their_flags_are_ours(theirs, ours):
    assert translate(theirs.split()) == ours.split()


def test_a_models_folder_that_is_there_is_used(tmp_path):
    (tmp_path / "774M").mkdir()
    args = translate(["--models_dir", str(tmp_path), "--model_name", "774M"])
    assert args == ["--model", str(tmp_path / "774M")]


def test_every_translation_is_told(caplog):
    translate(["--length", "5", "--nsamples", "2", "--run_name", "a", "--multi_gpu"])
    assert len(caplog.messages) == 4


def test_what_cannot_be_taken_is_said():
    with pytest.raises(InputError, match="--nfiles 3"):
        translate(["--nfiles", "3"])
    with pytest.raises(InputError, match="--length needs a value"):
        translate(["--length"])
