"""The mathematics of noise, over any callable: levels, samplers, guidance. No network is known here."""
