"""Running models: a language model is a URL that speaks the OpenAI HTTP API, whoever serves it."""
