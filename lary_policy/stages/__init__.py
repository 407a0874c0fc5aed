"""Glue between configuration and library: one function a stage, each resumable."""
