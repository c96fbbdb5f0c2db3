"""The server's log as lines of JSON."""

import json
import logging
from collections.abc import Mapping

__all__ = ["JSONLines"]


class JSONLines(logging.Formatter):
    """Formats each record as one line of JSON, which includes the traceback if there is one.

    The server's own records become their fields. For a request, these are `method`, `path`,
    `status`, `ms` and `request_id`, and for an upstream's answer also `upstream_request_id`. The
    text of any other record becomes `message`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = record.args if isinstance(record.args, Mapping) else None
        line = dict(fields) if fields else {"message": record.getMessage()}
        if record.levelno > logging.INFO:
            line = {"level": record.levelname.lower(), **line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
