"""`moslim serve`: a policy behind OpenAI's chat interface, with targets in the request.

`errors` and `request` say what may be asked and how a refusal looks; `local` answers with the model itself, `upstream` with a server that
runs it; `app` is the HTTP side, `metrics` what is counted, `command` the process.
"""
