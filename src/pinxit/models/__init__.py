"""One network a file, each under a frozen config."""
