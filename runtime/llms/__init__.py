"""Asking language models: one client layer over every provider of teachers, critics and evaluators."""
