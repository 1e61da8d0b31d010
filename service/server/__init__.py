"""The server: `launch` starts it, `draining_server` drains it, `listener` and `connection` limit its connections."""
