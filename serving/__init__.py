"""The API server: requests in OpenAI's form, one thread that speaks them together, audio encoded as it is made."""
