"""The operator's console: a web page in front of a server's API, as a client with the user's token.

context     what pages and routes share, and the console's settings
sessions    who is logged in: a sealed cookie, whose key is in the data folder; tries are limited
upstream    connections to the server, one a token; what it sends of devices and results; pictures
app         the web application: routes, headers
login       the log-in form
pages       one page a file, in NiceGUI
view        what pages show, as values: no NiceGUI there
child       `serve --console`: the console as a child process that is kept running
"""
