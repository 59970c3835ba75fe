"""Names that two files must agree on: query parameters, session keys and keys of drafts.

A widget's own key that only one file uses stays in that file.
"""

from __future__ import annotations

RUN_PARAM = "run"
"""`?run=run_…` on the Runs page."""
COMPARE_PARAM = "with"
"""`&with=run_…,run_…`: runs laid over the one that is shown."""
DATASET_PARAM = "dataset"
"""`?dataset=<name or id>` on the Datasets page."""
VERSION_PARAM = "version"
"""`&version=3` on the Datasets page; without it the newest."""
VIEW_PARAM = "view"
"""`?view=import` on the Datasets page."""
CLONE_PARAM = "clone"
"""`?clone=run_…` on the New run page: start from that run's config."""
KIND_PARAM = "kind"
"""`?kind=sft` on the New run page."""
REWARD_PARAM = "reward"
"""`&reward=run_…` on the New run page: the reward model to reinforce with."""
ROW_PARAM = "row"
"""`&row=<row id>` on Craft: the row that is open."""
DRAFT_PARAM = "draft"
"""`&draft=drf_…` on Craft: the changes that were collected and not saved yet."""
FROM_PARAM = "from"
"""`?from=cmp_…` on Craft: an answer of the Playground to make an example of."""
VARIANTS_PARAM = "variants"
"""`?variants=<id>,<id>` on the Playground."""
QUEUE_PARAM = "queue"
"""`?queue=rq_…` on the Rank page and the leaderboard."""
RATER_PARAM = "rater"
"""`&rater=Ada` on the Rank page: the name, instead of asking."""
ONLY_PARAM = "only"
"""`&only=1`: a rater's link, which shows nothing but Rank."""

VARIANT_PARAM = "variant"
"""`?variant=<id>` on the Export page."""
OF_PARAM = "of"
"""`?of=<id>` on the Lineage page: a variant, run, version, model or queue."""

LAST_LOOK = "runs.last_look"
"""When this session last looked for runs that had ended."""
TOUR_RUN = "home.tour_run"
"""The tour that this session started."""
IMPORT_CORRECTIONS = "import.corrections"
"""Rows corrected or dropped during an import, by their number."""
IMPORT_SOURCE = "import.source"
"""Path of the file that the import form is about."""
IMPORT_RUN = "import.run"
"""The import that this session launched."""


def new_run_draft(kind: str) -> str:
    """Key of the draft of a run that is being set up."""
    return f"new_run.{kind}"
