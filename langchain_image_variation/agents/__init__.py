"""The tool for agents: as a LangChain tool, as a LlamaIndex tool spec, and the call behind both."""
