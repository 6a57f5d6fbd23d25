"""The ways to run a model.

A language model is a URL that answers the OpenAI HTTP API, whoever serves it.
"""
