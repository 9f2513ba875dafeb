"""Speed and size of the bus, as ratios to floors measured beside it in the same run.

`python -m tests.benchmarks` prints a table. A round takes one sample of every case, in an order
shuffled anew, so that a slow moment of the machine does not fall on one case alone. A row compares
the samples of one round with each other, and shows the median of its rounds. Time is CPU time of
the thread, latency is wall time.
"""
