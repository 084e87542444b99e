"""Cases in processes of their own: forked from one that has imported everything, held to limits.

A case makes its files, then acts on them in a forked process with a limit of time and of memory.
What came of it is one of `OUTCOMES`; those in `FORBIDDEN` must not happen.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2lab.errors import Failure, InputError

SECONDS = 10.0  # of a processor: a busy machine makes no hang of what is only slow
PATIENCE = 6  # times so long by the clock, as what waits for ever takes no processor
ADDRESSES = 12 << 30  # bytes of address space; torch alone takes some
MEMORY = 200 << 20  # bytes beyond three times the files
LONGEST = 2000  # characters of a message
MARKER = "CODE-WAS-RUN"  # what hostile input would make if it could

OUTCOMES = (
    *("refused", "same", "different", "silent", "traceback"),
    *("hang", "crash", "memory", "long", "code"),
)
FORBIDDEN = OUTCOMES[3:]


@dataclass(frozen=True)
class Case:
    """make: writes the files into a folder. act: uses them and gives what came out, for comparing.

    expected: what comes out of undamaged files; None where nothing is compared. checked: whether
    the files carry a checksum, so that another result is "silent" and not just "different".
    """

    kind: str
    name: str
    make: Callable[[Path], None]
    act: Callable[[Path], str]
    expected: str | None = None
    checked: bool = False
    seconds: float = SECONDS


@dataclass(frozen=True)
class Result:
    """outcome: of `OUTCOMES`. told: the message, or the last lines of what was printed."""

    case: Case
    outcome: str
    told: str


def _acted(case: Case, folder: Path) -> dict[str, Any]:
    try:
        return {"what": "result", "came": case.act(folder)}
    except (InputError, Failure) as error:
        return {"what": "refused", "told": str(error)}
    except MemoryError:
        return {"what": "memory", "told": "MemoryError"}
    except BaseException:
        return {"what": "traceback", "told": traceback.format_exc()[-1500:]}


def _peak(whose: int) -> int:
    """Bytes of peak memory of this process, or of the largest that it started."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(whose).ru_maxrss * unit


def _child(case: Case, folder: Path, report: Path) -> None:
    """Act, write down what came of it, and leave without any of the parent's endings."""
    os.setpgid(0, 0)
    nowhere, log = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(f"{report}.log", os.O_RDWR | os.O_CREAT),
    )
    for number, target in enumerate((nowhere, log, log)):
        os.dup2(target, number)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + case.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    os.chdir(folder)
    before = _peak(resource.RUSAGE_SELF)
    found = _acted(case, folder)
    peak = max(_peak(resource.RUSAGE_SELF), _peak(resource.RUSAGE_CHILDREN))
    found["grown"] = peak - before
    report.write_text(json.dumps(found), encoding="utf-8", errors="backslashreplace")
    os._exit(0)


def _size(folder: Path) -> int:
    return sum(s.st_blocks * 512 for s in (p.lstat() for p in folder.rglob("*")))


class _Job:
    """One case that runs."""

    def __init__(self, case: Case) -> None:
        self.case, self.home = case, Path(tempfile.mkdtemp(prefix="torture-"))
        self.folder, self.report = self.home / "files", self.home / "report"
        self.folder.mkdir()
        case.make(self.folder)
        self.size, self.began = _size(self.folder), time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _child(case, self.folder, self.report)
            finally:
                os._exit(9)

    def ended(self) -> Result | None:
        """What came of it, None while it runs."""
        late = time.monotonic() - self.began > self.case.seconds * PATIENCE
        if late:
            os.killpg(self.pid, signal.SIGKILL)
        done, status = os.waitpid(self.pid, 0 if late else os.WNOHANG)
        if not done:
            return None
        outcome, told = self._outcome(status, late)
        shutil.rmtree(self.home, ignore_errors=True)
        return Result(self.case, outcome, told)

    def _outcome(self, status: int, late: bool) -> tuple[str, str]:
        if (self.folder / MARKER).exists():
            return "code", "a foreign program was run"
        busy = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
        if late or busy:
            return "hang", f"over {self.case.seconds:g} s" + " of a processor" * busy
        if not self.report.exists():
            return "crash", f"wait status {status}"
        found = json.loads(self.report.read_text(encoding="utf-8"))
        told, grown = found.get("told", ""), found["grown"]
        if grown > 3 * self.size + MEMORY:
            return (
                "memory",
                f"{grown >> 20} MiB more for files of {self.size >> 20} MiB; {told[:200]}",
            )
        if found["what"] == "refused" and (len(told) > LONGEST or "\n" in told):
            return "long", f"{len(told)} characters: {told[:200]}"
        if found["what"] != "result":
            return found["what"], told
        if self.case.expected in (None, found["came"]):
            return "same", ""
        return ("silent" if self.case.checked else "different"), ""


def run(cases: Iterable[Case], workers: int = 2) -> Iterator[Result]:
    """What came of each case, as they end; so many at a time."""
    waiting, jobs = iter(cases), list[_Job]()
    more = True
    while more or jobs:
        while more and len(jobs) < workers:
            case = next(waiting, None)
            more = case is not None
            if case is not None:
                jobs.append(_Job(case))
        for job in list(jobs):
            if (result := job.ended()) is not None:
                jobs.remove(job)
                yield result
        time.sleep(0.002)


def table(results: Iterable[Result]) -> tuple[list[str], bool]:
    """Lines of kinds and outcomes, and whether nothing forbidden happened."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(result.case.kind, Counter())[result.outcome] += 1
    counts["all"] = sum(counts.values(), Counter())
    rows = [["kind", "tries", *OUTCOMES]]
    for kind, found in counts.items():
        numbers = [str(found[outcome] or "") for outcome in OUTCOMES]
        rows.append([kind, str(found.total()), *numbers])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return lines, not any(counts["all"][outcome] for outcome in FORBIDDEN)
