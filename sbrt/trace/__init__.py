"""What the lanes did and when: spans, rounds, Chrome traces, profiles."""
