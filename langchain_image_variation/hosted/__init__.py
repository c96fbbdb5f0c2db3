"""Clients and engines that ask a server, and the endpoint they speak to."""
