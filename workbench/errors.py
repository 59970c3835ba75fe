"""The exception tree. The library raises these; each surface (page, command line, notebook) translates once.

WorkbenchError                 what happened, where, which value, and what to do about it
├── UsageError                 a setting, option or argument that cannot be used
├── NotFound                   a name or id that the store does not know
├── Conflict                   the thing is in use, or somebody else changed it first
├── DataProblem                a file or rows that cannot be read or stored as asked
├── TemplateProblem            a chat template that is missing, raises, or cannot render these messages
├── ModelProblem               a model or adapter that cannot be loaded, or that is refused
├── GenerationProblem          a server that cannot be reached or would not answer
├── RunProblem                 a run that cannot be launched, stopped or resumed
│   └── Stopped                raised inside a job that was asked to stop, once its checkpoint is written
└── StoreProblem               the database or the disk refuses
"""

from __future__ import annotations


class WorkbenchError(Exception):
    """What happened, where, the value that caused it, and the remedy.

    Args:
        what: one sentence in plain words, without a traceback.
        place: where it happened: "row 18, column 'output'", "--learning-rate", a path.
        value: the offending value, shown shortened.
        remedy: what a person can do now.
    """

    def __init__(self, what: str, *, place: str = "", value: object = None, remedy: str = "") -> None:
        self.what = what
        self.place = place
        self.value = value
        self.remedy = remedy
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The whole message on one line: place, what happened, value, remedy."""
        text = f"{self.place}: {self.what}" if self.place else self.what
        if self.value is not None:
            shown = repr(self.value)
            text += f" (got {shown if len(shown) <= 120 else shown[:117] + '…'})"
        if text and text[-1] not in ".!?":
            text += "."
        return f"{text} {self.remedy}" if self.remedy else text


class UsageError(WorkbenchError):
    """A setting, option or argument that cannot be used."""


class NotFound(WorkbenchError):
    """A name or id that the store does not know."""


class Conflict(WorkbenchError):
    """The thing is in use, or somebody else changed it first."""


class DataProblem(WorkbenchError):
    """A file or rows that cannot be read or stored as asked."""


class TemplateProblem(WorkbenchError):
    """A chat template that is missing, raises, or cannot render these messages."""


class ModelProblem(WorkbenchError):
    """A model or adapter that cannot be loaded, or that is refused."""


class GenerationProblem(WorkbenchError):
    """A server that cannot be reached or would not answer."""


class RunProblem(WorkbenchError):
    """A run that cannot be launched, stopped or resumed."""


class Stopped(RunProblem):
    """Raised inside a job that was asked to stop, once its checkpoint is written."""


class StoreProblem(WorkbenchError):
    """The database or the disk refuses."""
