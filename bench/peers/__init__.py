"""`python -m bench.peers` compares the decoding of sbrt with that of other engines, in one run.

- `settings` lists the peers (other engines), and each peer's lines of the table.
- `lines` defines a line, and when its answers are correct.
- `process` talks to a peer that runs in its own environment (`workers`). `ours` is sbrt. - `run`
measures, and `report` prints the table.
"""
