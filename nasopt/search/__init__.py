"""The search model: masks on channels and kernel taps, choices between branches, and what both cost."""
