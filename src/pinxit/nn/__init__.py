"""Building blocks of the networks; knows torch only."""
