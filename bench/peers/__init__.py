"""Decoding here compared with other engines, in one run: `python -m bench.peers`.

- `settings` lists the peers and their lines.
- `lines` defines a line and when it is correct.
- `process` speaks to a peer in its own environment (`workers`); `ours` is sbrt.
- `run` measures, `report` prints the table.
"""
