"""Folders of config.json and safetensors: saved atomically, loaded strictly."""
