"""Plans: what would make a job fit, what is left where it fits, and the largest value that fits.

A lever is a small object that changes a job; the engine estimates what comes out, and renderers see only the result.
"""
