"""One paper a file: trained parts and what a person can ask of them."""
