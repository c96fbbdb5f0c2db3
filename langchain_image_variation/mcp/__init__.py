"""The MCP server: the tool for hosts that speak the Model Context Protocol. Needs the extra `mcp`.

The library of the protocol has the same name. Imports are absolute, so `mcp` is always the library.
"""
