"""The workbench as a library: what the pages, the command line and notebooks call.

`Workspace` is a thin front over the floors below: one method per thing a person can do, nothing decided here that a
lower floor could decide; its methods stand in one module per subject. Everything heavy is imported where it is used, so
that `import workbench` stays light and the page process never loads torch.
"""

from __future__ import annotations

from workbench.api.growing import GrowingMethods
from workbench.api.models import find_variant
from workbench.api.ranking import RankMethods
from workbench.api.sharing import ShareMethods
from workbench.api.text import TextMethods
from workbench.api.training import TrainingMethods

__all__ = ["Workspace", "find_variant"]


class Workspace(TrainingMethods, TextMethods, GrowingMethods, RankMethods, ShareMethods):
    """One home folder with its datasets, models, runs and answers.

    Args:
        home: the folder; default `WORKBENCH_HOME` or `~/.workbench`.
        settings: all settings, instead of `home`.

    Raises:
        StoreProblem: the folder or the database cannot be used.
    """
