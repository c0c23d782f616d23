"""The server of answers: OpenAI's protocol, with the search visible."""
