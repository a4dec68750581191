"""Defaults and validation of the parts that several kinds share: metadata, pod templates, selectors, ports."""
