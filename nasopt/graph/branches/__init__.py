"""Alternatives in a traced graph: markers around inlined branches, when they run, and the graph once they are decided."""
