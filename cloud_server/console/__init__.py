"""The operator's console: a web page in front of a server's API, as a client with the user's token.

context     what pages and routes share, and the console's settings
sessions    who is logged in: a sealed cookie, whose key is in the data folder; tries are limited
upstream    connections to the server, one a token; what it sends of devices and results
pictures    reconstructions and thumbnails, each asked for once
gateway     in front of all: the path of a proxy, HEAD, headers
app         the web application: routes
login       the log-in form
downloads   results as files
playback    what the player asks for: frames by the batch, the time of the log, marks
pages       one page a file, in NiceGUI
view        what pages show, as values: no NiceGUI there
child       `serve --console`: the console as a child process that is kept running
"""
