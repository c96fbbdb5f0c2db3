"""What an agent calls: the LangChain tool, the LlamaIndex tool spec, and what both share."""
