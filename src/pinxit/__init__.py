"""pinxit: pictures from text, by the systems that the DALL·E papers opened."""

__version__ = "0.1.0"
