"""Speed and size of the bus, as ratios measured side by side in the same run.

`python -m tests.benchmarks` prints tables: the bars of the bus against floors, how many times
faster than others it is, and what all need for the same work. A round takes one sample of every
case, in an order shuffled anew, so that a slow moment of the machine does not fall on one case
alone. A row compares the samples of one round with each other, and shows the median of its rounds.
Time is CPU time of the thread, latency is wall time; every sample counts what was delivered.

`python -m tests.benchmarks.guard REVISION` tells what became slower since then.
"""
