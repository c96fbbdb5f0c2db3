"""JPEG files with many scans, and of kinds that Pillow does not write."""

import base64
import io

from PIL import Image

NON_INTERLEAVED = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAGNjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2"
    "NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAQABgDAREAAhEAAxEA/8QAFQABAQAAAAAAAAAAAAAAAAAAAQL/xAAb"
    "EAABBQEBAAAAAAAAAAAAAAACAAEhgcESMv/aAAgBAQAAPwAF4KtU9ykngbxItBVqniUk3m8X/8QAFgEBAQEAAAAAAA"
    "AAAAAAAAAAAgEA/8QAGREAAgMBAAAAAAAAAAAAAAAAAAECMYER/9oACAECEQA/AFJ1oeii7w0lWk4WKvD/xAAVAQEB"
    "AAAAAAAAAAAAAAAAAAACAP/EABoRAAEFAQAAAAAAAAAAAAAAAAABAjGBwRH/2gAIAQMRAD8Ab1i8D0TFmtJ6ReB4Ji"
    "TWn//Z"
)
"""Written by `cjpeg -scans` of libjpeg-turbo: a sequential file with a scan for each component."""

ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAGNjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2"
    "NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/ygARCAAQABgDAREAAhEAAxEA/8wABgAQARD/2gAMAwEAAhADEAAAAd53JnxY"
    "/8wABBAF/9oACAEBAAEFAsD/zAAEEQX/2gAIAQMBAT8BNMbA/8wABBEF/9oACAECAQE/ATTGwP/MAAQQBf/aAAgBAQ"
    "AGPwLA/8wABBAF/9oACAEBAAE/IQknz8RcgP/aAAwDAQACAAMAAAAQyxtA/8wABBEF/9oACAEDAQE/ELzxdsPIcmf8"
    "+BGHgP/MAAQRBf/aAAgBAgEBPxB54vQv/wDuKoD/zAAEEAX/2gAIAQEAAT8QJyq/LG60/wAiTqoQ/9k="
)
"""Written by `cjpeg -arithmetic -progressive` of libjpeg-turbo, in 10 scans."""


def with_scans(count: int, side: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan is repeated until it has `count` scans.

    Each extra scan has a few bytes, and costs a decoder a pass over the whole image.
    """
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - 6) + data[-2:]
