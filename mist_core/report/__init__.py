"""One self-contained HTML page of a run: what was done, how well, and what it looks like."""
