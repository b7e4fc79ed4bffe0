"""Measured rows against the estimate: how far off we are, and which rows cannot be estimated yet and why.

    line of a file --readers--> Reading (what was measured, how each is estimated, or why not)
    Reading --scoring--> Outcome (one per quantity) --summary--> numbers by quantity and group

docs/score.md says what is scored how.
"""
