"""Decoding here beside other engines, in one run: `python -m bench.peers`.

`settings` says which lines there are, `lines` what a line is and when it is correct, `process`
speaks to a peer in an environment of its own (`workers`), `ours` is sbrt, `run` measures, `report`
is the table.
"""
