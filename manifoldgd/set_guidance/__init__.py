"""Sets matched to the real data in the features of random networks: the energy behind matching guidance."""
