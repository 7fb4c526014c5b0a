"""Greets whoever calls, by name if the body gives one: {"name":"Ada"}."""

import io
import json

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    try:
        name = json.loads(data.getvalue())["name"]
    except (ValueError, LookupError, TypeError):
        # Whoever sends something else is greeted, too.
        name = "World"
    return response.Response(
        ctx,
        response_data=json.dumps({"message": f"Hello {name}"}),
        headers={"Content-Type": "application/json"},
    )
