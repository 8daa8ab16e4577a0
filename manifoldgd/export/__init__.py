"""A set for others: in the form that their tools read, with a card, metadata, and what is known of where it comes from.

An export is a folder of data (:mod:`manifoldgd.export.formats`), ``README.md``, ``croissant.json`` and
``provenance.json``, by which this package takes it for the set that it is.
"""

from manifoldgd.export.folder import Judgement, export_set, judgements_of
from manifoldgd.export.formats import FORMATS
from manifoldgd.export.hub import check_repository, push

__all__ = ["FORMATS", "Judgement", "check_repository", "export_set", "judgements_of", "push"]
