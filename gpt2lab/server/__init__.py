"""The HTTP server: OpenAI's completions and chat, and the calls of the editor page.

`schema` says what may be asked, `scheduler` runs the models, `app` has the routes. It needs the
extra `serve`; nothing else of the package imports it, but the command.
"""
