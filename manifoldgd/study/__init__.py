"""Tables: methods by columns, measured cell by cell, with the statistics that a claim needs."""
