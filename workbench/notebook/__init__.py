"""How notebooks show runs, datasets, comparisons and leaderboards: HTML that needs no network, no script and no server.

`drawing` makes charts as SVG, `cards` makes the HTML of each noun from records alone, `shown` binds records to the
store, so that a run that is displayed again shows how it stands now. What the nouns are is left to the floors below.
"""
