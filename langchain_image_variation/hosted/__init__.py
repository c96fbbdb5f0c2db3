"""The client and the engines that call a server."""
