"""Growing a dataset from a few hand-written tasks: prompts, filters, novelty, rounds and review (Wang et al. 2022)."""
