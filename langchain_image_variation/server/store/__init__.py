"""The store: where a server keeps the images that it answers as URLs, and recorded answers.

`image_store` says what a store is, and `choice` opens the one that a server was asked for. There
are two kinds, each with the answers that it records: `folder_store` and `url_store`.
"""
