"""What is looked at before anything runs: `pvtt doctor`, and the start of every training. A check is a function that returns `Check`s."""
