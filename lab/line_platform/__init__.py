"""A stand-in for the LINE platform.

It answers as ``api.line.me`` and ``api-data.line.me`` the way LINE's published API description
(github.com/line/line-openapi and developers.line.biz) says, sends webhooks, and does on request
what the real platform does only on bad days. ``client.Control`` steers it; README.md has examples.
"""
