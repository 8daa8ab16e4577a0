"""Synthesis of a distilled set: work items, Lightning's predict step, the mapping of classes to the prior."""
